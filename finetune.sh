#!/usr/bin/env bash
# bash finetune.sh [CONFIG.yaml] [--key value ...]
# Fine-tunes every arm on every fold and prints the comparison table; without a config: of what pretrain.sh chose.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
# A config is looked for where the caller is, then here; the files that it names are looked for here.
[ "$OLDPWD" = "$PWD" ] || [ ! -f "$OLDPWD/${1-}" ] || set -- "$OLDPWD/$1" "${@:2}"
source scripts/env.sh requirements.txt

case " $* " in
    *" --help "* | *" -h "*) exec "$PYTHON" finetune.py "$@" ;;
esac
follows=pretrain
source scripts/default.sh
exec "$PYTHON" finetune.py "$@"
