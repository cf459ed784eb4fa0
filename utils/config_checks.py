"""Invalid settings, alone or in combination, and missing files: a line for each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from simcsp.core.config import PLAIN, STAGES, BasesConfig, Config, DataConfig, FinetuneConfig, MlmConfig, is_plain_name
from simcsp.core.run_layout import stage_name


def model_faults(config: Config) -> Iterator[str]:
    """A line for each: heads that do not divide the width, windows that are longer than what the model takes."""
    model, data = config.model, config.data
    if model.hidden_size % model.num_attention_heads:
        yield (
            f"model.num_attention_heads ({model.num_attention_heads}) "
            f"must divide model.hidden_size ({model.hidden_size})"
        )
    used = {
        "window": config.mlm.steps or config.pretrain.steps or config.evaluate.mlm_fasta is not None,
        "context": data.spliceator is not None,
        "motif_window": data.motif_bed is not None,
    }
    longest, of = model.max_position_embeddings, f"model.max_position_embeddings ({model.max_position_embeddings})"
    if model.source is not None:
        longest, of = positions_of(model.source), f"what {model.source} takes"
    for name in (name for name in used if used[name] and longest is not None):
        if getattr(data, name) + 2 > longest:
            yield (
                f"data.{name} ({getattr(data, name)} nt) and 2 for [CLS] and [SEP] do not fit in {of}: "
                f"at most {longest - 2} nt"
            )


def positions_of(source: str) -> int | None:
    """Longest input, in tokens, of a checkpoint folder by its config.json; None where there is none to read."""
    try:
        positions = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a hub id, or a folder whose faults whoever loads it says
    return positions if isinstance(positions, int) else None


def missing_files(data: DataConfig) -> list[str]:
    """A line for each missing file that pre-training would read."""
    named = [(name, path) for name in ("fasta", "annotation") for path in getattr(data, name)]
    named += [(name, getattr(data, name)) for name in ("spliceator", "motif_bed", "motif_fasta")]
    return [f"data.{name}: {absent(path)}" for name, path in named if path and not Path(path).exists()]


def absent(path: str) -> str:
    """That a file is not there, and the command that brings it where the project has one."""
    from data.sources import DATA_SETS

    place = Path(path)
    commands = {
        f"data/windows/{name}": f"bash scripts/data.sh {name}" for name in ("chr19", "genes", "chr3", "species")
    }
    commands |= {"data/demo": "python data/demo.py"}
    commands |= {f"data/{to}": f"python data/fetch.py {key}" for key, data in DATA_SETS.items() for to in data.places}
    for known, command in commands.items():
        if place == Path(known) or Path(known) in place.parents:
            return f"{path} does not exist, and comes by: {command}"
    return f"{path} does not exist"


def data_faults(data: DataConfig) -> Iterator[str]:
    """A line for each: windows without a centre, files that do not go together, too few folds."""
    for name in ("context", "motif_window"):
        if getattr(data, name) % 2:
            yield f"data.{name} ({getattr(data, name)}) must be even: the site is at the centre"
    if data.corpus == "annotated" and data.window % 2:
        yield f"data.window ({data.window}) must be even: data.corpus annotated has the site at the centre"
    is_cut = data.motif_bed is not None and data.motif_bed.endswith(".npz")
    if is_cut and data.motif_fasta is not None:
        yield f"data.motif_bed ({data.motif_bed}) holds windows cut already: set data.motif_fasta to null"
    if not is_cut and (data.motif_bed is None) != (data.motif_fasta is None):
        yield "data.motif_bed and data.motif_fasta go together: give both, neither, or an .npz as motif_bed"
    if data.folds == "grouped" and data.num_folds < 4:
        yield f"data.num_folds ({data.num_folds}) must be at least 4: one validation, two test, the rest train"


def training_faults(config: Config, one_job: bool) -> Iterator[str]:
    """A line for each. one_job: the config is what one fold has saved, so it names that fold alone."""
    yield from _finetune_faults(config.finetune, config.data, one_job)
    yield from _seed_faults(config)
    yield from _only_faults(config)
    yield from _bases_faults(config)
    yield from _stage_faults(config, "mlm", "mlm")
    yield from _stage_faults(config, "pretrain", config.pretrain.objective)


def _finetune_faults(finetune: FinetuneConfig, data: DataConfig, one_job: bool) -> Iterator[str]:
    yield from _list_faults(finetune)
    yield from _probe_faults(finetune, data)
    if finetune.draws > 1 and finetune.train_windows == [None]:
        yield f"finetune.draws ({finetune.draws}): finetune.train_windows is null alone, which leaves nothing to draw"
    if finetune.select_epoch == "shared":
        yield from _shared_epoch_faults(finetune, None if one_job else data.fold_count)
    stages = f"finetune.stages ([{', '.join(finetune.stages)}])"
    if finetune.stages != [stage for stage in STAGES if stage in finetune.stages]:
        yield f"{stages} must keep to the order {', '.join(STAGES)}, each at most once"
    if not {"head", "full", "probe"} & set(finetune.stages):
        yield f"{stages} must hold head or full: without them no classifier is trained"
    if "supcon" in finetune.stages and finetune.supcon_batch_size < 2:
        yield "finetune.supcon_batch_size must be at least 2: supcon compares the windows of a batch"


def _probe_faults(finetune: FinetuneConfig, data: DataConfig) -> Iterator[str]:
    if "probe" in finetune.stages and len(finetune.stages) > 1:
        stages = f"finetune.stages ([{', '.join(finetune.stages)}])"
        yield f"{stages}: probe stands alone, the encoder is that of the arm"
    if finetune.probe_on == "annotation" and (finetune.stages != ["probe"] or finetune.train_windows != [None]):
        yield "finetune.probe_on (annotation) uses no label: set finetune.stages to [probe] and train_windows to [null]"
    if finetune.probe_flank is not None and finetune.stages != ["probe"]:
        yield f"finetune.probe_flank ({finetune.probe_flank}) is of the probe: set finetune.stages to [probe]"
    if finetune.probe_flank is not None and 2 * finetune.probe_flank > data.context:
        yield f"finetune.probe_flank ({finetune.probe_flank}) is more than half of data.context ({data.context})"
    if finetune.probe_layer is not None and finetune.probe_flank is None:
        yield f"finetune.probe_layer ({finetune.probe_layer}) goes with finetune.probe_flank, which is null"


def _shared_epoch_faults(finetune: FinetuneConfig, count: int | None) -> Iterator[str]:
    """Of the published rule. count: of folds, which it takes all together; None: one fold's own config."""
    if finetune.stages != ["full"]:
        shown = f"finetune.stages ([{', '.join(finetune.stages)}])"
        yield f"{shown}: finetune.select_epoch shared, the published rule, knows the stage full alone"
    if count and finetune.folds and not set(range(count)) <= set(finetune.folds):
        yield (
            f"finetune.folds ([{', '.join(map(str, finetune.folds))}]): finetune.select_epoch shared picks one epoch "
            f"by the mean of all {count} folds; set folds to null, or select_epoch to per_fold"
        )


