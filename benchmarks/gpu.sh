#!/usr/bin/env bash
# bash benchmarks/gpu.sh [--device cpu --size small] [--out gpu.json] [--parts smoke tests rates peers] [--miniature]
# What this project does on a GPU, in at most eight minutes, from a copy of the working tree; --miniature then trains
# configs/miniature.yaml for at most seven more (the same command goes on where it was stopped). See benchmarks/gpu.py.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source scripts/env.sh requirements-dev.txt
miniature=
words=()
for word in "$@"; do
    if [ "$word" = --miniature ]; then miniature=1; else words+=("$word"); fi
done
status=0
limit=480
case " $* " in *" cpu "*) limit=3600 ;; esac  # which tries the script itself
timeout "$limit" "$PYTHON" benchmarks/gpu.py "${words[@]}" || status=$?
if [ -n "$miniature" ]; then
    # Interrupted, it saves its state.
    timeout --signal INT 420 "$PYTHON" pretrain.py configs/miniature.yaml --device cuda || status=$?
fi
exit "$status"
