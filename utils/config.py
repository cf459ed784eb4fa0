"""One YAML = one experiment: the dataclasses that hold it, their defaults (nowhere else) and their parser.

Order of precedence: dataclass defaults, then the YAML file, then `--section.field value`. An unknown key, a wrong type
or an impossible value is an InputError that names the field. `to_yaml` gives a file that can be passed back.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import jsonargparse
import yaml
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)

from utils.errors import InputError

DEFAULT_CONFIG = "configs/demo.yaml"
# Below 1 so that something is left to train on; 0 means none is set aside.
Share = restricted_number_type("Share", float, [(">=", 0), ("<", 1)])
Decay = restricted_number_type("Decay", float, [(">", 0), ("<=", 1)])
Stage = Literal["supcon", "head", "full"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""Of fine-tuning, in their order."""


@dataclass
class ModelConfig:
    """Where the encoder comes from, and its sizes when it starts from fresh weights."""

    source: str | None = None
    """Folder or hub id (owner/name[@revision]) of a SpliceBERT, of multimolecule's port of one, or of any BERT with
    SpliceBERT's ten-row vocabulary; null: fresh weights, sizes below."""
    hidden_size: PositiveInt = 512
    """Width of the hidden states."""
    num_hidden_layers: PositiveInt = 6
    """Transformer blocks."""
    num_attention_heads: PositiveInt = 16
    """Attention heads; must divide hidden_size."""
    intermediate_size: PositiveInt = 2048
    """Width of the feed-forward layer."""
    max_position_embeddings: PositiveInt = 512
    """Longest input in tokens, [CLS] and [SEP] included."""
    initializer_range: PositiveFloat = 0.02
    """Standard deviation of fresh weights: BERT's. Narrow encoders learn faster from about 1 / sqrt(hidden_size)."""
    position_init: Literal["normal", "sinusoidal"] = "normal"
    """Fresh position embeddings: random, or sines and cosines to go on from (neighbouring bases are found sooner)."""
    hidden_dropout_prob: Share = 0.1
    """Dropout of embeddings, attention output and feed-forward output; also applies to a loaded checkpoint."""
    attention_probs_dropout_prob: Share = 0.1
    """Dropout of the attention weights; also applies to a loaded checkpoint."""
    pooling: Literal["cls", "mean", "centre"] | None = None
    """How a window becomes one vector: that of [CLS], the mean of the bases, or of the two central ones; null: what the
    checkpoint records, else cls."""
    pooling_layer: NonNegativeInt | Literal["mix"] | None = None
    """Layer that is pooled, 0 = embeddings, 1..n = blocks; mix: a learned mean of all; null: what the checkpoint
    records, else the last."""
    drop_layers: NonNegativeInt = 0
    """Blocks removed from the source before anything is trained or measured; layers are counted in what is left."""
    drop_from: Literal["last", "first"] = "last"
    """Which end they are removed from."""

    def saved_as(self, folder: Path | str) -> ModelConfig:
        """This section for a checkpoint of ours: pooled as it records, and no blocks dropped a second time."""
        return dataclasses.replace(self, source=str(folder), pooling=None, pooling_layer=None, drop_layers=0)


