"""splicebert: SpliceBERT's published results, measured on any checkpoint like it."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path
from typing import Any

from commands.flags import FlagParser, number_between
from commands.sources import config_of, enclosing_run, encoders
from simcsp.core.config import DEFAULT_CONFIG, Config, to_dict
from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError
from simcsp.core.files import read_json, sha256_file, write_json
from simcsp.core.run_layout import SPLICEBERT
from simcsp.model.checkpoint import load_backbone
from simcsp.model.checksums import sha256_folder
from simcsp.report.splicebert import write_results
from simcsp.report.splicebert_results import PUBLISHED_WINDOW, RESULTS, Subject, measure
from utils.arguments import load_config

HELP = """\
SpliceBERT's published results on one or several checkpoints, each beside its floor and the published figure, as far as
the data are here; what is missing is said with the command that fetches it. Writes results.csv and index.html. A
finished result is not measured again. SOURCE as elsewhere; a checkpoint from elsewhere needs no config."""
FORMAT = 1  # of what is kept of a result


def show_splicebert(words: list[str]) -> None:
    """Measure, or read what was measured before; write the table and the page."""
    parser = FlagParser("splicebert", HELP)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="SOURCE [SOURCE ...] [CONFIG.yaml]")
    parser.add_argument("--only", action="append", choices=list(RESULTS), help="a result; repeatable (all)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that data/fetch.py fills (data)")
    parser.add_argument("--out", type=Path, help="folder of the results (splicebert in the run of the first SOURCE)")
    amount = "windows, constructs, pairs of a group, mutated bases (2000)"
    parser.add_argument("--windows", type=number_between(int, 10, 10**6), default=2000, help=amount)
    asked, others = parser.read(words)
    sources = [path for path in asked.inputs if path.suffix not in (".yaml", ".yml")]
    files = [str(path) for path in asked.inputs if path not in sources]
    for source in sources:
        if not source.is_dir():
            raise InputError(f"{source} does not exist: give a run folder or a checkpoint folder")
    if not sources:
        raise InputError("splicebert: expected SOURCE [SOURCE ...] [CONFIG.yaml] (see splicebert --help)")
    configs = {source: _config(source, files, others) for source in sources}
    run = enclosing_run(sources[0])
    out = asked.out or (run or Path(configs[sources[0]].runs) / sources[0].resolve().name) / SPLICEBERT
    measured: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    chosen = asked.only or list(RESULTS)
    for source, config in configs.items():
        for name, folder in encoders(source).items():
            name = name if len(sources) == 1 and name != str(source) else _label(source, name)
            results, why = _measure_all(name, folder, enclosing_run(source), config, asked, out, chosen)
            measured[name] = results
            missing |= why
    if not any(measured.values()):
        raise InputError(f"nothing could be measured: {'; '.join(missing.values())}")
    table = write_results(measured, missing, out)
    print(f"{len(table)} numbers of {len(measured)} checkpoints: {out}/results.csv, {out}/index.html")


def _config(source: Path, files: list[str], others: list[str]) -> Config:
    """Of the run, or the one given; a checkpoint from elsewhere has the defaults, and no motif sites."""
    if files or enclosing_run(source) is not None:
        return config_of(source, [*files, *others])
    default = Path(__file__).parents[1] / DEFAULT_CONFIG
    config = load_config([str(default), *others])
    return dataclasses.replace(config, data=dataclasses.replace(config.data, motif_bed=None, motif_fasta=None))


def _label(source: Path, name: str) -> str:
    """A checkpoint's name in the table."""
    if name != str(source):
        return f"{source.name} {name}"
    parts = [part for part in source.parts if part not in ("runs", "models", "checkpoints", "pretrain", "..", ".", "/")]
    return " ".join(parts[-2:])


def _measure_all(
    name: str, folder: Path, run: Path | None, config: Config, asked: Any, out: Path, chosen: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """({result: rows and curves}, {result: what is missing}) of one checkpoint."""
    accelerator = build_accelerator(config.device, config.precision)
    model, _, _ = load_backbone(config.model.saved_as(folder), need_mlm_head=True)
    subject = Subject(name, model.to(accelerator.device), run, accelerator, config, asked.data, asked.windows)
    if subject.limit == PUBLISHED_WINDOW:
        print(f"{name}: a model trained on exactly {PUBLISHED_WINDOW} nt meets shorter sequences in the constructs")
    results, missing = {}, {}
    for result in chosen:
        needs = [asked.data / path for path in RESULTS[result].needs]
        absent = [path for path in needs if not path.is_file()]
        if absent:
            missing[result] = f"{absent[0]} is missing: run python data/fetch.py {RESULTS[result].fetch}"
            print(f"{name}, {result}: {missing[result]}")
            continue
        path = out / "measured" / re.sub(r"[^\w.-]+", "-", name) / f"{result}.json"
        inputs = {"format": FORMAT, "checkpoint": sha256_folder(folder, card=False), "windows": asked.windows}
        inputs |= {"files": {file.name: sha256_file(file) for file in needs}, "seed": config.seed}
        inputs |= {"precision": accelerator.mixed_precision, "evaluate": to_dict(config)["evaluate"]}
        if path.is_file() and (kept := read_json(path, "delete it, it is measured again"))["inputs"] == inputs:
            results[result] = kept["result"]
            continue
        began = time.perf_counter()
        try:
            found = measure(subject, result)
        except InputError as error:
            if result not in ("bases", "embeddings"):  # of which the data may simply not be meant
                raise
            missing[result] = str(error)
            print(f"{name}, {result}: {error}")
            continue
        seconds = round(time.perf_counter() - began, 1)
        write_json(path, {"inputs": inputs, "seconds": seconds, "result": found})
        results[result] = found
        print(f"{name}, {result}: {len(found['rows'])} numbers in {seconds} s", flush=True)
    return results, missing
