"""SpliceBERT's published results (Chen et al., Briefings in Bioinformatics 25, bbae163, 2024), measured anew on a
checkpoint and the data that are there. Each returns its rows and the curves of its figure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from sklearn.metrics import roc_auc_score
from tqdm import tqdm
from transformers import BertForMaskedLM

from simcsp.core.config import BasesConfig, Config
from simcsp.core.errors import InputError
from simcsp.core.files import read_json, read_table
from simcsp.core.run_layout import BASES, SUMMARY, finished_fits
from simcsp.labels.bases import LABEL, read_genome
from simcsp.labels.motifs import Motifs, load_motifs, load_nmi_sites
from simcsp.labels.placed import BUILDS, Placed, open_places
from simcsp.labels.variants import PEERS, Variants, read_mfass, read_vexseq, widen
from simcsp.metrics.attention_pairs import WINDOW, attention_rows, pair_attention, read_pairs
from simcsp.metrics.branch_points import (
    branch_point_rows,
    letters,
    logistic_chances,
    read_branch_points,
    read_introns,
    weight_matrix_chances,
)
from simcsp.metrics.clustering import lay_out
from simcsp.metrics.conservation import CONSERVED, base_states, conservation_rows, one_hot_bases
from simcsp.metrics.masked_regions import predict_masked, region_rows, region_windows
from simcsp.metrics.proxies import nmi_details, of_floors
from simcsp.metrics.scores import draw_blocks, interval_of
from simcsp.metrics.variants import (
    REACH,
    distance_score,
    label_changes,
    label_rows,
    place_features,
    precision_row,
    probe,
    score_variants,
    zero_shot_rows,
)
from simcsp.model.bases import TYPES, Labeller
from simcsp.model.embedding import Encoder
from simcsp.text.alphabet import A, T, encode
from simcsp.text.annotation import read_annotation
from simcsp.text.store import open_store
from simcsp.training.bases import label_records, score_types
from simcsp.training.branch_points import fine_tuned_chances
from simcsp.training.masking import IGNORED, choose_random, corrupt
from simcsp.training.validation import spread

PUBLISHED_WINDOW = 510
MOTIF_SITES = {
    "hg19": ("hg19.ss-motif.for_umap.bed.gz", "hg19.fa.gz"),
    "K562": ("K562.SSE.hg38.for_visualization.bed.gz", "hg38.fa.gz"),
    "chr1's genes": ("windows/genes/motifs.bed.gz", "genes/chr1.fa"),
}
"""{name: (BED, its FASTA)} below the data folder: the published ones, and what `scripts/data.sh genes` makes."""
HELD_OUT = "genes/chr3.fa"
MFASS, VEXSEQ, PHASTCONS = "variants/mfass.tsv.gz", "variants/vexseq.tsv.gz", "conservation/mfass.phastcons.tsv.gz"
_MASKED_SHARE = 0.15
_SHOWN_SITES = 1000
_RESAMPLES = 1000
CHR16_SPECIES = 6
"""chr16 has no phastCons here: a base counts as conserved where six of seven vertebrates have the same, 4.6 % of it; in
the paper's windows 5.8 % are."""


@dataclass(frozen=True)
class Subject:
    """What is measured: a checkpoint on its device (a masked-language model, or a model of every base), the folder of
    the data, and how much of them is taken."""

    name: str
    model: BertForMaskedLM | Labeller
    run: Path | None
    accelerator: Accelerator
    config: Config
    data: Path
    windows: int
    """Windows of masked bases, constructs of conservation, pairs of a group, bases of saturation mutagenesis."""

    @property
    def limit(self) -> int:
        """nt that the model takes."""
        return self.model.config.max_position_embeddings - 2

    @property
    def how(self) -> tuple[int, Callable]:
        return self.config.evaluate.batch_size, self.accelerator.autocast

    def places(self) -> dict[str, Placed]:
        """{build: the stretches of the genome that are here}."""
        found = {build: open_places(self.data, build, self.config.data.cache) for build in BUILDS}
        return {build: places for build, places in found.items() if places is not None}


