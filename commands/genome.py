"""predict: a trained model at work on a genome or on variants."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from accelerate import Accelerator
from tqdm import tqdm

from commands.flags import FlagParser, number_between
from commands.sources import choose_models, config_of
from simcsp.core.config import DEFAULT_CONFIG, Config
from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError
from simcsp.core.files import refuse_input_as_output
from simcsp.genome.journal import FILES
from simcsp.genome.predict import Identity, write_scan, write_sequences, write_variants
from simcsp.genome.regions import find_spans, gene_spans
from simcsp.genome.scan import Scan
from simcsp.genome.sequences import COLUMNS, WINDOW_COLUMNS, label_sequences, score_sequences
from simcsp.genome.tracks import FORMATS
from simcsp.genome.truth import Truth, within
from simcsp.model.bases import BASES_CONFIG, Labeller, load_bases
from simcsp.model.checksums import sha256_folder
from simcsp.model.ensemble import load_ensemble
from simcsp.model.fast_blocks import for_prediction
from simcsp.report.table import score_table
from simcsp.text.known_introns import read_truth
from simcsp.text.sites import SITES
from simcsp.text.store import TokenStore, open_store
from utils.arguments import load_config

PROJECT = Path(__file__).parents[1]
MIN_SCORE = 0.01
"""Of sites that a scan writes: four in five of all GT and AG have a P of 0.0000."""
BUNDLED = PROJECT / "models/simcsp-small-bases"
"""The model of bases that predict uses where no SOURCE is given."""
FAST = PROJECT / "models/simcsp-small-bases-fast"
"""The smaller one that --fast uses."""
PREDICT_HELP = """\
Scores every GT (donor) and AG (acceptor) of a genome, on both strands; or, with --vcf, what variants change.
SOURCE: a model of bases (default: models/simcsp-small-bases); for --fasta_windows also classifiers of windows: a run
folder, an arm, one fold or one checkpoint, of whose folds the mean is taken. Whatever else is given goes to the config
(--device cuda); CONFIG.yaml: for a checkpoint from elsewhere."""

SUFFIXES = {"spsc": "spsc", "bed": "bed", "bedgraph": "bedgraph", "bg": "bedgraph", "bw": "bigwig", "bigwig": "bigwig"}
PREDICT_NOTES = """\
Positions are 1-based and those of the exon's base at the boundary (exon ends of a GTF, SpliceAI).
--fasta_windows: a row for each GT and AG of every sequence, or, by classifiers of windows, the score at its centre.
--format spsc: minisplice's table, for --spsc of minimap2 (2.29 or newer; tried with 2.31) and miniprot (0.16 or newer).
Where --out is given, a command that was stopped resumes when it is given again, from what stands in OUT.partial.
--vcf writes the VCF with INFO SimCSP, laid out as SpliceAI's: ALLELE|SYMBOL|DS_AG|DS_AL|DS_DG|DS_DL|DP_AG|DP_AL|DP_DG|
DP_DL, gain and loss of the best acceptor and donor, and where from POS. Alleles may have any length; sites are looked
for within --flank of POS, as with SpliceAI's -D: a longer deletion wants a longer one. SYMBOL is percent-encoded."""


