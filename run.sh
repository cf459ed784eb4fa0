#!/usr/bin/env bash
# bash run.sh                                                   a shell in the Docker image, which is built first
# bash run.sh pretrain|finetune|test [OPTIONS]                  pretrain.sh, finetune.sh or tests/run.sh in it
# bash run.sh tensorboard [OPTIONS]                             TensorBoard of runs/, at http://127.0.0.1:6006 on the host
# bash run.sh COMMAND ...                                       any other command
# TENSORBOARD_PORT=6007 publishes TensorBoard elsewhere on the host, as a second shell must.
# SIMCSP_GPUS=device=1 gives one GPU, SIMCSP_GPUS= none; the default is all, where the host has any.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

fail() {
    echo "error: $*" >&2
    exit 2
}

command -v docker >/dev/null || fail "no docker command found: install Docker Engine, or use pretrain.sh without it"
info=$(docker info 2>&1) || fail "Docker is installed, but its engine does not answer: ${info##*$'\n'}"

# Docker itself would create a missing folder as root.
mkdir -p data runs configs models
options=(--rm --init --interactive --shm-size 8g --publish "127.0.0.1:${TENSORBOARD_PORT:-6006}:6006")
for folder in data runs configs models; do
    options+=(--volume "$PWD/$folder:/workspace/$folder")
done
# Lets a run record its commit; the code in the image was just built from this checkout.
if [ -d .git ]; then
    options+=(--volume "$PWD/.git:/workspace/.git:ro")
fi
# What a run writes belongs to the caller. Where the engine is rootless, the container's root is the caller.
if [[ $info =~ rootless(: true)?($|$'\n') ]]; then
    options+=(--user 0:0)
else
    options+=(--user "$(id -u):$(id -g)")
fi
if [ -t 0 ] && [ -t 1 ]; then
    options+=(--tty)
fi
# The caller's pip fetches data in there: its settings go with it.
for name in $(compgen -e | grep -E '^PIP_(NO_)?(INDEX|EXTRA_INDEX|TRUSTED|PROXY|DEFAULT_TIMEOUT)|^(https?|no|all)_proxy$|^(HTTPS?|NO|ALL)_PROXY$'); do
    options+=(--env "$name")
done
for file in "${PIP_CONFIG_FILE-}" ~/.config/pip/pip.conf ~/.pip/pip.conf /etc/pip.conf; do
    [ -f "$file" ] && options+=(--volume "$file:/etc/pip.conf:ro") && break
done
gpus=${SIMCSP_GPUS-all}
torch=cpu
if [ -n "$gpus" ] && nvidia-smi --list-gpus >/dev/null 2>&1; then
    options+=(--gpus "$gpus")
    torch=cuda
fi
case ${1-} in
    pretrain | finetune) set -- bash "$1.sh" "${@:2}" ;;
    test) set -- bash tests/run.sh "${@:2}" ;;
    tensorboard) set -- tensorboard --logdir=runs "${@:2}" ;;
esac

docker build --build-arg "TORCH=$torch" --tag simcsp . >&2 || fail "docker build failed: see above"
exec docker run "${options[@]}" simcsp "${@:-bash}"