def _list_faults(finetune: FinetuneConfig) -> Iterator[str]:
    """Of lists that name what is fitted: empty ones, repetitions, arms whose names cannot be folders."""
    for name in ("arms", "sites", "folds", "seeds", "train_windows"):
        values = getattr(finetune, name)
        if values is None:
            continue
        shown = f"finetune.{name} ([{', '.join(map(str, values))}])"
        if not values:
            yield f"{shown} is empty: name at least one" + (", or null for all" if name == "folds" else "")
        names = ["null" if value is None else str(value).partition("=")[0] for value in values]
        if repeated := sorted({value for value in names if names.count(value) > 1}):
            yield f"{shown} names {', '.join(repeated)} more than once"
    for arm in finetune.arms:
        if not is_plain_name(arm.partition("=")[0]) or "\0" in arm or "\n" in arm:
            yield f"finetune.arms: {arm!r} does not begin with a plain name: {PLAIN}"


def _seed_faults(config: Config) -> Iterator[str]:
    seeds = config.pretrain.seeds
    if seeds is None:
        return
    shown = f"pretrain.seeds ([{', '.join(map(str, seeds))}])"
    if not seeds:
        yield f"{shown} is empty: name at least one, or null for `seed` alone"
    if len(set(seeds)) < len(seeds):
        yield f"{shown} has duplicates"
    if len(seeds) > 1 and config.search.trials:
        yield f"{shown}: a search trains one seed a trial, set seeds to null"


def _only_faults(config: Config) -> Iterator[str]:
    only, pretrain = config.only, config.pretrain
    if only is None:
        return
    parts = {"data", *(name for name in ("mlm", "pretrain") if getattr(config, name).steps)}
    parts |= {"control"} if pretrain.control and pretrain.steps else set()
    if len(config.pretrain_seeds) > 1:
        parts |= {stage_name(name, seed) for name in parts & {"pretrain", "control"} for seed in config.pretrain_seeds}
    if unknown := [name for name in only if name not in parts]:
        yield f"only: {unknown[0]!r} is none of the parts of this pre-training: {', '.join(sorted(parts))}"
    if not only:
        yield "only: name at least one part, or null for all"
    elif config.search.trials:
        yield "only does not go with a search"