@dataclass(frozen=True)
class Result:
    """One result of the paper. needs: files below the data folder, without which `fetch` names what brings them.
    source: where in the paper the published numbers stand. also: patterns of other files there, which are read where
    they exist. of_bases: of a model of every base.
    sections: of the config, that it depends on."""

    measure: Callable[[Subject], tuple[list[dict], dict[str, Any]]]
    needs: tuple[str, ...]
    fetch: str
    source: str = ""
    also: tuple[str, ...] = ()
    of_bases: bool = False
    sections: tuple[str, ...] = ("evaluate",)


def masked(subject: Subject) -> tuple[list[dict], dict[str, Any]]:
    """15 % masked bases by region, on evaluate.mlm_fasta and mlm_annotation, or else on the 610 genes."""
    settings, seed = subject.config.evaluate, subject.config.seed
    if settings.mlm_fasta and settings.mlm_annotation:
        fastas, annotations = [settings.mlm_fasta], [settings.mlm_annotation]
    else:
        fastas = sorted((subject.data / "genes").glob("*.fa"))
        annotations = [path.with_suffix(".gtf") for path in fastas]
    store = open_store(fastas, subject.config.data.cache)
    lengths = {record.name: record.length for record in store.records}
    transcripts, coding = (
        [one for path in annotations for one in read_annotation(path, lengths, feature=feature)]
        for feature in ("exon", "CDS")
    )
    length = min(PUBLISHED_WINDOW, subject.limit)
    windows = region_windows(store, transcripts, coding, length, subject.windows, seed)
    rng = np.random.default_rng([seed, 1])
    inputs, targets = corrupt(windows.ids, choose_random(windows.ids, _MASKED_SHARE, rng), rng)
    with _bar("masked bases", len(inputs)) as bar:
        called = predict_masked(subject.model, inputs, *subject.how, bar.update)
    return region_rows(windows, targets != IGNORED, called, _RESAMPLES, seed), {"nt": length}


def variants(subject: Subject) -> tuple[list[dict], dict[str, Any]]:
    """Zero-shot scores and a probe, in the constructs as measured."""
    rows, curves = [], {}
    for name, measured, path in _tables(subject):
        left_out = [{"metric": f"left out: {why}", "n": None, "value": n} for why, n in measured.skipped.items()]
        rows += _named(name, left_out + _variant_rows(subject, name, measured, path, curves))
    return rows, curves


def wide_variants(subject: Subject) -> tuple[list[dict], dict[str, Any]]:
    """Zero-shot scores where the genome about the construct is known: in 510 nt or as long as the model takes, and of
    the same variants in their constructs."""
    rows, curves = [], {}
    length = min(PUBLISHED_WINDOW, subject.limit)
    for name, measured, _ in _tables(subject):
        wide = widen(measured, subject.places(), length) if length > max(map(len, measured.sequences)) else None
        if wide is not None and wide.positive.any():
            rows += _named(f"{name} in {length} nt", _variant_rows(subject, f"{name}, wide", wide, None, curves))
            short = measured.take(np.isin(measured.table.iloc[:, 0], wide.table.iloc[:, 0]))
            rows += _named(f"{name}, those with {length} nt", _variant_rows(subject, "", short, None, {}))
    if not rows:
        raise InputError(
            f"no construct's exon lies amid {length} nt of the genome that is here (python data/fetch.py genes chr19, "
            "or hg19), or the model takes no more than a construct"
        )
    return rows, curves


def _tables(subject: Subject) -> Iterator[tuple[str, Variants, Path]]:
    for name, file, read in (("MFASS", MFASS, read_mfass), ("Vex-seq", VEXSEQ, read_vexseq)):
        if (path := subject.data / file).is_file():
            yield name, read(path), path


