"""splicebert: SpliceBERT's published results, measured on any checkpoint like it."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from commands.flags import FlagParser, number_between
from commands.sources import config_of, enclosing_run, encoders
from simcsp.core import run_layout as layout
from simcsp.core.config import DEFAULT_CONFIG, Config, to_dict
from simcsp.core.device import build_accelerator, give_back_freed_memory, set_seed
from simcsp.core.errors import InputError
from simcsp.core.files import read_json, sha256_file, write_json
from simcsp.model.bases import BASES_CONFIG, Labeller, load_bases
from simcsp.model.checkpoint import load_backbone
from simcsp.model.checksums import sha256_folder
from simcsp.model.encoder import fresh_like
from simcsp.model.fast_blocks import for_prediction
from simcsp.report.splicebert import check_pairs, difference_cells, write_results
from simcsp.report.splicebert_results import PUBLISHED_WINDOW, RESULTS, Subject, measure
from simcsp.report.table import aligned
from utils.arguments import load_config

HELP = """\
SpliceBERT's published results on one or several checkpoints, each beside its floor and the published figure, as far as
the data are here; what is missing is said with the command that fetches it. Writes results.csv and index.html. A
finished result is not measured again. SOURCE as elsewhere, or a model of every base, which has results of its own; a
checkpoint from elsewhere needs no config."""
FORMAT = 3  # of what is kept of a result
FRESH = "fresh weights"
Checkpoint = tuple[Path, str, Path, bool]
"""Source, name in the table, folder, whether its weights are made anew at random."""
_HASHED = 64 * 2**20  # bytes: larger files are told apart by their size


def show_splicebert(words: list[str]) -> None:
    """Measure, or read what was measured before; write the table and the page."""
    parser = FlagParser("splicebert", HELP)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="SOURCE [SOURCE ...] [CONFIG.yaml]")
    parser.add_argument("--only", action="append", choices=list(RESULTS), help="a result; repeatable (all)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that data/fetch.py fills (data)")
    parser.add_argument("--out", type=Path, help="folder of the results (splicebert in the run of the first SOURCE)")
    amount = "windows, constructs, pairs of a group, mutated bases (2000)"
    parser.add_argument("--windows", type=number_between(int, 10, 10**6), default=2000, help=amount)
    parser.add_argument("--fresh", action="store_true", help="also random weights of the first encoder's sizes")
    over_seeds = "t interval of the difference over pre-training seeds, columns without their :pretrainN; repeatable"
    pair = ("ARM", "REFERENCE")
    parser.add_argument("--compare", nargs=2, action="append", default=[], metavar=pair, help=over_seeds)
    asked, others = parser.read(words)
    sources, files = _split_inputs(asked.inputs)
    configs = {source: _config(source, files, others) for source in sources}
    run = enclosing_run(sources[0])
    out = asked.out or (run or Path(configs[sources[0]].runs) / sources[0].resolve().name) / layout.SPLICEBERT
    measured: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    chosen = asked.only or list(RESULTS)
    checkpoints = [(source, name, folder, False) for (source, name), folder in _checkpoints(sources).items()]
    if asked.fresh:
        checkpoints.append(_fresh_twin(checkpoints))
    check_pairs([name for _, name, _, _ in checkpoints], asked.compare)
    for source, name, folder, fresh in checkpoints:
        subject = _subject(name, folder, enclosing_run(source), configs[source], asked, fresh)
        measured[name], why = _measure_all(subject, folder, asked, out, chosen)
        missing |= why
    missing = {result: why for result, why in missing.items() if not any(result in one for one in measured.values())}
    if not any(measured.values()):
        raise InputError(f"nothing could be measured: {'; '.join(missing.values())}")
    table, differences = write_results(measured, missing, out, asked.compare)
    for line in aligned(difference_cells(differences)) if asked.compare else ():
        print(line)
    print(f"{len(table)} numbers of {len(measured)} checkpoints: {out}/results.csv, {out}/index.html")


def _fresh_twin(checkpoints: list[Checkpoint]) -> Checkpoint:
    """Random weights of the first encoder's sizes. Raises InputError without one, or where their name is taken."""
    if any(name == FRESH for _, name, _, _ in checkpoints):
        raise InputError(f"--fresh: a source is called '{FRESH}' as its column would be: rename its folder")
    for source, _, folder, _ in checkpoints:
        if not (folder / BASES_CONFIG).is_file():
            return source, FRESH, folder, True
    raise InputError("--fresh: no encoder among the sources, whose sizes it could take")


def _split_inputs(inputs: list[Path]) -> tuple[list[Path], list[str]]:
    sources = [path for path in inputs if path.suffix not in (".yaml", ".yml")]
    for source in sources:
        if not source.is_dir():
            raise InputError(f"{source} does not exist: give a run folder or a checkpoint folder")
    if not sources:
        raise InputError("splicebert: expected SOURCE [SOURCE ...] [CONFIG.yaml] (see splicebert --help)")
    return sources, [str(path) for path in inputs if path not in sources]


def _config(source: Path, files: list[str], others: list[str]) -> Config:
    """Of the run, or the one given; a checkpoint from elsewhere has the defaults, and motif sites if it names them."""
    if files or enclosing_run(source) is not None:
        return config_of(source, [*files, *others])
    default = Path(__file__).parents[1] / DEFAULT_CONFIG
    return load_config([str(default), "--data.motif_bed", "null", "--data.motif_fasta", "null", *others])


