"""predict: a trained model at work on a genome or on variants."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from accelerate import Accelerator
from tqdm import tqdm

from commands.flags import FlagParser, number_between
from commands.sources import config_of, enclosing_run, fold_folders
from simcsp.core.arms import BASELINE, holds_classifier, job_of
from simcsp.core.config import DEFAULT_CONFIG, Config
from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError
from simcsp.core.files import sha256_file, written_aside
from simcsp.genome.journal import Journal
from simcsp.genome.regions import Span, find_spans, gene_spans
from simcsp.genome.resume import scan_on
from simcsp.genome.scan import Ensemble, Scored, candidates, label_sites, load_ensemble, score_sites
from simcsp.genome.sequences import COLUMNS as SEQUENCE_COLUMNS
from simcsp.genome.sequences import WINDOW_COLUMNS, label_sequences, score_sequences
from simcsp.genome.tracks import FORMATS, write_bigwigs, write_scores
from simcsp.genome.truth import Truth, within
from simcsp.genome.variants import COLUMNS as VARIANT_COLUMNS
from simcsp.genome.variants import count_variants, effects, row_of
from simcsp.labels.splits import has_training_windows, training_windows
from simcsp.model.bases import BASES_CONFIG, Labeller, load_bases
from simcsp.model.checksums import sha256_folder
from simcsp.report.table import score_table
from simcsp.text.known_introns import read_truth
from simcsp.text.sites import SITES
from simcsp.text.store import TokenStore, open_store
from utils.arguments import load_config

PROJECT = Path(__file__).parents[1]
BOXED = PROJECT / "models/simcsp-small-bases"
"""The model of bases that predict uses where no SOURCE is given."""
UNTYPED_VCF = (
    "--vcf: {} was fitted on both types of site and cannot tell a donor from an acceptor, which gains and losses are "
    "of: leave SOURCE out to use models/simcsp-small-bases, or fine-tune with --finetune.sites [donor, acceptor]"
)
PREDICT_HELP = """\
Scores every GT (donor) and AG (acceptor) of a genome, on both strands; or, with --vcf, what variants change.
SOURCE: a model of bases (default: models/simcsp-small-bases), or classifiers of windows: a run folder, an arm, one fold
or one checkpoint, of whose folds the mean is taken. Whatever else is given goes to the config (--device cuda);
CONFIG.yaml: for a checkpoint from elsewhere."""

SUFFIXES = {"spsc": "spsc", "bed": "bed", "bedgraph": "bedgraph", "bg": "bedgraph", "bw": "bigwig", "bigwig": "bigwig"}
PREDICT_NOTES = """\
Positions are 1-based and those of the exon's base at the boundary (exon ends of a GTF, SpliceAI). Sites whose window
reaches beyond the record or holds too many N (data.max_n_share) are left out and counted (classifiers of windows).
--fasta_windows: a row for each GT and AG of every sequence, or, by classifiers of windows, the score at its centre.
--format spsc: minisplice's table, for --spsc of minimap2 (2.29 or newer; tried with 2.31) and miniprot (0.16 or newer).
Where --out is given, a command that was stopped goes on when it is given again, from what stands in OUT.partial.
--vcf writes the VCF with INFO SimCSP, laid out as SpliceAI's: ALLELE|SYMBOL|DS_AG|DS_AL|DS_DG|DS_DL|DP_AG|DP_AL|DP_DG|
DP_DL, gain and loss of the best acceptor and donor, and where from POS. Classifiers of windows fitted on one type each
write a table of the same columns, with ST_* strand and SD_* standard deviation over the folds."""


def read_flags(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags of predict, and the words for the config: any other --name with its value."""
    parser = FlagParser("predict", PREDICT_HELP, PREDICT_NOTES)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="[SOURCE] GENOME.fa[.gz] [CONFIG.yaml]")
    share, natural = number_between(float, 0, 1), number_between(int, 0, 10_000)
    add = parser.add_argument
    add("--out", type=Path, help="file to write, gzipped where it ends in .gz (default: stdout)")
    add("--format", choices=FORMATS, help="default: what --out ends in, else tsv")
    add("--sites", choices=("motifs", "all"), default="motifs", help="GT and AG, or any position")
    add("--min_score", type=share, default=0.0, help="write sites of at least this score")
    add("--region", action="append", default=[], metavar="CHROM[:START-END]", help="or a gene of --annotation")
    add(
        "--fasta_windows",
        "--fasta-windows",
        action="store_true",
        help="plain sequences without coordinates",
    )
    add("--regions_file", type=Path, metavar="BED", help="regions, plain or gzipped")
    add("--arm", help="of a run with several (default: baseline)")
    add("--site", choices=(*SITES, "both"), help="use the models fitted on this")
    add("--truth", type=Path, help="GTF, GFF3 or table of introns: AP and recall on this genome")
    add("--vcf", type=Path, help="variants: VCF or BCF, - for stdin")
    add("--flank", type=natural, default=50, help="--vcf: nt about a variant (default 50)")
    add("--annotation", type=Path, help="GTF or GFF3: whole genes; --vcf: their names and strands")
    add("--mask", action="store_true", help="--vcf: no gain of annotated, no loss of other sites")
    add("--strict", action="store_true", help="--vcf: stop where REF is not what the FASTA has")
    asked, others = parser.read(words)
    asked.source, asked.genome, asked.config = split_inputs("predict", asked.inputs)
    if asked.out is not None and asked.out.is_dir():
        raise InputError(f"--out {asked.out} is a folder: give the name of a file")
    if asked.vcf is not None:
        for name in ("format", "region", "regions_file", "truth", "min_score"):
            if getattr(asked, name) not in (None, [], 0.0, "tsv"):
                raise InputError(f"predict: --{name} is for the sites of a genome; it does not go with --vcf")
        if asked.sites == "all":
            raise InputError("predict: --sites all does not go with --vcf, which compares GT and AG sites")
    if asked.fasta_windows:
        for name in ("vcf", "region", "regions_file", "truth", "annotation"):
            if getattr(asked, name):
                raise InputError(f"predict: --{name} needs a genome; --fasta_windows are sequences without coordinates")
    if asked.mask and asked.annotation is None:
        raise InputError("--mask needs --annotation: annotated sites are what it looks at")
    if asked.annotation is not None and asked.regions_file is not None:
        raise InputError("predict: --regions_file and --annotation both say which regions: give one of them")
    if asked.format is None:
        suffix = "" if asked.out is None else asked.out.name.removesuffix(".gz").rpartition(".")[2].lower()
        asked.format = SUFFIXES.get(suffix, "tsv")
    if asked.fasta_windows and asked.format != "tsv":
        raise InputError(f"predict: --fasta_windows are written as tsv: {asked.format} has coordinates")
    if asked.format == "bigwig" and asked.out is None:
        raise InputError("--format bigwig writes a file for each type and strand: give --out NAME.bw")
    return asked, others


