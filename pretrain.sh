#!/usr/bin/env bash
# bash pretrain.sh [CONFIG.yaml] [--key value ...]
# Pre-trains; without a config: on human chr19, which it fetches first (configs/chr19.yaml). Makes the environment if there
# is none.
# Where torch sees several GPUs: one process on each, as many as can share every batch evenly (docs/distributed.md).
set -euo pipefail
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
# A config is looked for where the caller is, then here; the files that it names are looked for here.
[ "$OLDPWD" = "$PWD" ] || [ ! -f "$OLDPWD/${1-}" ] || set -- "$OLDPWD/$1" "${@:2}"
source scripts/env.sh requirements.txt

case " $* " in
    *" --help "* | *" -h "* | *" --dry-run "* | *" --init "*) exec "$PYTHON" pretrain.py "$@" ;;
esac
source scripts/default.sh

gpus=1
if command -v nvidia-smi >/dev/null && [ "$(nvidia-smi --list-gpus 2>/dev/null | grep -c ^GPU)" -gt 1 ]; then
    gpus=$("$PYTHON" -m utils.gpus "$@") # those of CUDA_VISIBLE_DEVICES, or fewer
fi
[ "$gpus" -gt 1 ] || exec "$PYTHON" pretrain.py "$@"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(nproc) - 1) / gpus + 1))}
exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$gpus" pretrain.py "$@"