def read_flags(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags of predict, and the words for the config: any other --name with its value."""
    parser = FlagParser("predict", PREDICT_HELP, PREDICT_NOTES)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="[SOURCE] GENOME.fa[.gz] [CONFIG.yaml]")
    share, natural = number_between(float, 0, 1), number_between(int, 0, 10_000)
    add = parser.add_argument
    add("--out", type=Path, help="output file, gzipped if it ends in .gz (default: stdout)")
    add("--format", choices=FORMATS, help="default: what --out ends in, else tsv")
    add("--sites", choices=("motifs", "all"), default="motifs", help="GT and AG, or any position")
    add("--min_score", type=share, help=f"minimum score to write (default: {MIN_SCORE}; of spsc and sequences 0)")
    add("--region", action="append", default=[], metavar="CHROM[:START-END]", help="or a gene of --annotation")
    add("--fasta_windows", "--fasta-windows", action="store_true", help="plain sequences without coordinates")
    add("--regions_file", type=Path, metavar="BED", help="regions, plain or gzipped")
    add("--fast", action="store_true", help=f"use models/{FAST.name}, where no SOURCE is given")
    add("--arm", help="of a run with several (default: baseline)")
    add("--site", choices=(*SITES, "both"), help="use the models fitted on this")
    add("--truth", type=Path, help="GTF, GFF3 or table of introns: AP and recall on this genome")
    add("--vcf", type=Path, help="variants: VCF or BCF, - for stdin")
    add(
        "--flank",
        type=natural,
        default=50,
        help="--vcf: nt on either side of POS in which sites are looked for (default 50)",
    )
    add("--annotation", type=Path, help="GTF or GFF3: whole genes; --vcf: their names and strands")
    add(
        "--mask", action="store_true", help="--vcf: SpliceAI's -M: 0 for a gain of an annotated, a loss of another site"
    )
    add("--strict", action="store_true", help="--vcf: stop if REF differs from the FASTA")
    asked, others = parser.read(words)
    asked.source, asked.genome, asked.config = split_inputs("predict", asked.inputs)
    if asked.fast:
        if asked.source != BUNDLED:
            raise InputError(f"--fast is the bundled models/{FAST.name}; it does not go with a SOURCE ({asked.source})")
        asked.source = FAST
    if asked.out is not None and asked.out.is_dir():
        raise InputError(f"--out {asked.out} is a folder: give the name of a file")
    inputs = [asked.source, asked.genome, asked.config, asked.vcf, asked.annotation, asked.truth, asked.regions_file]
    refuse_input_as_output(asked.out, inputs)
    _refuse_combinations(asked)
    if asked.format is None:
        suffix = "" if asked.out is None else asked.out.name.removesuffix(".gz").rpartition(".")[2].lower()
        asked.format = SUFFIXES.get(suffix, "tsv")
    if asked.min_score is None:
        asked.min_score = 0.0 if asked.fasta_windows or asked.format == "spsc" else MIN_SCORE
    if asked.fasta_windows and asked.format != "tsv":
        raise InputError(f"predict: --fasta_windows are written as tsv: {asked.format} has coordinates")
    if asked.format == "bigwig" and asked.out is None:
        raise InputError("--format bigwig writes a file for each type and strand: give --out NAME.bw")
    return asked, others


def _refuse_combinations(asked: argparse.Namespace) -> None:
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
        raise InputError("--mask needs --annotation: it compares with the annotated sites")
    if asked.annotation is not None and asked.regions_file is not None:
        raise InputError("predict: --regions_file and --annotation are mutually exclusive")


def split_inputs(command: str, inputs: list[Path]) -> tuple[Path, Path, Path | None]:
    """(source, genome, config) of the words without a flag: a folder that comes first is the source."""
    config = inputs[-1] if inputs[-1].suffix in (".yaml", ".yml") else None
    places = inputs if config is None else inputs[:-1]
    if len(places) == 1 and not places[0].is_dir():
        return BUNDLED, places[0], config
    if len(places) != 2:
        raise InputError(f"{command}: expected [SOURCE] GENOME.fa[.gz] [CONFIG.yaml] (see {command} --help)")
    if not places[0].is_dir():
        raise InputError(f"{places[0]} does not exist: give a run folder (runs/demo), a fold or a checkpoint")
    return *places, config


def is_of_bases(source: Path) -> bool:
    return (source / BASES_CONFIG).is_file()


def model_config(source: Path, given: Path | None, words: list[str]) -> Config:
    """The config that a model works under: that of its run, or the one given."""
    files = [str(given)] if given else []
    if is_of_bases(source):
        return load_config([*(files or [str(PROJECT / DEFAULT_CONFIG)]), *words])
    return config_of(source, [*files, *words])


def load_labeller(source: Path, accelerator: Accelerator) -> Labeller:
    model, calibration = load_bases(source)
    return Labeller(for_prediction(model, accelerator), calibration, accelerator.device, accelerator.autocast)


def show_predict(words: list[str]) -> None:
    """Scores of a genome's sites, of the variants in it, or of plain sequences."""
    asked, others = read_flags(words)
    if not asked.fasta_windows and not is_of_bases(asked.source):
        raise InputError(
            f"predict: {asked.source} contains no model of bases; classifiers of windows score --fasta_windows only: "
            f"to scan a genome or variants, omit SOURCE for models/{BUNDLED.name}, or train with finetune.task bases"
        )
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")  # scores are read by programs, whatever the locale
    config = model_config(asked.source, asked.config, others)
    accelerator = build_accelerator(config.device, config.precision)
    if asked.fasta_windows:
        own_size = any(word.split("=")[0] == "--evaluate.batch_size" for word in others)
        predict_sequences(asked, config, accelerator, config.evaluate.batch_size if own_size else None)
        return
    labeller = load_labeller(asked.source, accelerator)
    store = open_store([asked.genome], config.data.cache)
    files = {"model": asked.source, "FASTA": asked.genome, "--vcf": asked.vcf, "--annotation": asked.annotation}
    files["--region"] = asked.regions_file or asked.annotation
    identity = {
        "--device or --precision": [str(accelerator.device.type), str(accelerator.mixed_precision)],
        "model": sha256_folder(asked.source),
        "FASTA": store.sha256,
        FILES: {name: str(path) for name, path in files.items() if path is not None},
    }
    work = predict_sites if asked.vcf is None else predict_variants
    work(asked, store, labeller, identity)


def say(asked: argparse.Namespace, line: str) -> None:
    """A line for the reader: on stderr where the scores go to stdout."""
    only_table = asked.truth is not None
    print(line, file=sys.stderr if asked.out is None and not only_table else sys.stdout, flush=True)


def predict_sites(asked: argparse.Namespace, store: TokenStore, labeller: Labeller, identity: Identity) -> None:
    genes = None if asked.annotation is None else gene_spans(asked.annotation, store)
    spans = find_spans(asked.region, store, asked.regions_file, genes)
    types = (asked.site,) if asked.site in SITES else SITES
    scan = Scan(store, labeller, spans, types, asked.sites == "all", asked.min_score)
    truth = None if asked.truth is None else Truth(within(read_truth(asked.truth, store), spans, store), store)
    say(asked, f"{asked.source}: per-base model, on {labeller.device}")
    progress = Progress(scan.positions, "b")
    stream = None if truth else sys.stdout
    result = write_scan(scan, asked.format, asked.out, stream, identity, progress.advance, truth)
    speed = progress.close()
    if truth is not None:
        show_truth(truth, asked.truth)
    line = f"{result.scored:,} sites"
    line += f", {result.written:,} of them at least {asked.min_score:g}" if asked.min_score else ""
    line += f" in {scan.positions / 1e6:.3f} Mb, {speed / 1e6:.3f} Mb a minute"
    line += f", in {', '.join(path.name for path in result.files)}" if asked.format == "bigwig" else ""
    say(asked, line if asked.out is None else f"{asked.out}: {line}")


def show_truth(truth: Truth, path: Path) -> None:
    table = truth.table()
    if not table:
        print(f"{path}: no candidate was scored, so there is no comparison")
        return
    print(f"average precision, and recall at 10 % false discovery, among all candidates; {path}")
    print(score_table(table))


def predict_variants(asked: argparse.Namespace, store: TokenStore, labeller: Labeller, identity: Identity) -> None:
    from simcsp.genome.effects import Effects, read_genes
    from simcsp.genome.vcf import count_alleles

    is_stream = str(asked.vcf) == "-"
    if not is_stream and not asked.vcf.is_file():
        raise InputError(f"--vcf {asked.vcf} does not exist")
    genes = None if asked.annotation is None else read_genes(asked.annotation, store)
    effects = Effects(store, labeller, asked.flank, genes, asked.mask, asked.strict)
    say(asked, f"{asked.source}: per-base model, on {labeller.device}")
    progress = Progress(None if is_stream else count_alleles(str(asked.vcf)), "variants")
    skipped = write_variants(asked.vcf, asked.annotation, asked.out, effects, identity, progress.advance)
    speed, done = progress.close(), progress.done
    for reason, count in skipped.items():
        say(asked, f"{count:,} left out: {reason}")
    line = f"{done - sum(skipped.values()):,} of {done:,} alleles scored, {speed / 60:,.1f} a second"
    if beyond := effects.alleles.counts["beyond_flank"]:
        reason = f"REF reaches beyond POS + {asked.flank}, where no site is looked for: a larger --flank sees its end"
        say(asked, f"{beyond:,} scored in part: {reason}")
    say(asked, line if asked.out is None else f"{asked.out}: {line}")


def predict_sequences(
    asked: argparse.Namespace, config: Config, accelerator: Accelerator, batch_size: int | None
) -> None:
    """Score plain sequences: the sites of each by a model of bases, the centre of each by classifiers of windows."""
    if is_of_bases(asked.source):
        labeller, described = load_labeller(asked.source, accelerator), f"{asked.source}: per-base model"
        store = open_store([asked.genome], config.data.cache)
        types = (asked.site,) if asked.site in SITES else SITES
        columns, rows = COLUMNS, label_sequences(store, labeller, types, asked.sites == "all", asked.min_score)
    else:
        folders, described = choose_models(asked.source, asked.arm, asked.site)
        ensemble = load_ensemble(folders, config, accelerator.device, batch_size, accelerator.autocast)
        described += f", windows of {ensemble.length} nt, {ensemble.batch_size} a batch"
        store = open_store([asked.genome], config.data.cache)
        columns, rows = WINDOW_COLUMNS, score_sequences(store, ensemble)
    say(asked, f"{described}, on {accelerator.device}")
    progress = Progress(sum(record.length for record in store.records), "b")
    written = write_sequences(columns, rows, asked.out, sys.stdout, progress.advance)
    progress.close()
    line = f"{written:,} scores of {len(store.records):,} sequences"
    say(asked, line if asked.out is None else f"{asked.out}: {line}")


class Progress:
    """A bar on a terminal; elsewhere a line on stderr after 20 seconds, then one a minute. total: None where it is not
    known beforehand."""

    FIRST, INTERVAL = 20.0, 60.0  # seconds

    def __init__(self, total: int | None, unit: str) -> None:
        self.total, self.unit, self.done, self.before = total, unit, 0, 0
        self.began = time.perf_counter()
        self.due = self.began + self.FIRST
        hidden = not sys.stderr.isatty()
        self.bar = tqdm(total=total, desc="predict", unit=unit, unit_scale=True, disable=hidden, dynamic_ncols=True)

    def advance(self, count: int, was_done: bool = False) -> None:
        """So many more are done. was_done: by a command that was stopped."""
        self.done += count
        if was_done:
            self.before = self.done
            self.began = time.perf_counter()
            self.due = self.began + self.FIRST
            self.bar.initial = self.bar.n = self.done
            self.bar.start_t = self.bar.last_print_t = time.time()
            return
        if self.done - count == self.before > 0:
            self.bar.write(f"resumed after {self.before:,} {self.unit}", file=sys.stderr)
        self.bar.update(count)
        now = time.perf_counter()
        if self.bar.disable and now >= self.due:
            self.due = now + self.INTERVAL
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
