#!/usr/bin/env bash
# What the image is made of, for Dockerfile and apptainer.def: bash docker/install.sh system|torch|packages
# TORCH=cpu (default) or cuda says which build of torch: PyPI's for Linux brings its own CUDA, some 5 GB.
set -eu
CDPATH= cd -- "$(dirname -- "$0")/.."

pip_install() {
    pip install --no-cache-dir --disable-pip-version-check --root-user-action ignore "$@"
}

case $1 in
    system) # git: a run records its commit
        apt-get update
        apt-get install --yes --no-install-recommends git
        rm -rf /var/lib/apt/lists/*
        git config --system --add safe.directory '*'
        ;;
    torch) # on its own and first: see requirements.txt
        case ${TORCH:-cpu} in
            cpu) set -- --extra-index-url https://download.pytorch.org/whl/cpu ;;
            cuda) set -- ;;
            *) echo "error: TORCH is $TORCH: cpu or cuda" >&2 && exit 2 ;;
        esac
        pip_install "$@" "$(grep -oE '^torch==[^ ]+' requirements.txt)"
        ;;
    packages) # those of development are few, and let the tests run here too
        pip_install -r requirements.txt -r requirements-dev.txt
        ;;
esac
