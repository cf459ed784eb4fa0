#!/usr/bin/env bash
# bash tests/run.sh [PYTEST OPTIONS]
# Sets up what the tests need and runs them; `-m slow` runs the slow ones, `-m ""` all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source utils/env.sh requirements-dev.txt

# No test may reach for the network, open a window, or fork after the tokenizers have started threads.
export HF_HUB_OFFLINE=1 MPLBACKEND=Agg TOKENIZERS_PARALLELISM=false
exec "$PYTHON" -m pytest -q "$@"