def _variant_rows(subject: Subject, name: str, measured: Variants, path: Path | None, curves: dict) -> list[dict]:
    """path: of the table, whose peers' scores lie beside it; a probe and they are for the whole table alone."""
    seed = subject.config.seed
    cut = measured.cut(min(subject.limit, PUBLISHED_WINDOW))
    with _bar(f"variants, {name or 'short'}", len(cut)) as bar:
        scores = score_variants(subject.model, cut, subject.config.evaluate.batch_size, bar.update)
    rows = zero_shot_rows(cut, scores.scores, seed)
    if name:
        groups = {"positive": cut.positive, "other": ~cut.positive}
        curves[name] = {key: _finite_means(scores.near_kl[chosen]) for key, chosen in groups.items()}
    if path is None:
        return rows
    floor = precision_row("", cut, probe(place_features(cut), cut.positive, cut.group), seed)["value"]
    own = probe(scores.states, cut.positive, cut.group)
    rows.append(precision_row("AP of a probe, folds by exon", cut, own, seed, floor))
    peers = path.with_name(path.name.replace(".tsv", ".peers.tsv"))
    if peers.is_file():
        columns = read_table(peers, ["id"], sep="\t").set_index("id").reindex(cut.table["id"])
        for peer in PEERS:
            values = columns[peer]
            known = values.notna().to_numpy()
            row = precision_row(f"AP of {peer}", cut.take(known), values.to_numpy()[known], seed)
            rows.append(row | {"source": "its scores as published by spliceconsensus"})
    return rows


def conservation(subject: Subject) -> tuple[list[dict], dict[str, Any]]:
    """phastCons of MFASS' constructs, and of chr16 the bases that vertebrates share."""
    folder, seed, rows = subject.data / "conservation", subject.config.seed, []
    rng = np.random.default_rng([seed, 2])
    ids, scores = _phastcons(subject)
    sets = {"MFASS' constructs": (ids, scores >= CONSERVED)}
    if (folder / "chr16.tsv.gz").is_file():
        table = read_table(folder / "chr16.tsv.gz", ["base", "identical_species"], sep="\t")
        length = min(PUBLISHED_WINDOW, subject.limit)
        count = len(table) // length
        bases = encode("".join(table["base"][: count * length]), f"{folder}/chr16.tsv.gz").reshape(count, length)
        same = table["identical_species"].to_numpy()[: count * length].reshape(count, length)
        known = ((bases >= A) & (bases <= T)).all(axis=1)
        sets["chr16, six of seven species"] = (bases[known], same[known] >= CHR16_SPECIES)
    for name, (windows, conserved) in sets.items():
        some = np.sort(rng.permutation(len(windows))[: subject.windows])
        windows, conserved = windows[some], conserved[some]
        states = base_states(subject.model.bert, windows, *subject.how)
        features = {"ours": states, "floor": one_hot_bases(windows)}
        rows += _named(name, [{"metric": "conserved bases", "n": conserved.size, "value": float(conserved.mean())}])
        rows += _named(name, conservation_rows(features, conserved, seed))
    return rows, {}