def _checkpoints(sources: list[Path]) -> dict[tuple[Path, str], Path]:
    """{(source, name in the table): checkpoint folder}; names are as short as tells them apart. Raises InputError for a
    checkpoint that is given twice."""
    rows: list[tuple[Path, str, Path]] = []
    for source in sources:
        of_source = {str(source): source} if (source / BASES_CONFIG).is_file() else encoders(source)
        rows += [(source, "" if name == str(source) else name, folder) for name, folder in of_source.items()]
    folders = [folder.resolve() for *_, folder in rows]
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise InputError(f"{twice} is given twice: name each checkpoint once")
    short = _short_names(rows, len(sources) > 1)
    whole = [f"{source} {arm}".strip() for source, arm, _ in rows]
    names = [name if short.count(name) == 1 else long for name, long in zip(short, whole)]
    return {(source, name): folder for name, (source, _, folder) in zip(names, rows)}


def _short_names(rows: list[tuple[Path, str, Path]], several: bool) -> list[str]:
    """run:arm:pretrainN of pre-training, the run where there are several sources, its path where two have one name; of
    others what their path ends with. rows: (source, arm, checkpoint folder)."""
    models = [layout.checkpoint_model(folder) for *_, folder in rows]
    runs = {model[0] for model in models if model is not None}
    of_name = Counter(run.name for run in runs)
    names = []
    for (source, arm, _), model in zip(rows, models):
        if model is None and not arm:
            names.append(_label(source))
            continue
        run, arm = (source, arm) if model is None else model
        place = str(run) if of_name[run.name] > 1 else run.name
        names.append(f"{place}:{arm}" if several else arm)
    return names


def _label(source: Path) -> str:
    parts = [part for part in source.parts if part not in ("runs", "models", "checkpoints", "pretrain", "..", ".", "/")]
    return " ".join(parts[-2:])


def _subject(name: str, folder: Path, run: Path | None, config: Config, asked: Any, fresh: bool) -> Subject:
    """The checkpoint on its device: a model of every base, or one of masked bases. fresh: random weights of its sizes,
    seeded by config.seed."""
    accelerator = build_accelerator(config.device, config.precision)
    if (folder / BASES_CONFIG).is_file():
        classifier, calibration = load_bases(folder)
        classifier = for_prediction(classifier, accelerator)
        model = Labeller(classifier, calibration, accelerator.device, accelerator.autocast)
    else:
        model = load_backbone(config.model.saved_as(folder), need_mlm_head=True)[0]
        if fresh:
            set_seed(config.seed)
            model = fresh_like(model.config).eval()
        model = model.to(accelerator.device)
    return Subject(name, model, run, accelerator, config, asked.data, asked.windows)


def _measure_all(
    subject: Subject, folder: Path, asked: Any, out: Path, chosen: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """({result: rows and curves}, {result: what is missing}) of one checkpoint."""
    name, of_bases = subject.name, isinstance(subject.model, Labeller)
    if not of_bases and subject.limit == PUBLISHED_WINDOW:
        print(f"{name}: a model trained on exactly {PUBLISHED_WINDOW} nt meets shorter sequences in the constructs")
    results, missing = {}, {}
    for result in chosen:
        if RESULTS[result].of_bases != of_bases:
            what = "no model of every base" if RESULTS[result].of_bases else "no masked-language model"
            missing[result] = f"{what} among the sources (models/simcsp-small-bases, models/simcsp-tiny are such)"
            continue
        needs = [asked.data / path for path in RESULTS[result].needs]
        if absent := next((path for path in needs if not path.is_file()), None):
            missing[result] = f"{absent} is missing: run python data/fetch.py {RESULTS[result].fetch}"
            print(f"{name}, {result}: {missing[result]}")
            continue
        path = out / "measured" / re.sub(r"[^\w.-]+", "-", name) / f"{result}.json"
        inputs = _inputs(subject, result, folder, asked.data)
        if path.is_file() and (kept := read_json(path, "delete it, it is measured again"))["inputs"] == inputs:
            results[result] = kept["result"]
            continue
        began = time.perf_counter()
        try:
            measured = measure(subject, result)
        except InputError as error:
            if result not in ("wide_variants", "bases", "embeddings"):  # whose data may simply not be meant
                raise
            missing[result] = str(error)
            print(f"{name}, {result}: {error}")
            continue
        seconds = round(time.perf_counter() - began, 1)
        write_json(path, {"inputs": inputs, "seconds": seconds, "result": measured})
        results[result] = measured
        give_back_freed_memory()
        print(f"{name}, {result}: {len(measured['rows'])} numbers in {seconds} s", flush=True)
    return results, missing


def _inputs(subject: Subject, result: str, folder: Path, data: Path) -> dict[str, Any]:
    """What a result depends on: it is measured again where this differs from what is kept."""
    reads = [path for pattern in (*RESULTS[result].needs, *RESULTS[result].also) for path in sorted(data.glob(pattern))]
    inputs = {"format": FORMAT, "checkpoint": sha256_folder(folder, card=False), "windows": subject.windows}
    inputs |= {"files": {str(path.relative_to(data)): _content(path) for path in reads}, "seed": subject.config.seed}
    inputs |= {"precision": subject.accelerator.mixed_precision, "fresh": subject.name == FRESH}
    return inputs | {section: to_dict(subject.config)[section] for section in RESULTS[result].sections}


def _content(path: Path) -> str | int:
    size = path.stat().st_size
    return sha256_file(path) if size <= _HASHED else size
