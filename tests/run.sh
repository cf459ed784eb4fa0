#!/usr/bin/env bash
# bash tests/run.sh [PYTEST OPTIONS]
# Sets up what the tests need and runs them; `-m slow` runs the slow ones, `-m ""` all.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source scripts/env.sh requirements-dev.txt

# No test may reach for the network, open a window, or fork after the tokenizers have started threads.
export HF_HUB_OFFLINE=1 MPLBACKEND=Agg TOKENIZERS_PARALLELISM=false
# The whole suite in two processes, the one that is done first taking tests from the other; a part starts faster in one.
[ $# -gt 0 ] || set -- -n 2 --dist worksteal
exec "$PYTHON" -m pytest -q "$@"