def _bases_faults(config: Config) -> Iterator[str]:
    bases = config.bases
    if config.finetune.task == "windows":
        return
    yield from _held_out_faults(bases)
    yield from _network_faults(bases)
    if 2 * bases.edge >= bases.tile:
        yield f"bases.edge ({bases.edge}) leaves nothing of bases.tile ({bases.tile}): twice it must be less"
    yield from _letters_faults(config)
    for name in ("ccds", "grafts"):
        files = bases.annotation if name == "ccds" else bases.fasta
        if foreign := [path for path in getattr(bases, name) if path not in files]:
            yield f"bases.{name}: {foreign[0]} is none of bases.{'annotation' if name == 'ccds' else 'fasta'}"
    if bases.tiles < 3:
        yield f"bases.tiles ({bases.tiles}) must be at least 3: the outer two are not learnt from"
    if bases.long_share and bases.stretches % 2:
        yield f"bases.stretches ({bases.stretches}) must be even under bases.long_share, which halves them"


def _letters_faults(config: Config) -> Iterator[str]:
    """Of the arm cnn, which reads letters alone."""
    bases, has_cnn = config.bases, "cnn" in config.finetune.arms
    if not bases.channels and has_cnn:
        yield "bases.channels is 0, a linear layer on an encoder, but finetune.arms has cnn, which has no encoder"
    if bases.source is not None and not has_cnn:
        yield f"bases.source ({bases.source}) is where the arm cnn starts: finetune.arms has no cnn"
    if bases.source is not None and len(config.finetune.folds or bases.parts) > 1:
        yield f"bases.source ({bases.source}) has read what other folds test on: name one fold in finetune.folds"


def _network_faults(bases: BasesConfig) -> Iterator[str]:
    if bases.coarse_dilations and (bases.tile - 2 * bases.edge) % bases.stride:
        yield f"bases.stride ({bases.stride}) must divide bases.tile ({bases.tile}) less twice bases.edge"
    if bases.decay_share > 1:
        yield f"bases.decay_share ({bases.decay_share}) must be at most 1: it is a share of bases.steps"


def _held_out_faults(bases: BasesConfig) -> Iterator[str]:
    if not bases.fasta or len(bases.fasta) != len(bases.annotation):
        yield f"bases.annotation must name a file for each of bases.fasta ({len(bases.fasta)}), and at least one"
    if len(bases.parts) < 2 or not all(bases.parts):
        yield "bases.parts must name the records of at least two parts: one to test on, one to select on"
    names = [name for part in bases.parts for name in part] + bases.ignore
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        yield f"bases.parts, bases.ignore: {', '.join(repeated)} in more than one of them: folds would overlap"


def _stage_faults(config: Config, stage: str, objective: str) -> Iterator[str]:
    try:
        from simcsp.training.objectives import OBJECTIVES, inapplicable_fields  # torch: seconds
    except ModuleNotFoundError:  # Snakemake's environment, which has no torch: the jobs say what is wrong
        return
    section = getattr(config, stage)
    if objective not in OBJECTIVES:
        yield f"{stage}.objective: unknown {objective!r}, choose from {', '.join(OBJECTIVES)}"
        return
    if not section.steps:
        return
    yield from _length_faults(section, stage, config.data.window)
    if objective != "mlm" and section.batch_size < 2:
        yield f"{stage}.batch_size must be at least 2: {objective} takes its negatives from the batch"
    if OBJECTIVES[objective].with_classes and config.data.corpus != "annotated":
        yield f"{stage}.objective ({objective}) needs classes of windows: set data.corpus to annotated"
    if not config.data.fasta and config.data.corpus != "dataset":
        yield f"data.fasta is empty: {stage} needs genome text (or set {stage}.steps to 0)"
    defaults = inapplicable_fields(objective) if stage == "pretrain" else {}
    for name in (name for name, default in defaults.items() if getattr(section, name) != default):
        yield f"pretrain.{name} ({getattr(section, name)}) does not apply to {objective}: set it to {defaults[name]}"


def _length_faults(section: MlmConfig, stage: str, window: int) -> Iterator[str]:
    if section.warmup > section.steps:
        yield (
            f"{stage}.warmup_steps ({section.warmup_steps}) is more than {stage}.steps ({section.steps}): "
            "the learning rate would never reach its peak"
        )
    if section.min_window is not None and section.min_window > window:
        yield f"{stage}.min_window ({section.min_window}) is longer than data.window ({window})"
