#!/usr/bin/env bash
# bash scripts/data.sh chr19|genes|chr3|species ...
# Real data for the configurations: fetches what is not here yet (data/fetch.py) and cuts labelled windows and motif sites
# from it. What is there already is left alone. Status 3 where pip reaches no index.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
[ -n "${PYTHON-}" ] || source scripts/env.sh requirements.txt

# windows NAME OPTIONS...: data/windows/NAME, made aside, so that an interrupted run leaves nothing half made
windows() {
    [ -d "data/windows/$1" ] && return
    rm -rf "data/windows/.$1"
    "$PYTHON" data/windows.py --out "data/windows/.$1" "${@:2}"
}

sites() {
    "$PYTHON" data/motifs.py --out "data/windows/.$1/motifs.bed.gz" "${@:2}"
}

done_with() {
    mv "data/windows/.$1" "data/windows/$1"
}

for name in "$@"; do
    case $name in
        chr19) # labels from the second half: the first is text
            "$PYTHON" data/fetch.py chr19
            [ -d data/windows/chr19 ] && continue
            half=(--fasta data/chr19.fa.gz --annotation data/chr19.gff3.gz --transcripts ccds --records 19:30000001-58617616)
            windows chr19 "${half[@]}" --negatives false --per-class 600
            sites chr19 "${half[@]}" --per-label 150
            done_with chr19
            ;;
        genes) # chr1 to train and choose on, chr3 to score once
            "$PYTHON" data/fetch.py genes
            [ -d data/windows/genes ] && continue
            chr1=(--fasta data/genes/chr1.fa --annotation data/genes/chr1.gtf)
            chr3=(--fasta data/genes/chr3.fa --annotation data/genes/chr3.gtf)
            windows genes "${chr1[@]}"
            "$PYTHON" data/windows.py --out data/windows/.genes "${chr1[@]}" --negatives false
            "$PYTHON" data/windows.py --out data/windows/.genes "${chr3[@]}" --benchmark Human
            "$PYTHON" data/windows.py --out data/windows/.genes "${chr3[@]}" --benchmark Human-false --negatives false
            sites genes "${chr1[@]}" --per-label 2000
            done_with genes
            ;;
        chr3) # the other way round, for configs/answer.yaml
            "$PYTHON" data/fetch.py genes
            [ -d data/windows/chr3 ] && continue
            windows chr3 --fasta data/genes/chr3.fa --annotation data/genes/chr3.gtf --negatives false
            "$PYTHON" data/windows.py --out data/windows/.chr3 --fasta data/genes/chr1.fa --annotation data/genes/chr1.gtf \
                --benchmark Human --negatives false
            done_with chr3
            ;;
        species) # worm to train on, fission yeast and human as benchmarks: 100 nt, as these introns have 50 nt of exon
            "$PYTHON" data/fetch.py introns genes
            [ -d data/windows/species ] && continue
            rm -rf data/windows/.species
            mkdir -p data/windows/.species/source
            for code in CaeEle SchPom; do
                for kind in fa gtf; do
                    awk -v code="$code" '/^>/ { on = index($0, ">" code "-") == 1 } index($0, code "-") == 1 || on' \
                        "data/introns/multispecies.$kind" >"data/windows/.species/source/$code.$kind"
                done
            done
            short=(--out data/windows/.species --length 100 --negatives false)
            worm=data/windows/.species/source/CaeEle pombe=data/windows/.species/source/SchPom
            "$PYTHON" data/windows.py "${short[@]}" --fasta $worm.fa --annotation $worm.gtf
            "$PYTHON" data/windows.py "${short[@]}" --fasta $pombe.fa --annotation $pombe.gtf --benchmark Pombe
            "$PYTHON" data/windows.py "${short[@]}" --fasta data/genes/chr3.fa --annotation data/genes/chr3.gtf --benchmark Human
            rm -rf data/windows/.species/source
            done_with species
            ;;
        *)
            echo "error: scripts/data.sh $name: chr19, genes, chr3 or species" >&2
            exit 2
            ;;
    esac
done
