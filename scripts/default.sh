# Sourced by pretrain.sh and finetune.sh: brings the data of chr19*.yaml and demo.yaml. Where "$@" names no config, it puts
# the default one first: configs/chr19.yaml, or the synthetic demo where pip reaches no index and chr19 is not here.

case ${1-} in
    "" | -*)
        config=configs/chr19.yaml
        # what pre-training chose, fine-tuning follows
        [ -z "${follows-}" ] || [ -d runs/chr19/pretrain ] || [ ! -d runs/demo/pretrain ] || config=configs/demo.yaml
        set -- "$config" "$@"
        named=
        ;;
    *) named=yes ;;
esac
case $1 in
    *chr19*.yaml)
        status=0
        PYTHON=$PYTHON bash scripts/data.sh chr19 >&2 || status=$?
        if [ "$status" = 3 ] && [ -z "$named" ]; then
            echo "NO REAL DNA: pip reaches no index that has it (see above). The SYNTHETIC demo runs instead: configs/demo.yaml" >&2
            set -- configs/demo.yaml "${@:2}"
        elif [ "$status" != 0 ]; then
            exit 2
        fi
        ;;
esac
case $1 in
    *demo.yaml) "$PYTHON" data/demo.py ;;
esac
