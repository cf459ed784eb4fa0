#!/usr/bin/env bash
# bash benchmarks/gpu.sh [--device cpu --size small] [--out gpu.json] [--parts smoke tests rates peers] [--miniature]
# What this project does on a GPU, in at most eight minutes, from a copy of the working tree; --miniature then trains
# configs/miniature.yaml (python data/fetch.py chr19) for at most seven more; the same command goes on where it was
# stopped. --device cpu tries the script itself, with twenty steps of the miniature. See benchmarks/gpu.py.
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
short=(--device cuda)
case " $* " in *" cpu "*)
    limit=3600
    short=(--device cpu --name miniature-try --mlm.steps 20 --mlm.warmup_steps 2 --mlm.eval_steps 20)
    ;;
esac
timeout "$limit" "$PYTHON" benchmarks/gpu.py ${words[@]+"${words[@]}"} || status=$?
if [ -n "$miniature" ]; then
    # Interrupted, it saves its state, which is no failure.
    timeout --signal INT 420 "$PYTHON" pretrain.py configs/miniature.yaml "${short[@]}" || [ $? = 124 ] || status=1
fi
exit "$status"
