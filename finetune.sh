#!/usr/bin/env bash
# bash finetune.sh [CONFIG.yaml] [--key value ...]
# Fine-tunes every arm on every fold and prints the comparison table; without a config: of the built-in demo.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
# A config is looked for where the caller is, then here; the files that it names are looked for here.
[ "$OLDPWD" = "$PWD" ] || [ ! -f "$OLDPWD/${1-}" ] || set -- "$OLDPWD/$1" "${@:2}"
source scripts/env.sh requirements.txt

case ${1-} in
    "" | -* | *demo.yaml) "$PYTHON" data/demo.py ;;
esac
exec "$PYTHON" finetune.py "$@"