def split_inputs(command: str, inputs: list[Path]) -> tuple[Path, Path, Path | None]:
    """(source, genome, config) of the words without a flag: a folder that comes first is the source."""
    config = inputs[-1] if inputs[-1].suffix in (".yaml", ".yml") else None
    places = inputs if config is None else inputs[:-1]
    if len(places) == 1 and not places[0].is_dir():
        return BOXED, places[0], config
    if len(places) != 2:
        raise InputError(f"{command}: expected [SOURCE] GENOME.fa[.gz] [CONFIG.yaml] (see {command} --help)")
    if not places[0].is_dir():
        raise InputError(f"{places[0]} does not exist: give a run folder (runs/demo), a fold or a checkpoint")
    return *places, config


def is_of_bases(source: Path) -> bool:
    """Whether a folder holds a model of bases."""
    return (source / BASES_CONFIG).is_file()


def model_config(source: Path, given: Path | None, words: list[str]) -> Config:
    """The config that a model works under: that of its run, or the one given."""
    files = [str(given)] if given else []
    if is_of_bases(source):
        return load_config([*(files or [str(PROJECT / DEFAULT_CONFIG)]), *words])
    return config_of(source, [*files, *words])


def load_labeller(source: Path, accelerator: Accelerator) -> Labeller:
    """A model of bases on its device."""
    labeller = Labeller(*load_bases(source), accelerator.device, accelerator.autocast)
    labeller.model.to(accelerator.device)
    return labeller