@dataclass
class DataConfig:
    """Genome text, labelled windows, motif sites, and how the windows are split."""

    corpus: Literal["fasta", "genome", "genes", "multi_species", "splice_enriched", "dataset"] = "fasta"
    """Pre-training text: the FASTA as it is; 6 kb chunks of a human genome; gene bodies on their sense strand; several
    species; windows drawn by their splice-site score; a `datasets` set (see utils/corpus.py)."""
    fasta: list[str] = field(default_factory=list)
    """FASTA files of the text, plain or gzipped."""
    annotation: list[str] = field(default_factory=list)
    """GTF or GFF3 of each FASTA, in the same order; for genes and splice_enriched, optional for multi_species."""
    records: list[str] | None = None
    """Records (chromosomes) of the FASTA files to train on; null: all."""
    window: PositiveInt = 510
    """Length of a pre-training window in nt."""
    sampling: Literal["random", "strided"] | None = None
    """Windows start anywhere, or every `stride` nt in an order shuffled each epoch; null: strided for genome, else
    random."""
    stride: PositiveInt | None = None
    """Distance between strided windows in nt; null: `window` (for splice_enriched a quarter of it)."""
    strands: Literal["both", "forward"] = "both"
    """both: half of the windows, at random, are read on the reverse strand (gene bodies: always the sense strand)."""
    max_n_share: ClosedUnitInterval = 0.05
    """Windows with a larger share of N are left out."""
    max_repeat_share: ClosedUnitInterval = 1.0
    """Windows with a larger share of soft-masked repeats are left out: they are false negatives of a contrast."""
    split: Literal["train", "validation", "test"] = "train"
    """genome: chromosomes 1-20, X, Y; 21; 22. dataset: the split of that name."""
    species_weights: list[PositiveFloat] | None = None
    """multi_species, splice_enriched: weight of each FASTA; null: its size."""
    mixing_temperature: PositiveFloat = 1.0
    """multi_species, splice_enriched: shares are weights^(1 / temperature); above 1 evens the species out."""
    scorer: str = "pwm"
    """splice_enriched: pwm (weight matrices fitted on annotation), annotation, or the folder of a fine-tuned fold."""
    enrichment: NonNegativeFloat = 0.5
    """splice_enriched: the odds of a window are exp(enrichment x its best score); 0: all alike."""
    dataset: str | None = None
    """dataset: hub id, or local file (csv, tsv, json, jsonl, parquet) or folder."""
    dataset_config: str | None = None
    """dataset: configuration of that name on the hub."""
    dataset_column: str = "sequence"
    """dataset: the column that holds the bases."""
    dataset_rows: PositiveInt | None = None
    """dataset: only so many rows, from the first; null: all."""
    hide: Literal["nothing", "benchmarks", "evaluation"] = "nothing"
    """Turn into N what the text shares (80 nt in a row, either strand) with benchmark windows, or with every window and
    motif site that anything is measured on."""
    cache: str = "data/cache"
    """Where FASTA files are kept as memory-mapped token ids."""
    spliceator: str | None = None
    """Folder with Spliceator's Training_data (and Benchmarks)."""
    negatives: str = "GS_1"
    """Which negative set under Training_data/Negative/GS."""
    context: PositiveInt = 400
    """nt about the centre of each Spliceator window that models see."""
    dedup: bool = False
    """Keep one of each set of identical windows of a site type; those labelled both ways go altogether."""
    max_windows: PositiveInt | None = None
    """Use a random part of the windows, stratified by site type and label; null: all."""
    folds: Literal["grouped", "published", "simcsp"] = "grouped"
    """grouped: windows that share an 80-mer stay together; published: SpliceBERT's ten; simcsp: five 70/10/20."""
    num_folds: PositiveInt = 10
    """Number of folds of `grouped` (published has 10, simcsp 5)."""
    selection_share: Share = 0.05
    """Share of the windows set aside before the folds are cut, for picking pre-training checkpoints by SCCS."""
    split_seed: NonNegativeInt = 2020
    """Seed of subset, selection share and folds (2020 is the published one)."""
    motif_bed: str | None = None
    """BED of labelled GT / AG sites for NMI, or the .npz of `python data/motifs.py cut`, which needs no motif_fasta."""
    motif_fasta: str | None = None
    """FASTA that the BED's coordinates belong to."""
    motif_window: PositiveInt = 510
    """nt about each motif site that models see."""