def _phastcons(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """ids uint8 and phastCons float, both [n, length], of MFASS' exons about their middle, as the model takes them."""
    path = subject.data / PHASTCONS
    of_exon = read_table(path, ["exon", "phastcons100"], sep="\t").set_index("exon")["phastcons100"]
    measured = read_mfass(subject.data / MFASS)
    _, first = np.unique(measured.group, return_index=True)
    longest = max(map(len, measured.sequences))
    ids, scores = [], []
    for i in first:
        whole = measured.sequences[measured.of_sequence[i]]
        values = of_exon.get(measured.group[i], "").split(",")
        if len(values) == len(whole) == longest:
            length = min(subject.limit, longest)
            left = int(np.clip(measured.exon[i].sum() // 2 - length // 2, 0, longest - length))
            ids.append(whole[left : left + length])
            scores.append(np.array(values[left : left + length], dtype=float))
    if not ids:
        raise InputError(f"{path}: no exon has a score for every base of its construct in variants/mfass.tsv.gz")
    return np.stack(ids), np.stack(scores)


def mutagenesis(subject: Subject) -> tuple[list[dict], dict[str, Any]]:
    """Saturation mutagenesis: how far a changed base is felt, by whether it is conserved. The largest KL of the three
    substitutions, as published, in MFASS' constructs in the place of transcripts."""
    ids, phastcons = _phastcons(subject)
    rng, seed = np.random.default_rng([subject.config.seed, 3]), subject.config.seed
    places = rng.permutation(ids.size)[: subject.windows]
    row, offset = np.divmod(np.repeat(places, 3), ids.shape[1])
    others = np.array([[base for base in range(A, T + 1) if base != ids.ravel()[place]] for place in places])
    n = len(row)
    changed = Variants(
        list(ids), row, offset, others.ravel().astype(np.uint8), np.full((n, 2), -10), np.zeros(n, bool),
        row.astype(str), read_table(subject.data / MFASS, [], sep="\t").iloc[np.zeros(n, int)], {},
    )  # fmt: skip
    with _bar("saturation mutagenesis", n) as bar:
        scores = score_variants(subject.model, changed, subject.config.evaluate.batch_size, bar.update)
    near = scores.near_kl.reshape(len(places), 3, -1).max(axis=1)
    conserved = phastcons.ravel()[places] >= CONSERVED
    felt = distance_score(near)
    rows, curves = [], {}
    for name, some in {"conserved": conserved, "other": ~conserved}.items():
        mean = float(felt[some].mean() / REACH)
        rows.append({"metric": f"mean ln KL within 100 nt, {name}", "n": int(some.sum()), "value": mean})
        curves[name] = _finite_means(near[some])
    auc = {"value": float(roc_auc_score(conserved, felt)), **_auc_interval(conserved, felt, row[::3], seed)}
    rows.append({"metric": "AUC of KL by distance for conserved bases", "n": len(felt), **auc, "floor": 0.5})
    return rows, {"mutagenesis": curves}


def _auc_interval(labels: np.ndarray, scores: np.ndarray, blocks: np.ndarray, seed: int) -> dict[str, float]:
    """95 % interval of the AUC over resampled blocks; scores differ from one another."""
    order = np.argsort(scores)
    positive, values = labels[order].astype(float), []
    for weights in draw_blocks(blocks[order], _RESAMPLES, np.random.default_rng(seed)):
        right, wrong = weights * positive, weights * (1 - positive)
        if right.any() and wrong.any():
            values.append((right * wrong.cumsum()).sum() / (right.sum() * wrong.sum()))
    return interval_of(values)


def attention(subject: Subject) -> tuple[list[dict], dict[str, Any]]:
    """Attention between the published pairs, in windows as long as the model takes, beside their controls."""
    rows, places = [], _hg19(subject)
    length = min(WINDOW, subject.limit)
    for path in sorted((subject.data / "attention").glob("*.bedpe.gz")):
        pairs = read_pairs(path, places, length, subject.config.seed, subject.windows)
        group = "MANE introns" if path.name.startswith("gencode") else path.name.split(".")[1].replace("_", " ")
        if len(pairs.ids) < 2:
            rows.append({"metric": group, "n": len(pairs.ids), "value": None})
            continue
        with _bar(f"attention, {group}", len(pairs.ids)) as bar:
            both = np.stack([pairs.places, pairs.controls], axis=1)
            values = pair_attention(subject.model.bert, pairs.ids, both, *subject.how, bar.update)
        rows += attention_rows(group, pairs, values, _RESAMPLES, subject.config.seed)
    return rows, {"nt": length}


def effects(subject: Subject) -> tuple[list[dict], dict[str, Any]]:
    """Delta scores of a model of every base, in the constructs as measured."""
    rows = []
    for name, measured, _ in _tables(subject):
        with _bar(f"effects, {name}", len(measured)) as bar:
            changes = label_changes(subject.model, measured, subject.config.evaluate.batch_size, bar.update)
        rows += _named(name, label_rows(measured, changes, subject.config.seed))
    return rows, {}


def branch_points(subject: Subject) -> tuple[list[dict], dict[str, Any]]:
    """Each base 18 to 44 nt before an acceptor: the encoder fine-tuned, and a probe of its frozen states."""
    length, folder, seed = min(PUBLISHED_WINDOW, subject.limit), subject.data / "branchpoints", subject.config.seed
    regions = read_branch_points(folder / "mercer_dataset.hg19.bed.gz", _hg19(subject), length)
    introns = folder / "bpp_human.tsv.gz"
    sets = [regions, *([read_introns(introns, length, regions)] if introns.is_file() else [])]
    features = [letters(one) for one in sets]
    states = [base_states(subject.model.bert, one.ids, *subject.how)[:, one.inside] for one in sets]
    settings, outside = subject.config.finetune, sets[1] if len(sets) > 1 else None
    with _bar("branch points, epochs", 5 * settings.max_epochs) as bar:
        tuned = fine_tuned_chances(
            subject.model.bert, regions, outside, settings, subject.accelerator, seed, bar.update
        )

    def of(predict: Callable, values: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return predict(values[0], regions.labels, regions.folds, values[1] if outside else values[0][:0])

    floors = of(logistic_chances, features)
    chances = {"fine-tuned": tuned, "a probe": of(logistic_chances, states)}
    chances["weight matrix with distance"] = of(weight_matrix_chances, features)
    rows = []
    for number, (name, one) in enumerate(zip(("Mercer", "BPP's introns"), sets)):
        if one.labels.any():
            of_set = {model: values[number] for model, values in chances.items()}
            rows += _named(name, branch_point_rows(one, of_set, floors[number], seed))
    return rows, {"nt": length}


def _hg19(subject: Subject) -> Placed:
    places = subject.places().get("hg19")
    if places is None:
        raise InputError(f"{subject.data}: no hg19.fa.gz and no genes: python data/fetch.py genes, or hg19")
    return places


def bases(subject: Subject) -> tuple[list[dict], dict[str, Any]]:
    """The finished models of every base of the run (finetune.task bases), on the records that each was tested on; of a
    model that stands alone, HELD_OUT, which the bundled one has not seen."""
    rows = []
    for folder in [] if subject.run is None else finished_fits(subject.run, site=BASES):
        summary = read_json(folder / SUMMARY)
        fit = f"{summary['arm']} seed {summary['seed']} fold {summary['fold']}"
        rows += _rows_of_types(fit, {key.removeprefix("test/"): value for key, value in summary["metrics"].items()})
    if rows:
        return rows, {}
    fasta = subject.data / HELD_OUT
    if not fasta.is_file():
        raise InputError(
            f"{subject.name} is in no run with a finished model of bases (python finetune.py CONFIG.yaml "
            f"--finetune.task bases), and {fasta} is missing (python data/fetch.py genes)"
        )
    settings = BasesConfig(fasta=[str(fasta)], annotation=[str(fasta.with_suffix(".gtf"))])
    genome = read_genome(settings, subject.config.data.cache)
    names = [record.name for record in genome.store.records]
    odds, labels = label_records(subject.model, genome, names, forward=True)
    counts = {kind: int((labels == LABEL[kind]).sum()) for kind in TYPES}
    return _rows_of_types("chr3's genes", score_types(odds, labels), counts), {}


def _rows_of_types(what: str, scores: dict[str, float], counts: dict[str, int] | None = None) -> list[dict]:
    return [
        {"metric": f"{shown} of {kind}s, {what}", "n": counts and counts[kind], "value": scores[f"{key}_{kind}"]}
        for key, shown in (("ap", "AP"), ("topk", "top-k"))
        for kind in ("donor", "acceptor")
    ]


def embeddings(subject: Subject) -> tuple[list[dict], dict[str, Any]]:
    """NMI of labelled GT / AG sites, and their UMAP: those of the config (evaluate.nmi_sites, data.motif_bed), else
    MOTIF_SITES as far as they are here."""
    config, rows, curves = subject.config, [], {}
    for name, sites in _sites(subject).items():
        encoder = Encoder(subject.model.bert, "centre", *subject.how)
        states = encoder.embed_centre(sites.ids, config.evaluate.nmi_layer)
        own = nmi_details(states, sites, config.seed)
        floors = of_floors(
            sites.ids, config.evaluate, lambda values, _, sites=sites: nmi_details(values, sites, config.seed)
        )
        for half in ("gt", "ag"):
            best = max(scores[f"nmi_{half}"] for scores in floors.values())
            row = {"metric": f"{name}, NMI, {half.upper()} half", "n": len(sites.labels), "value": own[f"nmi_{half}"]}
            rows.append(row | {"floor": best})
        few = spread(len(sites.labels), _SHOWN_SITES)
        points = lay_out(states[few], config.seed).round(4).tolist()
        curves[name] = {"points": points, "labels": sites.labels[few].tolist()}
    return rows, curves


def _sites(subject: Subject) -> dict[str, Motifs]:
    """{name: at most subject.windows sites}. Raises InputError where there are none."""
    config = subject.config
    if config.evaluate.nmi_sites == "spliceator" or config.data.motif_bed is not None:
        sets = {"sites of the config": load_nmi_sites(config)[0]}
    else:
        sets = {}
        for name, files in MOTIF_SITES.items():
            bed, fasta = (subject.data / file for file in files)
            if bed.is_file() and fasta.is_file():
                window = min(PUBLISHED_WINDOW, subject.limit)
                of_set = {"motif_bed": str(bed), "motif_fasta": str(fasta), "motif_window": window}
                sets[name] = load_motifs(dataclasses.replace(config.data, **of_set))
    if not sets:
        raise InputError(
            f"no labelled GT / AG sites in {subject.data}: python data/fetch.py spliceator hg19, or "
            "bash scripts/data.sh genes"
        )
    chosen = {name: spread(len(sites.labels), subject.windows) for name, sites in sets.items()}
    return {name: Motifs(sites.ids[chosen[name]], sites.labels[chosen[name]]) for name, sites in sets.items()}


_GENOMES = ("genes/*.fa", "genes/genes.tsv", "chr19.fa.gz", "hg19.fa.gz", "hg38.fa.gz")
_CONSERVATION = "notebook 00-conservation"
RESULTS = {
    "masked": Result(masked, ("genes/genes.tsv",), "genes", _CONSERVATION, also=("genes/*.fa", "genes/*.gtf")),
    "variants": Result(
        variants, (MFASS,), "mfass mfass-peers vexseq", "01-variant", also=(VEXSEQ, "variants/*.peers.tsv.gz")
    ),
    "wide_variants": Result(
        wide_variants, (MFASS,), "mfass vexseq genes chr19", "01-variant", also=(VEXSEQ, *_GENOMES)
    ),
    "effects": Result(effects, (MFASS,), "mfass vexseq", also=(VEXSEQ,), of_bases=True),
    "conservation": Result(
        conservation, (PHASTCONS, MFASS), "conservation mfass", _CONSERVATION, also=("conservation/chr16.tsv.gz",)
    ),
    "mutagenesis": Result(mutagenesis, (PHASTCONS, MFASS), "conservation mfass", "figure only"),
    "attention": Result(
        attention,
        ("attention/hg19.intronic_pair.1000_per_group.bedpe.gz",),
        "attention genes",
        "notebook 03-attention (SpliceBERT.1024nt, 1,000 nt)",
        also=("attention/*.bedpe.gz", *_GENOMES),
    ),
    "branch_points": Result(
        branch_points,
        ("branchpoints/mercer_dataset.hg19.bed.gz",),
        "branchpoints genes",
        "figure only",
        also=("branchpoints/bpp_human.tsv.gz", *_GENOMES),
        sections=("evaluate", "finetune"),
    ),
    "bases": Result(
        bases,
        (),
        "genes",
        "GTEx set, 900 nt, mean of five seeds",
        also=(HELD_OUT, HELD_OUT.replace(".fa", ".gtf")),
        of_bases=True,
    ),
    "embeddings": Result(
        embeddings,
        (),
        "spliceator hg19",
        "notebook 02-embedding (layer 4)",
        also=tuple(file for files in MOTIF_SITES.values() for file in files),
        sections=("data", "evaluate"),
    ),
}
"""In the order in which they are measured."""


def measure(subject: Subject, name: str) -> dict[str, Any]:
    """{rows, curves} of one result. Raises InputError where its data are not there."""
    rows, curves = RESULTS[name].measure(subject)
    return {"rows": [dataclasses.asdict(Row(**row)) for row in rows], "curves": curves}


@dataclass(frozen=True)
class Row:
    """value: ours, with its 95 % interval; floor: what is no model; source: of a value that is not ours."""

    metric: str
    n: int | None
    value: float | None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    source: str = ""


def _named(name: str, rows: list[dict]) -> list[dict]:
    return [row | {"metric": f"{name}, {row['metric']}"} for row in rows]


def _finite_means(values: np.ndarray) -> list[float | None]:
    """Means of the columns of [n, k] over what is finite; None where nothing is."""
    known = np.isfinite(values)
    sums = np.where(known, values, 0).sum(axis=0, dtype=float)
    return [float(total / count) if count else None for total, count in zip(sums, known.sum(axis=0))]


def _bar(what: str, total: int) -> tqdm:
    return tqdm(total=total, desc=what, mininterval=1, disable=None, leave=False)