def show_predict(words: list[str]) -> None:
    """Scores of a genome's sites, or of the variants in it, from a model of bases or the models of one arm."""
    asked, others = read_flags(words)
    of_bases, config = is_of_bases(asked.source), model_config(asked.source, asked.config, others)
    accelerator = build_accelerator(config.device, config.precision)
    silent = asked.out is None and asked.truth is not None  # the table is what was asked for
    to_stdout = asked.out is None and not silent
    say = partial(print, file=sys.stderr if to_stdout else sys.stdout, flush=True)
    skipped: Counter[str] = Counter()
    job = {"--device or --precision": [str(accelerator.device.type), str(accelerator.mixed_precision)]}
    if of_bases:
        labeller = load_labeller(asked.source, accelerator)
        described = f"{asked.source}: every base at once, on {accelerator.device}"
        job["model"] = sha256_folder(asked.source)
        store = open_store([asked.genome], config.data.cache)
        if asked.fasta_windows:
            types = (asked.site,) if asked.site in SITES else SITES
            rows = label_sequences(store, labeller, types, asked.sites == "all", asked.min_score)
            write = prepare_sequences(store, SEQUENCE_COLUMNS, rows)
        elif asked.vcf is None:
            write = prepare_sites(asked, config, store, bases_scan(asked, store, labeller), skipped, job)
        else:
            write = prepare_vcf(asked, store, labeller, skipped, job)
    else:
        folders, described = choose_models(asked.source, asked.arm, asked.site)
        if asked.vcf is not None and "both" in folders:
            raise InputError(UNTYPED_VCF.format(asked.source))
        own_size = any(word.split("=")[0] == "--evaluate.batch_size" for word in others)
        batch_size = config.evaluate.batch_size if own_size else None
        ensemble = load_ensemble(folders, config, accelerator.device, batch_size, accelerator.autocast)
        described += f", windows of {ensemble.length} nt, {ensemble.batch_size} a batch on {accelerator.device}"
        job["model"] = {site: [sha256_folder(folder) for folder in members] for site, members in folders.items()}
        job["data.context, max_n_share or batch size"] = [ensemble.length, config.data.max_n_share, ensemble.batch_size]
        store = open_store([asked.genome], config.data.cache)
        if asked.format == "spsc" and not ensemble.typed:
            raise InputError(f"--format spsc says D or A, and {asked.source} cannot tell a donor from an acceptor")
        if asked.fasta_windows:
            write = prepare_sequences(store, WINDOW_COLUMNS, score_sequences(store, ensemble))
        elif asked.vcf is None:
            scan = windows_scan(asked, config, store, ensemble, skipped)
            write = prepare_sites(asked, config, store, scan, skipped, job)
        else:
            write = prepare_variants(asked, config, store, ensemble, skipped)
    say(described)
    by_itself = asked.format == "bigwig" or (of_bases and asked.vcf is not None)  # its library opens the file
    with resuming(asked, of_bases, {**job, "FASTA": store.sha256}) as journal:
        if asked.out is None or by_itself:
            ending = write(sys.stdout if to_stdout else None, journal)
        else:
            with written_aside(asked.out) as handle:
                ending = write(handle, journal)
    for reason, count in skipped.items():
        if count:
            say(f"{count:,} left out: {reason}")
    say(ending if asked.out is None else f"{asked.out}: {ending}")