@dataclass
class PretrainConfig:
    """One stage of training on unlabelled text."""

    objective: Literal["mlm", "simcse", "dcl"] = "simcse"
    """mlm: masked bases; simcse: two dropout passes of a window against the other windows of the batch (InfoNCE); dcl:
    the same without the positive in the denominator."""
    steps: NonNegativeInt = 12656
    """Optimiser steps; 0 skips the stage."""
    batch_size: PositiveInt = 512
    """Windows a step."""
    mini_batch_size: PositiveInt | None = None
    """Windows that go through the encoder at once, with all their views; null: the whole batch. Loss and gradients are
    those of the whole batch, memory is that of the mini-batch, time that of one more forward pass (GradCache)."""
    lr: PositiveFloat = 1e-4
    """Peak learning rate of AdamW."""
    weight_decay: NonNegativeFloat = 1e-6
    """AdamW's decoupled decay, on weight matrices only."""
    warmup_steps: NonNegativeInt = 500
    """Steps of linear warm-up."""
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Decay after the warm-up, as transformers names it."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    temperature: PositiveFloat = 0.05
    """simcse, dcl: cosine similarities are divided by this."""
    projection_head: bool = False
    """simcse, dcl: contrast behind a two-layer head that is for training only."""
    reverse_complement_negatives: bool = False
    """simcse, dcl: the other strand of every window as one more negative: splice sites are stranded."""
    skip_near_duplicates: bool = False
    """simcse, dcl: windows of a batch that overlap or repeat one another are no negatives of each other."""
    max_shift: NonNegativeInt = 0
    """simcse, dcl: each view is moved by up to so many nt; the text is read in windows longer by twice that."""
    mutation_rate: Share = 0.0
    """simcse, dcl: share of bases substituted in each view."""
    mlm_weight: NonNegativeFloat = 0.0
    """simcse, dcl: weight of the masked-base loss of a third, masked copy of the batch (SimCSE has .1)."""
    mlm_probability: OpenUnitInterval = 0.15
    """mlm: share of bases to predict."""
    masking: Literal["random", "sites"] = "random"
    """mlm: each base alike; sites: more about likely splice sites, by matrices fitted on data.annotation."""
    eval_steps: PositiveInt = 250
    """Validate (SCCS, NMI) and save every this many steps; also before step 0 and at the end."""
    logging_steps: PositiveInt = 10
    """Steps between logged losses."""
    save_total_limit: NonNegativeInt = 20
    """Checkpoints of single validations kept, the newest; best and last are kept besides."""
    control: bool = False
    """pretrain: also train the control, plain MLM from the same start on the same windows in the same order for as many
    steps (arms control_last, control_best_sccs, control_best_nmi): a gain over it is due to the contrast."""


@dataclass
class FinetuneConfig:
    """Cross-validated classifier of splice sites, the same for every arm."""

    arms: list[str] = field(
        default_factory=lambda: ["pwm", "kmer", "fresh", "baseline", "best_sccs", "best_nmi", "last"]
    )
    """Start models and floors: pwm, kmer, fresh, baseline, best_sccs, best_nmi, last, control_best_sccs,
    control_best_nmi, control_last, or NAME=CHECKPOINT_FOLDER."""
    sites: list[Literal["donor", "acceptor", "both"]] = field(default_factory=lambda: ["both"])
    """Tasks: donors alone, acceptors alone, or both pooled."""
    folds: list[NonNegativeInt] | None = None
    """Which folds to run; null: all. Each is an independent job."""
    seeds: list[NonNegativeInt] = field(default_factory=lambda: [0])
    """Seeds of head initialisation, dropout and order; every arm uses the same."""
    stages: list[Stage] = field(default_factory=lambda: ["full"])
    """In this order: supcon (supervised contrast of donor, acceptor and non-site, on the fold's training windows), head
    (encoder frozen, a mix of layers too; on features encoded once by each of the workers), full (everything)."""
    lr: PositiveFloat = 1e-5
    """Learning rate of AdamW."""
    layerwise_lr_decay: Decay = 1.0
    """full, supcon: the last block learns at this times lr, each one below at this times the one above, the embeddings
    slowest; the head at lr (ULMFiT, ELECTRA). 1: all at lr."""
    weight_decay: NonNegativeFloat = 1e-6
    """AdamW's decay."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up (published: none)."""
    lr_scheduler_type: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """After the warm-up: constant (published), or decaying to 0 at max_epochs."""
    batch_size: PositiveInt = 16
    """Windows a step; the last partial batch is dropped."""
    max_epochs: PositiveInt = 200
    """Upper limit of epochs (of the full stage)."""
    patience: PositiveInt = 10
    """Epochs of a stage without a better validation AUC before it stops (not supcon, which has no head)."""
    head_epochs: PositiveInt = 200
    """head: upper limit of epochs."""
    head_lr: PositiveFloat | None = None
    """head: learning rate; null: lr."""
    supcon_epochs: PositiveInt = 5
    """supcon: epochs."""
    supcon_lr: PositiveFloat | None = None
    """supcon: learning rate; null: lr."""
    supcon_batch_size: PositiveInt = 64
    """supcon: windows a step, among which positives and negatives are found; the last partial batch is dropped."""
    supcon_temperature: PositiveFloat = 0.1
    """supcon: cosine similarities are divided by this (Khosla et al. 2020)."""
    max_shift: NonNegativeInt = 0
    """supcon, full: each time a training window is seen it is cut up to so many nt off its site, at random, which keeps
    its label true; validation and test windows stay centred."""
    select_epoch: Literal["per_fold", "shared"] = "per_fold"
    """shared: one epoch for all folds, by mean validation AUC, as published; per_fold: each fold its own."""
    max_grad_norm: PositiveFloat | None = None
    """Clip gradients to this norm; null: no clipping (published)."""
    dropout: Share = 0.1
    """Dropout before the final layer of the head."""
    hidden_dropout_prob: Share | None = None
    """Dropout within the encoder while fine-tuning; null: that of the model section (published)."""
    nmi_folds: NonNegativeInt = 1
    """NMI after fine-tuning is measured in the first this many folds (each needs the motif sites encoded anew)."""


