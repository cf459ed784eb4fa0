"""One YAML = one experiment: the dataclasses that hold it, their defaults (nowhere else), and the
values that cannot go together.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

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

DEFAULT_CONFIG = "configs/chr19.yaml"
# Below 1 so that something is left to train on; 0 means none is set aside.
Share = restricted_number_type("Share", float, [(">=", 0), ("<", 1)])
Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])  # what numpy's and torch's generators take
PUBLISHED_FOLDS, SIMCSP_FOLDS = 10, 5
Stage = Literal["supcon", "head", "full", "probe"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""Of fine-tuning, in their order; probe stands alone."""


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
    """Fresh position embeddings: random, or sinusoidal (attention to neighbouring bases is learned sooner)."""
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
    """Last blocks removed from the source before anything is trained or measured; layers are counted in the rest."""

    def saved_as(self, folder: Path | str) -> ModelConfig:
        """This section for a checkpoint written by a run: pooled as it records, no blocks dropped a second time."""
        return dataclasses.replace(self, source=str(folder), pooling=None, pooling_layer=None, drop_layers=0)


@dataclass
class DataConfig:
    """Genome text, labelled windows, motif sites, and how the windows are split."""

    corpus: Literal["fasta", "genome", "genes", "multi_species", "splice_enriched", "annotated", "dataset"] = "fasta"
    """Pre-training text: the FASTA as it is; 6 kb chunks of a human genome; gene bodies on their sense strand; several
    species; windows drawn by their splice-site score; crops centred on annotated sites and decoys; a `datasets` set
    (see simcsp/text/corpora.py)."""
    fasta: list[str] = field(default_factory=list)
    """FASTA files of the text, plain or gzipped."""
    annotation: list[str] = field(default_factory=list)
    """GTF or GFF3 of each FASTA, in the same order; for genes, splice_enriched and annotated, optional for
    multi_species."""
    transcripts: Literal["all", "ccds"] = "all"
    """Transcripts of data.annotation: all, or those of the Consensus Coding Sequence set, whose
    introns are GT-AG more often."""
    decoys: PositiveInt = 100
    """annotated: decoys (GT / AG that no annotation calls a site) per site, or as many as the text has; a batch always
    holds as many decoys as sites."""
    other_bases: NonNegativeInt = 0
    """annotated: crops per site about any other base of the same strands, a fifth class, as large a share of a batch as
    each of the others; 0: none."""
    records: list[str] | None = None
    """Records (chromosomes) of the FASTA files to train on, or regions of them (chr19:1-29000000, 1-based, inclusive),
    of which genes and introns count that lie inside; null: all."""
    window: PositiveInt = 510
    """Length of a pre-training window in nt."""
    sampling: Literal["random", "strided"] | None = None
    """Windows start anywhere, or every `stride` nt in an order shuffled each epoch; null: strided for genome, else
    random."""
    stride: PositiveInt | None = None
    """Distance between strided windows in nt; null: `window` (for splice_enriched a quarter of it)."""
    strands: Literal["both", "forward"] = "both"
    """both: half of the windows, at random, are read on the reverse strand (gene bodies, annotated
    sites: always the sense strand)."""
    max_n_share: ClosedUnitInterval = 0.05
    """Windows with a larger share of N are left out."""
    split: Literal["train", "validation", "test"] = "train"
    """genome: chromosomes 1-20, X, Y; 21; 22. dataset: the split of that name."""
    scorer: Literal["pwm", "annotation", "spliceai"] = "pwm"
    """splice_enriched: pwm (weight matrices fitted on annotation), annotation, or spliceai (its five networks, pip
    install spliceai keras; scores are kept in the cache)."""
    enrichment: NonNegativeFloat = 0.5
    """splice_enriched: the odds of a window are exp(enrichment x its best score); 0: uniform."""
    dataset: str | None = None
    """dataset: hub id, or local file (csv, tsv, json, jsonl, parquet) or folder."""
    dataset_config: str | None = None
    """dataset: configuration of that name on the hub."""
    dataset_column: str = "sequence"
    """dataset: the column that holds the bases."""
    dataset_rows: PositiveInt | None = None
    """dataset: use the first so many rows; null: all."""
    hide: Literal["nothing", "benchmarks", "evaluation"] = "nothing"
    """Replace by N what the text shares (80 nt in a row, either strand) with benchmark windows, or with every window
    and motif site of the evaluation."""
    cache: str = "data/cache"
    """Where FASTA files are kept as memory-mapped token ids."""
    spliceator: str | None = None
    """Folder with Spliceator's Training_data (and Benchmarks)."""
    negatives: str = "GS_1"
    """Which negative set under Training_data/Negative/GS."""
    context: PositiveInt = 400
    """nt about the centre of each Spliceator window that models see."""
    folds: Literal["grouped", "published", "simcsp"] = "grouped"
    """grouped: windows that share an 80-mer, on either strand, stay together; published: SpliceBERT's ten; simcsp: five
    70/10/20."""
    num_folds: PositiveInt = 10
    """Number of folds of `grouped` (published has 10, simcsp 5)."""
    selection_share: Share = 0.05
    """Share of the windows set aside before the folds are cut, for picking pre-training checkpoints by SCCS."""
    split_seed: Seed = 2020
    """Seed of subset, selection share and folds (2020 is the published one)."""
    motif_bed: str | None = None
    """BED of labelled GT / AG sites for NMI, or the .npz of `python data/motifs.py cut`, which needs no motif_fasta."""
    motif_fasta: str | None = None
    """FASTA that the BED's coordinates belong to."""
    motif_window: PositiveInt = 510
    """nt about each motif site that models see."""

    @property
    def fold_count(self) -> int:
        """Number of folds: the published rules have numbers of their own."""
        return {"published": PUBLISHED_FOLDS, "simcsp": SIMCSP_FOLDS}.get(self.folds, self.num_folds)