@contextmanager
def resuming(asked: argparse.Namespace, of_bases: bool, job: dict[str, object]) -> Iterator[Journal | None]:
    """The journal OUT.partial of what goes to a file, removed when that is whole, or cannot be made of this input.

    None where nothing can be gone on with: stdout, variants of stdin, the table of variants, plain sequences.
    """
    if asked.out is None or asked.fasta_windows or (asked.vcf is not None and (str(asked.vcf) == "-" or not of_bases)):
        yield None
        return
    with Journal(asked.out.with_name(f"{asked.out.name}.partial"), job) as journal:
        try:
            yield journal
        except (InputError, FloatingPointError):
            journal.remove()
            raise
        journal.remove()


def choose_models(source: Path, arm: str | None, site: str | None) -> tuple[dict[str, list[Path]], str]:
    """{what they were fitted on: classifier checkpoints} of one arm, and a line that says which."""
    if holds_classifier(source):  # one checkpoint: in its fold, or from elsewhere
        inside = enclosing_run(source) is not None
        known = str(job_of(source.resolve().parents[1])["site"]) if inside else site or "both"
        if site not in (None, known):
            raise InputError(f"--site {site}: {source} was fitted on {known}")
        return {known: [source]}, f"{source} (fitted on {known})"
    jobs = [(job_of(folder), folder / "checkpoints/best") for folder in fold_folders(source)]
    arms = sorted({str(job["arm"]) for job, _ in jobs})
    arm = arm or (arms[0] if len(arms) == 1 else BASELINE)
    if arm not in arms:
        raise InputError(f"--arm {arm}: {source} has finished classifiers of {', '.join(arms)}")
    folders: dict[str, list[Path]] = {}
    for job, folder in jobs:
        if job["arm"] == arm and site in (None, job["site"]):
            folders.setdefault(str(job["site"]), []).append(folder)
    if not folders:
        raise InputError(f"--site {site}: {source} has no finished classifier of {arm} fitted on it")
    if set(SITES) <= folders.keys():
        folders.pop("both", None)  # each type has models of its own
    counts = ", ".join(f"{len(members)} fitted on {name}" for name, members in sorted(folders.items()))
    return folders, f"{source}: {arm}, mean of {counts}"


@dataclass(frozen=True)
class Scan:
    """How sites are scored. blocks: spans (record, first, last position) -> (scored sites, positions passed).

    members: models that score a site, at most; window: nt about a site that a score needs, 0 for a model of bases;
    typed: whether a score tells a donor from an acceptor.
    """

    blocks: Callable[[Sequence[Span]], Iterator[tuple[Scored, int]]]
    members: int
    window: int
    typed: bool


def bases_scan(asked: argparse.Namespace, store: TokenStore, labeller: Labeller) -> Scan:
    """The scan of a model of bases."""
    types = [asked.site] if asked.site in SITES else SITES
    return Scan(lambda spans: label_sites(store, spans, labeller, types, asked.sites == "all"), 1, 0, True)


def windows_scan(
    asked: argparse.Namespace, config: Config, store: TokenStore, ensemble: Ensemble, skipped: Counter[str]
) -> Scan:
    """The scan of models of windows."""

    def blocks(spans: Sequence[Span]) -> Iterator[tuple[Scored, int]]:
        every, max_n_share = asked.sites == "all", config.data.max_n_share
        for sites, passed in candidates(store, spans, ensemble.types, ensemble.length, every, max_n_share, skipped):
            yield score_sites(store, sites, ensemble), passed

    return Scan(blocks, ensemble.members, ensemble.length, ensemble.typed)


