#!/usr/bin/env bash
# bash scripts/reproduce.sh NAME
# Runs what a table of the record was made by, from an empty clone: data, training, scores. docs/reproduce.md says what each
# NAME is, how long it takes and what to compare. What is finished already is not run again.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
names="default simcse benchmark shallow species recommended wide-probe answer answer-miniature tiny miniature bases bases-fast splicebert"
if [[ " $names " != *" ${1-} "* ]]; then
    echo "error: scripts/reproduce.sh ${1-}: give one of $names" >&2
    exit 2
fi
source scripts/env.sh requirements.txt
export PYTHON OMP_NUM_THREADS=1

floors() { # NAME WINDOWS NEGATIVES CONTEXT FOLDS: weight matrix and linear model, by site type, scored on the benchmark
    "$PYTHON" finetune.py configs/chr19.yaml --name "$1" --data.spliceator "data/windows/$2" --data.negatives "$3" \
        --data.context "$4" --data.selection_share 0.05 --data.motif_bed null --data.motif_fasta null \
        --finetune.arms "[pwm, linear]" --finetune.sites "[donor, acceptor, both]" --finetune.folds "$5" \
        --finetune.train_windows "[null]"
    "$PYTHON" evaluate.py benchmark "runs/$1"
}

experiment() { # CONFIG OPTIONS
    "$PYTHON" pretrain.py "$@"
    "$PYTHON" finetune.py "$@"
}

case ${1-} in
    default)
        bash scripts/data.sh chr19
        experiment configs/chr19.yaml
        ;;
    simcse)
        bash scripts/data.sh chr19
        experiment configs/chr19-simcse.yaml
        ;;
    benchmark)
        bash scripts/data.sh genes
        floors genes-GS_1 genes GS_1 126 null
        floors genes-GS_false genes GS_false 126 null
        ;;
    shallow)
        bash scripts/data.sh genes
        floors shallow-GS_1 genes GS_1 126 "[0]"
        floors shallow-GS_false genes GS_false 126 "[0]"
        ;;
    species)
        bash scripts/data.sh species
        floors species species GS_false 100 "[0]"
        ;;
    recommended)
        bash scripts/data.sh chr19 chr3
        experiment configs/recommended.yaml
        ;;
    wide-probe)
        bash scripts/data.sh chr19 chr3
        "$PYTHON" finetune.py configs/wide-probe.yaml
        ;;
    answer)
        bash scripts/data.sh chr19 chr3
        experiment configs/answer.yaml
        ;;
    answer-miniature)
        bash scripts/data.sh chr19 chr3
        small=(configs/answer.yaml --model.source models/simcsp-small --pretrain.seeds "[0,1,2]")
        experiment "${small[@]}" --name answer-miniature
        experiment "${small[@]}" --name answer-miniature-joint --pretrain.mlm_weight 1.0 --pretrain.control false \
            --finetune.arms "[last]"
        ;;
    tiny | miniature)
        "$PYTHON" data/fetch.py chr19
        "$PYTHON" pretrain.py "configs/$1.yaml"
        ;;
    bases | bases-fast)
        "$PYTHON" data/fetch.py chr19 genes regions introns
        "$PYTHON" finetune.py "configs/small-$1.yaml"
        ;;
    splicebert)
        "$PYTHON" data/fetch.py chr19 genes mfass mfass-peers vexseq conservation branchpoints attention
        bash scripts/data.sh chr19 genes chr3
        small=(configs/answer.yaml --model.source models/simcsp-small --pretrain.seeds "[0]")
        "$PYTHON" pretrain.py "${small[@]}" --name contrast-mlm --pretrain.mlm_weight 1.0
        "$PYTHON" pretrain.py "${small[@]}" --name contrast --pretrain.control false --finetune.arms "[last]"
        last=pretrain/checkpoints/last
        "$PYTHON" evaluate.py splicebert models/simcsp-small runs/contrast-mlm/$last runs/contrast/$last \
            runs/contrast-mlm/control/checkpoints/last models/simcsp-small-bases configs/chr19.yaml \
            --data.motif_bed null --data.motif_fasta null --precision fp32 --fresh
        ;;
esac