@dataclass
class EvaluateConfig:
    """How SCCS, NMI and the floors are measured."""

    batch_size: PositiveInt = 64
    """Windows a batch when encoding."""
    sccs_pairs: Literal["all", "published"] = "all"
    """all: every pair of windows, of more than 2,000 windows a random 2,000,000 pairs in which each window is equally
    often; published: a random pairing without replacement."""
    sccs_classes: Literal["site", "type"] = "site"
    """`evaluate.py sccs`: two windows share a class when both are sites or neither is (site); when both are donors,
    both acceptors or both non-sites (type). Training always takes site."""
    bootstrap: PositiveInt = 1000
    """`evaluate.py sccs`: resamples for the interval of SCCS, and permutations for its null band."""
    nmi_layer: NonNegativeInt | None = None
    """Hidden layer whose two central bases NMI clusters: 0 = embeddings, 1..n = blocks; null: the last."""
    nmi_sites: Literal["motifs", "spliceator"] = "motifs"
    """`evaluate.py nmi`: the sites of data.motif_bed, or those selection windows of Spliceator that show GT or AG at
    the site."""
    nmi_clusters: PositiveInt = 10
    """`evaluate.py nmi`: clusters of the k-means whose NMI stands beside that of Leiden."""
    kmer: PositiveInt = 4
    """k of the k-mer logistic regression."""
    mlm_fasta: str | None = None
    """FASTA of a record kept out of the text, on which `evaluate.py mlm` measures masked-base accuracy."""
    mlm_annotation: str | None = None
    """GTF or GFF3 of that FASTA: exons, introns and splice sites are scored apart."""
    pwm_flank: PositiveInt = 20
    """nt on either side of the site that the weight matrix and the one-hot floor see."""
    benchmarks: str | None = None
    """Folder that holds Benchmarks/<species>, which `evaluate.py benchmark` scores; null: data.spliceator."""