def prepare_sites(
    asked: argparse.Namespace,
    config: Config,
    store: TokenStore,
    scan: Scan,
    skipped: Counter[str],
    job: dict[str, object],
) -> Callable[[TextIO | None, Journal | None], str]:
    """Check what was asked; returns what writes the scores (None: nowhere), shows the table and says what was done.

    job: is told what the scores depend on.
    """
    genes = None if asked.annotation is None else gene_spans(asked.annotation, store)
    spans = find_spans(asked.region, store, asked.regions_file, genes)
    short = [store.records[number].name for number, *_ in spans if store.records[number].length < scan.window]
    if short:
        names = f"{', '.join(short[:3])}{', ...' if len(short) > 3 else ''}"
        skipped[f"records shorter than the window of {scan.window} nt ({names})"] = len(short)
    truth = None
    if asked.truth is not None:
        annotated = within(read_truth(asked.truth, store), spans, store)
        known = (asked.config is not None or scan.window) and has_training_windows(config.data)
        training = training_windows(config.data)[0] if known else None
        truth = Truth(annotated, store, training, scan.window or config.data.context, config.evaluate.pwm_flank)
    total = sum(last - first + 1 for _, first, last in spans)
    least = 0.0 if truth else asked.min_score  # of what the journal keeps
    job |= {"--region": spans, "--sites": asked.sites, "--site": asked.site, "--min_score or --truth": least}

    def write(handle: TextIO | None, journal: Journal | None) -> str:
        progress, count = Progress(total, "b"), 0

        def blocks() -> Iterator[Scored]:
            nonlocal count
            for block, scored, passed in scan_on(scan.blocks, spans, least, skipped, journal):
                count += scored
                if truth is not None and len(block):
                    truth.add(block)
                progress.advance(passed, journal is not None and journal.replaying)
                yield block.take(block.mean >= asked.min_score)

        if asked.format == "bigwig":
            written, files = write_bigwigs(asked.out.with_suffix(""), store, blocks())
        elif handle is None:
            written = sum(map(len, blocks()))
        else:
            scratch = asked.out.parent if asked.out else None
            written = write_scores(handle, asked.format, store, blocks(), scan.members, scratch, scan.typed)
        speed = progress.close()
        if truth is not None:
            show_truth(truth, asked.truth, config.data.spliceator)
        above = f", {written:,} of them at least {asked.min_score:g}" if asked.min_score else ""
        tracks = f", in {', '.join(path.name for path in files)}" if asked.format == "bigwig" else ""
        return f"{count:,} sites{above} in {total / 1e6:.3f} Mb, {speed / 1e6:.3f} Mb a minute{tracks}"

    return write


def show_truth(truth: Truth, path: Path, training: str | None) -> None:
    """How well the scores find what is annotated, and what stands beside it. training: data.spliceator."""
    table = truth.table()
    if not table:
        print(f"{path}: no candidate was scored, so there is nothing to compare with it")
        return
    print(f"average precision, and recall at 10 % false discovery, among all candidates; {path}")
    print(score_table(table))
    if truth.kmers is not None:
        print(f"trained: left out, their window shares {truth.kmers.k} nt in a row with a training window")
    else:
        print(
            f"the training windows (data.spliceator: {training}) are not there: no weight matrix to compare with, and "
            "candidates that the models were trained on are not left out"
        )


def prepare_sequences(
    store: TokenStore, columns: tuple[str, ...], rows: Iterator[tuple[list[str], int]]
) -> Callable[[TextIO, None], str]:
    """What writes a row for each score of plain sequences, and says what was done."""

    def write(handle: TextIO, _: Journal | None) -> str:
        progress, written = Progress(sum(record.length for record in store.records), "b"), 0
        handle.write("\t".join(columns) + "\n")
        for lines, passed in rows:
            handle.writelines(lines)
            written += len(lines)
            progress.advance(passed)
        progress.close()
        return f"{written:,} scores of {len(store.records):,} sequences"

    return write