@dataclass
class MlmConfig:
    """Optional first stage, masked-LM only; the pretrain stage starts from its last checkpoint."""

    steps: NonNegativeInt = 0
    """Optimiser steps; 0 skips the stage."""
    batch_size: PositiveInt = 512
    """Windows per step, over all processes, which share them evenly."""
    mini_batch_size: PositiveInt | Literal["auto"] | None = None
    """Windows that pass through the encoder of a process at once, with all their views; null: its whole share; auto: as
    many as fit into the memory that is free when the stage begins. Loss and gradients are those of the whole batch,
    memory is that of the mini-batch, at the cost of one more forward pass (GradCache)."""
    lr: PositiveFloat = 1e-4
    """Peak learning rate of AdamW."""
    weight_decay: NonNegativeFloat = 1e-6
    """AdamW's decoupled decay, on weight matrices only."""
    warmup_steps: NonNegativeInt | None = None
    """Steps of linear warm-up; null: a tenth of the steps, at most 500."""
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Decay after the warm-up, as transformers names it."""
    mlm_probability: OpenUnitInterval = 0.15
    """Masked-LM: share of bases to predict."""
    min_window: PositiveInt | None = None
    """Shortest window in nt: the windows of a step are cut, about their centre, to a length drawn between this and
    data.window, and their positions begin at a number drawn among those that max_position_embeddings leaves, so that no
    absolute position means anything; null: whole windows, from position 0."""
    masking: Literal["random", "sites"] = "random"
    """Masked-LM: random masks bases uniformly; sites masks more near likely splice sites, by weight matrices fitted on
    data.annotation."""
    eval_steps: PositiveInt = 250
    """Steps between validations (SCCS, NMI) and checkpoints; also before step 0 and at the end."""
    logging_steps: PositiveInt = 10
    """Steps between logged losses."""
    save_total_limit: NonNegativeInt = 20
    """The newest checkpoints to keep, besides the best and the last."""

    @property
    def warmup(self) -> int:
        """Steps of warm-up, also where the field is null."""
        return min(self.steps // 10, 500) if self.warmup_steps is None else self.warmup_steps


@dataclass
class PretrainConfig(MlmConfig):
    """The contrastive objective on unlabelled text (or masked-LM): the fields of mlm and its own."""

    steps: NonNegativeInt = 12656
    """Optimiser steps; 0 skips the stage."""
    objective: str = "simcse"
    """mlm: masked bases; simcse: two dropout passes of a window against the other windows of the batch (InfoNCE); dcl:
    the same without the positive in the denominator. Of data.corpus annotated: supcon, supervised contrast of donor,
    acceptor and the decoys of either; classify, cross-entropy of these classes with a linear head for training only.
    Fields below that name other objectives must keep their defaults; CONTRIBUTING.md adds an objective."""
    temperature: PositiveFloat = 0.05
    """simcse, dcl, supcon: cosine similarities are divided by this."""
    projection_head: bool = False
    """simcse, dcl, supcon: contrast behind a two-layer head that is for training only."""
    skip_near_duplicates: bool = False
    """simcse, dcl: windows of a batch that overlap or repeat each other are not negatives of each other."""
    max_shift: NonNegativeInt = 0
    """All but mlm: each view is moved by up to so many nt; the text is read in windows longer by twice that. Pooling
    centre then reads a view where the middle of the window, the site of annotated crops, has come to lie."""
    mlm_weight: NonNegativeFloat = 0.0
    """All but mlm: weight of the masked-base loss of a further, masked copy of the batch (SimCSE has .1)."""
    seeds: list[Seed] | None = None
    """Several pre-training seeds in one run folder, each with its control where there is one; weights, windows, masks
    and dropout differ, the text and what is validated on do not. null: `seed` alone. The stage mlm runs once."""
    control: bool = False
    """pretrain: also train the control, plain MLM from the same start on the same windows in the same order for as many
    steps (arms control_last, control_best_sccs, control_best_nmi): a gain over it is due to the contrast."""


@dataclass
class FinetuneConfig:
    """Cross-validated classifier of splice sites, the same for every arm."""

    task: Literal["windows", "bases"] = "windows"
    """windows: Spliceator's, a site or none at the centre; bases: neither, acceptor or donor for every base of
    annotated genomes (section bases), with the arms, folds and seeds of this section."""
    arms: list[str] = field(
        default_factory=lambda: ["pwm", "kmer", "fresh", "baseline", "best_sccs", "best_nmi", "last"]
    )
    """Start models and floors: pwm, kmer, linear, cnn; annotation, annotation_linear (fitted on the text's
    annotated sites, no label); fresh, baseline, best_sccs, best_nmi, last, control_best_sccs, control_best_nmi,
    control_last, or NAME=CHECKPOINT_FOLDER."""
    sites: list[Literal["donor", "acceptor", "both"]] = field(default_factory=lambda: ["both"])
    """Tasks: donors alone, acceptors alone, or both pooled."""
    folds: list[NonNegativeInt] | None = None
    """Which folds to run; null: all. Each is an independent job."""
    seeds: list[Seed] = field(default_factory=lambda: [0])
    """Seeds of head initialisation, dropout and order; every arm uses the same."""
    stages: list[Stage] = field(default_factory=lambda: ["full"])
    """In this order: supcon (supervised contrast of donor, acceptor and non-site, on the fold's training windows), head
    (encoder frozen, a mix of layers too; on features encoded once by each of the workers), full (everything). Or probe
    alone: a logistic regression on the frozen encoder's vectors, its C picked by validation AUC; keeps no model."""
    probe_on: Literal["labels", "annotation"] = "labels"
    """probe: it is fitted on the training windows, or on the text's own annotated sites and decoys (data.annotation),
    which is a head that needs no label at all, as the arms annotation and annotation_linear."""
    probe_flank: PositiveInt | None = None
    """probe: it reads the hidden states of so many bases on either side of the site, side by side, as a weight matrix
    reads bases; null: the pooled vector."""
    probe_layer: NonNegativeInt | Literal["mix"] | None = None
    """probe_flank: of which layer, 0 = embeddings, 1..n = blocks; null: the last; mix: the mean of all."""
    train_windows: list[PositiveInt | None] = field(default_factory=lambda: [None])
    """Numbers of training windows, null for all: the training part alone is cut, site types and labels at their shares;
    test parts stay whole."""
    validation_share: Share = 0.0
    """Of a number in train_windows: the share of it that takes the place of the validation part, so that C and the
    epoch are picked within so many labels; 0: the validation part stays whole, which is more labels."""
    draws: PositiveInt = 1
    """Random draws for each number in train_windows other than null; all arms train on the same windows."""
    lr: PositiveFloat = 1e-5
    """Learning rate of AdamW."""
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
    supcon_batch_size: PositiveInt = 64
    """supcon: windows a step, among which positives and negatives are found; the last partial batch is dropped."""
    select_epoch: Literal["per_fold", "shared"] = "per_fold"
    """shared: one epoch for all folds, by mean validation AUC, as published; per_fold: each fold its own."""
    dropout: Share = 0.1
    """Dropout before the final layer of the head."""
    hidden_dropout_prob: Share | None = None
    """Dropout within the encoder while fine-tuning; null: that of the model section (published)."""
    fold_events: bool = False
    """Also write a TensorBoard run for each fold; each arm always has one."""

    @property
    def cuts(self) -> list[tuple[int | None, int]]:
        """(number of training windows, draw) of every cut of a training part; all windows are one draw."""
        return [(count, i) for count in self.train_windows for i in range(1 if count is None else self.draws)]


@dataclass
class BasesConfig:
    """Classifier of every base (finetune.task bases); the arm cnn is the one without an encoder."""

    fasta: list[str] = field(default_factory=list)
    """FASTA files, whose records have names of their own."""
    annotation: list[str] = field(default_factory=list)
    """GTF, GFF3 or table of introns of each FASTA, in the same order."""
    parts: list[list[str]] = field(default_factory=list)
    """Records held out together, by name, by a pattern (chr1_*) or as all of a file of `fasta`: fold k is tested on
    part k, selects and calibrates on part k + 1 (`val_every`), and trains on all other records."""
    ignore: list[str] = field(default_factory=list)
    """Records that are left out altogether (another build of one that is held out), named as in `parts`."""
    tile: PositiveInt = 126
    """nt that the encoder reads at once; at most what it takes."""
    edge: NonNegativeInt = 0
    """nt on either side of a tile whose hidden states are thrown away: tiles overlap by twice as many."""
    freeze_encoder: bool = True
    """Train the convolutions, or the linear layer, alone."""
    source: str | None = None
    """Checkpoint of a smaller model of bases that the arm cnn starts as: wider, deeper, at first with the same scores.
    It must not have read what the fold is tested on: one that was trained with the same parts held out."""
    channels: NonNegativeInt = 32
    """Width of the convolutions; 0: none, a linear layer on the hidden states, which any BertForTokenClassification
    loads."""
    dilations: list[PositiveInt] = field(default_factory=lambda: [1, 1, 4, 10])
    """Of each residual block of two convolutions of 11 bases: the model sees 10 x their sum on either side."""
    stride: PositiveInt = 1
    """Bases of one position of the coarse path."""
    coarse_channels: PositiveInt = 64
    """Width of the coarse path."""
    coarse_dilations: list[PositiveInt] = field(default_factory=list)
    """Of each residual block of the coarse path, which sees far at little cost; []: no such path."""
    final_dilations: list[PositiveInt] = field(default_factory=list)
    """Of each residual block over single bases that follows the coarse path."""
    dropout: Share = 0.1
    """Share of a block's channels that are left out, at random, in training."""
    steps: PositiveInt = 6000
    """Optimiser steps."""
    eval_steps: PositiveInt = 1000
    """Steps between validations; the one of the best mean AP is kept."""
    lr: PositiveFloat = 4e-3
    """Learning rate of AdamW at its peak, after 100 steps."""
    decay_share: PositiveFloat = 1.0
    """Last share of the steps, in which the learning rate falls to 0 along a cosine."""
    average: Share = 0.0
    """Decay a step of the moving average of the weights, which is the model; 0: the last weights are."""
    tiles: PositiveInt = 6
    """Tiles of a stretch of genome; the labels of its outer tiles are not learnt from."""
    stretches: PositiveInt = 8
    """Stretches of genome a step, of either strand."""
    long_share: ClosedUnitInterval = 0.0
    """Last share of the steps, in which stretches are twice as long and half as many: short ones hold more sites a
    base, long ones let the model read its whole context."""
    site_share: ClosedUnitInterval = 0.4
    """Share of stretches that are drawn about a site."""
    margin: PositiveInt | None = None
    """nt about annotated sites that stretches come from, of either strand: for annotation that lacks genes, whose sites
    would be learnt as neither; null: all of the records."""
    ccds: list[str] = field(default_factory=list)
    """Files of `annotation` of which the transcripts of the Consensus Coding Sequence set are learnt; sites of their
    other transcripts alone are left out of the loss."""
    doubtful: list[str] = field(default_factory=list)
    """More annotation of the records, whose sites are left out of the loss where `annotation` has not got them."""
    grafts: list[str] = field(default_factory=list)
    """FASTA files, of `fasta`, of records that are one intron each with some bases of both exons, which stands in the
    place of the genome's own in half of the stretches about a site."""
    forward: bool = False
    """Held-out records are genes on their strand: measure and calibrate on that strand alone, and let half of the
    stretches about a site end where their gene does, as these records do."""
    val_every: PositiveInt = 1
    """Every n-th record of part k + 1 selects and calibrates; the others are trained on."""
    mutations: Share = 0.0
    """Mean share of bases that are replaced by another in a stretch (from none to twice it), outside the 9 bases of a
    donor and the 23 of an acceptor whose labels are learnt from."""
    fragments: Share = 0.0
    """Share of the stretches of which a part alone is kept, of log-uniform length from a tile on, about a site where
    there is one: for texts that are shorter than the model's context, such as constructs."""


@dataclass
class EvaluateConfig:
    """How SCCS, NMI and the floors are measured."""

    batch_size: PositiveInt = 64
    """Windows per batch when encoding on a CPU; a GPU takes eight times as many."""
    sccs_pairs: Literal["all", "published"] = "all"
    """all: every pair of windows; of more than 2,000 windows, 2,000,000 random pairs in which all windows are equally
    frequent; published: a random pairing without replacement."""
    bootstrap: PositiveInt = 1000
    """`evaluate.py sccs`: resamples for the interval of SCCS, and permutations for its null band."""
    smallest_effect: PositiveFloat = 0.01
    """`evaluate.py report`: smallest difference in F1 and AUC that matters; where none is seen, the verdict says
    whether the study rules out a difference of this size (two one-sided tests)."""
    nmi_layer: NonNegativeInt | None = None
    """Hidden layer whose two central bases NMI clusters: 0 = embeddings, 1..n = blocks; null: the last."""
    nmi_sites: Literal["motifs", "spliceator"] = "motifs"
    """Sites whose NMI is measured and picks checkpoints: those of data.motif_bed, or those selection windows of
    data.spliceator that show GT or AG at the site."""
    kmer: PositiveInt = 4
    """k of the k-mer logistic regression."""
    mlm_fasta: str | None = None
    """FASTA of a held-out record, on which `evaluate.py splicebert` measures masked-base accuracy; null: the genes."""
    mlm_annotation: str | None = None
    """GTF or GFF3 of that FASTA: its regions are scored separately."""
    cnn_parameters: PositiveInt = 110_000
    """Approximate number of parameters of the arm cnn: choose that of the encoder."""
    pwm_flank: PositiveInt = 20
    """nt on either side of the site that the weight matrix and the one-hot floor see."""
    benchmarks: str | None = None
    """Folder that holds Benchmarks/<species>, which `evaluate.py benchmark` scores; null: data.spliceator."""


@dataclass
class SearchConfig:
    """Search over settings with optuna, instead of a single run."""

    trials: NonNegativeInt = 0
    """Finished trials, pruned ones included, over all processes that share the run folder; 0: no search. May be raised
    when the command is given again; another space, setting or input is refused."""
    metric: Literal["sccs", "nmi", "probe_auc"] = "sccs"
    """What pretrain.py's trials maximise at their last validation; probe_auc: that of a logistic regression on the
    vectors of the selection windows. Those of finetune.py: mean validation AUC."""
    startup_trials: PositiveInt = 5
    """Random trials before TPE proposes settings and before trials below the median are pruned."""
    space: dict[str, Any] = field(default_factory=dict)
    """{field: {low: 1.0e-5, high: 1.0e-3, log: true}} or {field: {choices: [cls, mean]}}; whole numbers stay whole."""


@dataclass
class Config:
    """One experiment."""

    name: str | None = None
    """Folder under runs/; null: the stem of the config file."""
    runs: str = "runs"
    """Where the run folders live."""
    seed: Seed = 0
    """Seed of pre-training: weights, windows, masks, dropout."""
    device: str = "auto"
    """auto, cpu, cuda."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where a GPU (or a CPU with AMX) has it, fp16 on older GPUs, else fp32."""
    workers: PositiveInt = 1
    """Processes that share the folds of finetune; on a CPU, one for every core or two. Worker i takes GPU i modulo the
    number of GPUs, so that twice as many as there are put two on each."""
    timeout: PositiveFloat = 60.0
    """Minutes for which one of several processes of pre-training waits for another, also while the first validates;
    then all end."""
    only: list[str] | None = None
    """pretrain.py: part of its work, for one of many jobs: data (text and splits, which always come first), mlm,
    pretrain, control, or with several pretrain.seeds pretrain/seed3; null: all."""
    report: bool = True
    """finetune.py: compare the arms at the end; false for one of many jobs."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mlm: MlmConfig = field(default_factory=MlmConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    bases: BasesConfig = field(default_factory=BasesConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    @property
    def folder(self) -> Path:
        """The run folder, runs/<name>."""
        return Path(self.runs) / str(self.name)

    @property
    def processes(self) -> int:
        """Workers of finetune: no more than it has folds."""
        folds = self.finetune.folds
        return min(self.workers, self.data.fold_count if folds is None else len(folds))

    @property
    def pretrain_seeds(self) -> list[int]:
        """The seeds of the pretrain stage: several have a folder seedN each below the stage's."""
        return [self.seed] if self.pretrain.seeds is None else self.pretrain.seeds


SECTIONS = tuple(item.name for item in dataclasses.fields(Config) if dataclasses.is_dataclass(item.default_factory))
"""model, data, mlm, pretrain, finetune, bases, evaluate, search."""
PLAIN = "a letter or digit, then letters, digits, . _ - + @ or spaces, at most 100 bytes"


def is_plain_name(name: str) -> bool:
    """Whether a name can be that of a folder, a row of a table and a word of a command line everywhere."""
    return len(name.encode()) <= 100 and re.fullmatch(r"\w[\w.+@ -]*(?<! )", name) is not None


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
