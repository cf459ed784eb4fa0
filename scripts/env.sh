# Sourced from the project's folder as: source scripts/env.sh REQUIREMENTS_FILE
# Leaves in PYTHON an interpreter that has its packages and those of requirements.txt, or ends the script with one line
# and status 2.
# The active Python is used as it is when it has them in any version (Docker, conda); otherwise the project's own .venv,
# made, finished or brought up to date first.

requirements=$1

fail() {
    echo "error: $*" >&2
    exit 2
}

# Looks packages up by name, without importing them: importing torch alone takes seconds. Says what is missing. A .venv
# made here is left to ready(), because an interrupted or outdated install can have every name and still be wrong.
has_packages() {
    "$1" - requirements.txt "$requirements" 2>/dev/null <<'PROBE'
import re
import sys
from importlib import metadata
from pathlib import Path

lines = [line for path in dict.fromkeys(sys.argv[1:]) for line in Path(path).read_text().splitlines()]
names = [match[0] for line in lines if (match := re.match(r"[\w.-]+", line))]
missing = [name for name in names if not any(metadata.distributions(name=name))]
if missing:
    print(*missing[:3], sep=", ", end=f" and {len(missing) - 3} more" if missing[3:] else "")
    sys.exit(1)
if Path(".venv/requirements.txt").exists() and Path(sys.prefix).resolve() == Path(".venv").resolve():
    sys.exit(1)
PROBE
}

# A finished install leaves copies of what it installed in .venv; an unfinished one leaves an empty copy.
ready() {
    cmp -s requirements.txt .venv/requirements.txt && cmp -s "$requirements" ".venv/$requirements" &&
        .venv/bin/python -c "" 2>/dev/null
}

# ensurepip is what Debian leaves out when its python3-venv package is not installed.
supported() {
    "$1" -c "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))" 2>/dev/null
}

create_venv() {
    local base
    for base in python3 python python3.13 python3.12 python3.11; do
        if supported "$base"; then
            "$base" -m venv --clear .venv >&2 || fail "$base -m venv .venv failed: see above"
            return
        fi
    done
    fail "no Python 3.11 or newer with its venv module found: install one (Debian: python3 and python3-venv)," \
        "or activate an environment that has the packages of $requirements"
}

# What pip is at, from its lines on stdin: in a terminal one line that is rewritten, elsewhere a line a large file. All
# of it goes to the log.
show_progress() {
    local line doing
    while IFS= read -r line; do
        printf '%s\n' "$line" >>.venv/install.log
        case $line in
            *Downloading*" MB)" | *"Using cached"*" MB)") doing="${line#"${line%%[![:space:]]*}"}" ;;
            "Installing collected packages: "*)
                doing=${line//[^,]/}
                doing="Installing $((${#doing} + 1)) packages"
                ;;
            Collecting* | Processing*) [ -t 2 ] && doing=$line || continue ;;
            *) continue ;;
        esac
        if [ -t 2 ]; then printf '\r\033[K  %.75s' "$doing" >&2; else echo "  $doing" >&2; fi
    done
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
}

pip_install() {
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off "$@" 2>&1 | show_progress ||
        fail "pip install $* failed: $(tail -n 1 .venv/install.log)" \
            "(all of it: .venv/install.log). Check network and disk, then run the same command again"
}

make_venv() {
    echo "Making .venv${lacking:+, as the active Python lacks $lacking}: some minutes, up to 2 GB" >&2
    supported .venv/bin/python || create_venv
    : >.venv/requirements.txt
    : >.venv/install.log
    rm -f .venv/requirements-dev.txt
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >>.venv/install.log 2>&1 ||
        fail "no pip in .venv: $(tail -n 1 .venv/install.log)"
    # On its own and first: a package that needs torch would otherwise choose its version and build.
    pip_install "$(grep -oE '^torch==[^ ]+' requirements.txt)"
    if [ "$requirements" = requirements.txt ]; then
        pip_install -r requirements.txt
    else
        pip_install -r requirements.txt -r "$requirements"
        cp "$requirements" .venv/
    fi
    cp requirements.txt .venv/
}

# Two scripts started together: the second waits, then finds the work done.
make_venv_once() {
    if command -v flock >/dev/null; then
        flock -n 9 || { echo "Waiting for another script that is making .venv" >&2 && flock 9; }
    fi
    ready || make_venv
}

lacking=
for name in python python3; do
    PYTHON=$(type -P "$name") || continue
    if missing=$(has_packages "$PYTHON"); then
        return
    fi
    lacking=${lacking:-$missing}
done
ready || (make_venv_once) 9>>.venv.lock || exit 2
PYTHON=$PWD/.venv/bin/python
export VIRTUAL_ENV=$PWD/.venv PATH=$PWD/.venv/bin:$PATH
