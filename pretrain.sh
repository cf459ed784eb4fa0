#!/usr/bin/env bash
# bash pretrain.sh [CONFIG.yaml] [--key value ...]
# Pre-trains; without a config: the built-in demo, whose data it makes first. Makes the environment if there is none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/env.sh requirements.txt

case ${1-} in
    "" | -* | *demo.yaml) "$PYTHON" data/demo.py ;;
esac
exec "$PYTHON" pretrain.py "$@"