@dataclass
class SearchConfig:
    """Search over settings with optuna, in the place of one run."""

    trials: NonNegativeInt = 0
    """Trials that end, pruned ones included, over all processes that share the storage; 0: no search."""
    metric: Literal["sccs", "nmi", "probe_auc"] = "sccs"
    """What pretrain.py's trials maximise at their last validation; probe_auc: that of a logistic regression on the
    vectors of the selection windows. Those of finetune.py: mean validation AUC."""
    storage: str | None = None
    """File or database URL that processes and machines share; null: runs/<name>/search/study.db."""
    startup_trials: PositiveInt = 5
    """Random trials before TPE proposes, and before the median prunes."""
    space: dict[str, Any] = field(default_factory=dict)
    """{field: {low: 1.0e-5, high: 1.0e-3, log: true}} or {field: {choices: [cls, mean]}}; whole numbers stay whole."""


@dataclass
class Config:
    """One experiment."""

    name: str | None = None
    """Folder under runs/; null: the stem of the config file."""
    runs: str = "runs"
    """Where the run folders live."""
    seed: NonNegativeInt = 0
    """Seed of pre-training: weights, windows, masks, dropout."""
    device: str = "auto"
    """auto, cpu, cuda."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where a GPU (or a CPU with AMX) has it, fp16 on older GPUs, else fp32."""
    workers: PositiveInt = 1
    """Processes that share the folds of finetune; on a CPU, one for every core or two."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mlm: PretrainConfig = field(default_factory=lambda: PretrainConfig(objective="mlm", steps=0))
    """Optional first stage, usually MLM from fresh weights; the pretrain stage starts from its last checkpoint."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    @property
    def folder(self) -> Path:
        """The run folder, runs/<name>."""
        return Path(self.runs) / str(self.name)


