#!/usr/bin/env bash
# bash workflow/run.sh CONFIG.yaml [SNAKEMAKE OPTIONS]
# Starts Snakemake, or goes on after it was killed: waits for jobs of it that still run, removes its locks, runs again
# what was cut off. One at a time in a project folder.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

fail() {
    echo "error: $*" >&2
    exit 2
}

[ $# -gt 0 ] && [[ $1 != -* ]] || fail "give the YAML of an experiment: bash workflow/run.sh configs/mine.yaml --cores 2"
command -v snakemake >/dev/null || fail "no snakemake command found: see requirements-workflow.txt"
mkdir -p .snakemake
exec 9>>.snakemake/run.lock
flock --nonblock 9 || fail "workflow/run.sh is at work in $PWD: wait for it, or stop it first"
exec 8>>.snakemake/jobs.lock
flock --nonblock 8 || { echo "Waiting for jobs that an earlier start has left behind" >&2 && flock 8; }
exec 8>&-
snakemake --configfile "$1" --cores 1 --unlock >/dev/null 2>&1 || :  # what is wrong is said below
exec snakemake --configfile "$1" --rerun-incomplete "${@:2}"