def prepare_vcf(
    asked: argparse.Namespace,
    store: TokenStore,
    labeller: Labeller,
    skipped: Counter[str],
    job: dict[str, object],
) -> Callable[[None, Journal | None], str]:
    """Check the files; returns what writes the VCF with its scores, and says what was done.

    job: is told what they are.
    """
    from simcsp.genome.vcf import Effects, annotate, read_genes  # pysam takes a while

    if str(asked.vcf) != "-" and not asked.vcf.is_file():
        raise InputError(f"--vcf {asked.vcf} does not exist")
    genes = None if asked.annotation is None else read_genes(asked.annotation, store)
    effects = Effects(store, labeller, asked.flank, genes, asked.mask, asked.strict)
    for name in ("vcf", "annotation"):
        path = getattr(asked, name)
        job[f"--{name}"] = sha256_file(path) if path is not None and path.is_file() else None
    job |= {f"--{name}": getattr(asked, name) for name in ("flank", "mask", "strict")}

    def write(_: TextIO | None, journal: Journal | None) -> str:
        progress = Progress(None, "variants")
        for passed in annotate(str(asked.vcf), asked.out, effects, skipped, journal):
            progress.advance(passed, journal is not None and journal.replaying)
        speed = progress.close()
        done = progress.done
        return f"{done - sum(skipped.values()):,} of {done:,} alleles scored, {speed / 60:,.1f} a second"

    return write


def prepare_variants(
    asked: argparse.Namespace, config: Config, store: TokenStore, ensemble: Ensemble, skipped: Counter[str]
) -> Callable[[TextIO, None], str]:
    """Check the variants; returns what writes a row for each allele that can be scored, and says what was done."""
    total = count_variants(asked.vcf, store)

    def write(handle: TextIO, _: Journal | None) -> str:
        progress, written = Progress(total, "variants"), 0
        handle.write("\t".join(VARIANT_COLUMNS) + "\n")
        for rows, passed in effects(
            asked.vcf, store, ensemble, asked.flank, config.data.max_n_share, asked.strict, skipped
        ):
            handle.writelines(row_of(*row) for row in rows)
            written += len(rows)
            progress.advance(passed)
        return f"{written:,} of {total:,} alleles scored, {progress.close():,.0f} a minute"

    return write


class Progress:
    """A bar on a terminal; elsewhere a line a minute on stderr. total: None where it is not known beforehand."""

    INTERVAL = 60.0  # seconds

    def __init__(self, total: int | None, unit: str) -> None:
        self.total, self.unit, self.done, self.before = total, unit, 0, 0
        self.began = self.shown = time.perf_counter()
        hidden = not sys.stderr.isatty()
        self.bar = tqdm(total=total, desc="predict", unit=unit, unit_scale=True, disable=hidden, dynamic_ncols=True)

    def advance(self, count: int, was_done: bool = False) -> None:
        """So many more are done. was_done: by a command that was stopped."""
        self.done += count
        if was_done:
            self.before = self.done
            self.began = self.shown = time.perf_counter()
            self.bar.initial = self.bar.n = self.done
            self.bar.start_t = self.bar.last_print_t = time.time()
            return
        if self.done - count == self.before > 0:
            self.bar.write(f"goes on after {self.before:,} {self.unit}", file=sys.stderr)
        self.bar.update(count)
        now = time.perf_counter()
        if self.bar.disable and now - self.shown >= self.INTERVAL:
            self.shown = now
            minutes = (now - self.began) / 60
            line = f"{self.done:>14,} {self.unit} {minutes:8.1f} min"
            if self.total is not None:
                left = minutes * (self.total - self.done) / max(self.done - self.before, 1)
                line = f"{self.done:>14,} of {self.total:,} {self.unit} {minutes:8.1f} min {left:8.1f} min left"
            print(line, file=sys.stderr, flush=True)

    def close(self) -> float:
        """How many a minute, of those that this command did."""
        self.bar.close()
        return 60 * (self.done - self.before) / (time.perf_counter() - self.began)