def build_parser() -> jsonargparse.ArgumentParser:
    """A parser of `[CONFIG.yaml] [--section.field value ...]` whose errors are exceptions."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        exit_on_error=False, description="usage: SCRIPT [CONFIG.yaml] [--section.field value ...]"
    )
    parser.add_argument("--config", action="config", help=f"YAML of the experiment (default: {DEFAULT_CONFIG})")
    parser.add_class_arguments(Config)
    return parser


def load_config(argv: Sequence[str]) -> Config:
    """Read the command line of a script into a checked Config.

    argv: arguments after the script's name; the first may be a YAML file, else configs/demo.yaml is read.
    Raises InputError for a missing file, an unknown key, a wrong type or an impossible value.
    """
    argv = list(argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--config", *argv]
    elif not any(word == "--config" or word.startswith("--config=") or word in ("-h", "--help") for word in argv):
        argv = ["--config", DEFAULT_CONFIG, *argv]
    path = _config_path(argv)
    if path is not None and not path.is_file():
        raise InputError(f"config {path} does not exist: give the path of a YAML file, for example {DEFAULT_CONFIG}")
    try:
        text = path.read_text() if path is not None else "-"
    except UnicodeDecodeError:
        raise InputError(f"config {path} is no text file: expected YAML") from None
    if not text.strip():
        raise InputError(f"config {path} is empty: it needs at least a data section (see {DEFAULT_CONFIG})")
    _check_sections(path, text)
    parser = build_parser()
    try:
        namespace = parser.instantiate(parser.parse_args(argv))
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        where = f"config {path}: " if path is not None else ""
        raise InputError(f"{where}{_first_reason(str(error))}") from None
    config = _plain_numbers(Config(**{item.name: getattr(namespace, item.name) for item in dataclasses.fields(Config)}))
    if config.name is None:
        config.name = path.stem if path is not None else "run"
    check(config)
    return config


def read_config(path: Path) -> Config:
    """The resolved config of a finished or running stage."""
    return load_config([str(path)])


def check(config: Config) -> None:
    """Refuse combinations that cannot work, naming the fields. Raises InputError."""
    model, data = config.model, config.data
    if model.hidden_size % model.num_attention_heads:
        raise InputError(
            f"model.num_attention_heads ({model.num_attention_heads}) "
            f"must divide model.hidden_size ({model.hidden_size})"
        )
    if model.source is None:
        for name in ("window", "context", "motif_window"):
            if getattr(data, name) + 2 > model.max_position_embeddings:
                raise InputError(
                    f"data.{name} ({getattr(data, name)} nt, and 2 for [CLS] and [SEP]) does not fit in "
                    f"model.max_position_embeddings ({model.max_position_embeddings})"
                )
    for name in ("context", "motif_window"):
        if getattr(data, name) % 2:
            raise InputError(f"data.{name} ({getattr(data, name)}) must be even: the site is at the centre")
    is_cut = data.motif_bed is not None and data.motif_bed.endswith(".npz")
    if is_cut and data.motif_fasta is not None:
        raise InputError(f"data.motif_bed ({data.motif_bed}) holds windows cut already: set data.motif_fasta to null")
    if not is_cut and (data.motif_bed is None) != (data.motif_fasta is None):
        raise InputError("data.motif_bed and data.motif_fasta go together: give both, neither, or an .npz as motif_bed")
    if data.folds == "grouped" and data.num_folds < 4:
        raise InputError(
            f"data.num_folds ({data.num_folds}) must be at least 4: one validation, two test, the rest train"
        )
    for key, value in flatten(to_dict(config)).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{key} is {value}: it must be a finite number")
    if not config.name or "/" in config.name or config.name.startswith("."):
        raise InputError(f"name ({config.name}) must be a plain folder name")
    _check_finetune(config.finetune)
    for stage in ("mlm", "pretrain"):
        section = getattr(config, stage)
        if section.steps and section.warmup_steps > section.steps:
            raise InputError(
                f"{stage}.warmup_steps ({section.warmup_steps}) is more than {stage}.steps ({section.steps}): "
                "the learning rate would never reach its peak"
            )
        if section.steps and section.objective != "mlm" and section.batch_size < 2:
            raise InputError(
                f"{stage}.batch_size must be at least 2: {section.objective} takes its negatives from the batch"
            )
        if section.steps and not data.fasta and data.corpus != "dataset":
            raise InputError(f"data.fasta is empty: {stage} needs genome text (or set {stage}.steps to 0)")


def _check_finetune(finetune: FinetuneConfig) -> None:
    stages = f"finetune.stages ([{', '.join(finetune.stages)}])"
    if finetune.stages != [stage for stage in STAGES if stage in finetune.stages]:
        raise InputError(f"{stages} must keep to the order {', '.join(STAGES)}, each at most once")
    if not {"head", "full"} & set(finetune.stages):
        raise InputError(f"{stages} must hold head or full: without them no classifier is trained")
    if finetune.select_epoch == "shared" and finetune.stages != ["full"]:
        raise InputError(f"{stages}: finetune.select_epoch shared, the published rule, knows the stage full alone")
    if "supcon" in finetune.stages and finetune.supcon_batch_size < 2:
        raise InputError("finetune.supcon_batch_size must be at least 2: supcon compares the windows of a batch")


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain values, ready for YAML or JSON."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that load_config takes back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}, for comparing and showing configs."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _check_sections(path: Path | None, text: str) -> None:
    """A section that is no mapping, which jsonargparse would explain by its own insides."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        return  # jsonargparse names the place
    sections = [name for name, value in vars(Config()).items() if dataclasses.is_dataclass(value)]
    for name in sections if isinstance(values, dict) else ():
        if name in values and not isinstance(values[name], dict):
            raise InputError(f"config {path}: {name} is {values[name]!r}, expected a section of fields")


def _plain_numbers(config: Config) -> Config:
    """jsonargparse's restricted numbers are classes of their own, which YAML cannot write: back to int and float."""
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    sections = {item.name: getattr(config, item.name) for item in dataclasses.fields(Config)}
    for name, section in sections.items():
        if dataclasses.is_dataclass(section):
            values[name] = type(section)(**values[name])
    return Config(**values)


def _config_path(argv: Sequence[str]) -> Path | None:
    for i, word in enumerate(argv):
        if word == "--config" and i + 1 < len(argv):
            return Path(argv[i + 1])
        if word.startswith("--config="):
            return Path(word.split("=", 1)[1])
    return None


def _first_reason(message: str) -> str:
    """jsonargparse explains over many lines; the reader wants the key and the reason."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    return "; ".join(lines)[:400]
