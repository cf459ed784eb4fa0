"""`pretrain.py --init NEW.yaml`: a commented config for your own data, with sizes and rates that suit this machine."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from simcsp.core.config import flatten, to_dict
from simcsp.core.errors import InputError
from simcsp.core.files import mend_folder, write_text
from utils.arguments import load_config

FIELDS = ("fasta", "annotation", "spliceator", "motif_bed", "motif_fasta")
"""Of data: where the files of an experiment are, which flags may say."""
PUBLISHED = "data/models/SpliceBERT-human.510nt"  # where data/fetch.py puts it


@dataclass(frozen=True)
class Machine:
    """What the template depends on. published: whether SpliceBERT's weights lie at PUBLISHED."""

    gpu: bool
    cores: int
    published: bool

    @classmethod
    def this(cls, gpu: bool) -> Machine:
        """The one that this runs on, in the folder that it runs in."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(gpu, cores, (Path(PUBLISHED) / "config.json").is_file())


@dataclass(frozen=True)
class Paths:
    """The files of an experiment; without annotation the text is read anywhere, and contrast is SimCSE's."""

    fasta: list[str] = field(default_factory=lambda: ["data/genome.fa.gz"])
    annotation: list[str] = field(default_factory=lambda: ["data/genes.gtf.gz"])
    spliceator: str | None = "data/windows"
    motif_bed: str | None = None
    motif_fasta: str | None = None


def template(path: Path, machine: Machine, paths: Paths) -> str:
    """The YAML, of some twenty lines.

    The rates are those that suit models/simcsp-tiny on human windows (configs/chr19.yaml, chr19-simcse.yaml) and,
    where SpliceBERT's own weights are at hand and a GPU to train them, the published one (configs/simcsp.yaml).
    """
    large = machine.gpu and machine.published
    rows = [*_data_rows(large, paths), *_training_rows(large, machine, bool(paths.annotation))]
    head = [
        "# An experiment of your own. All fields: python pretrain.py --help, python finetune.py --help",
        f"# Plan: python pretrain.py {path} --dry-run. Run: the same without --dry-run, then python finetune.py {path}",
    ]
    width = min(max(len(text) for text, _ in rows), 46)
    return "\n".join([*head, *(f"{text:<{width}}  # {why}" if why else text for text, why in rows)]) + "\n"


def _data_rows(large: bool, paths: Paths) -> list[tuple[str, str]]:
    """(line, its comment) of the model and the data. large: SpliceBERT's own weights."""
    size = "SpliceBERT, 19 million parameters, up to 510 nt" if large else "bundled, 120,000 parameters, up to 254 nt"
    window, context = (510, 400) if large else (126, 126)
    corpus = "annotated" if paths.annotation else "fasta"
    rows = [
        ("model:", ""),
        (f"  source: {PUBLISHED if large else 'models/simcsp-tiny'}", size),
        ("  pooling: centre", "a window becomes the mean of the two bases at the site"),
        ("  attention_probs_dropout_prob: 0.0", "no benefit found; hidden_dropout_prob makes the views of simcse"),
        ("data:", ""),
        (f"  fasta: {_listed(paths.fasta)}", "text to pre-train on, plain or gzipped"),
        (f"  annotation: {_listed(paths.annotation)}", "GTF or GFF3 of each; [] with corpus: fasta, objective: simcse"),
        (f"  corpus: {corpus}", "annotated: crops at annotated sites and at decoys; fasta: any window"),
        ("  hide: evaluation", "evaluation windows are masked (N) in the text"),
        (f"  window: {window}", f"nt, even, at most {window}"),
        (f"  spliceator: {_text(paths.spliceator)}", "labelled windows in Spliceator's layout (data/README.md)"),
        (f"  context: {context}", "nt of each labelled window that models see"),
    ]
    if paths.motif_bed is not None:
        rows += [(f"  motif_bed: {_text(paths.motif_bed)}", "GT / AG sites for NMI, from data/motifs.py")]
        rows += [(f"  motif_fasta: {_text(paths.motif_fasta)}", ""), (f"  motif_window: {window}", "")]
    return rows


def _training_rows(large: bool, machine: Machine, annotated: bool) -> list[tuple[str, str]]:
    steps, batch = (2000, 256) if machine.gpu else (400, 64)
    lr = 1e-4 if large or not annotated else 2e-3
    objective, floors = ("supcon", "annotation, annotation_linear, ") if annotated else ("simcse", "")
    return [
        ("pretrain:", ""),
        (f"  objective: {objective}", "supcon: contrast of sites and decoys; simcse: of views of a window"),
        ("  control: true", "masked-LM on the same windows, the comparison of contrast"),
        (f"  steps: {steps}", ""),
        (f"  batch_size: {batch}", "windows a step; for a GPU 256, for a CPU 64"),
        (f"  lr: {_number(lr)}", "peak, tuned for this model and objective"),
        ("finetune:", ""),
        (f"  arms: [pwm, linear, {floors}baseline, last, control_last]", "the verdict is last - control_last"),
        ("  train_windows: [200, null]", "labels of a fold: few, and all"),
        ("  stages: [probe]", "logistic regression on the frozen encoder; [full] trains all of it"),
        (f"  lr: {_number(1e-5 if large else 1e-3)}", "of [full]"),
        (f"  max_epochs: {20 if large else 4}", "of [full]"),
        (f"workers: {1 if machine.gpu else machine.cores}", "processes that fit folds in parallel"),
    ]


def _listed(items: list[str]) -> str:
    return f"[{', '.join(map(_text, items))}]"


def _text(path: str | None) -> str:
    """A path as YAML reads it back: as it is where it is plain, else in quotes."""
    return "null" if path is None else path if re.fullmatch(r"[\w./+-]*[a-zA-Z][\w./+-]*", path) else json.dumps(path)


def _number(value: float) -> str:
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def write_template(words: list[str]) -> Path:
    """Write the YAML that a command line names; returns its path. Flags say where the data are (FIELDS).

    Raises InputError for a file that is there already, other flags, and values that no config could have.
    """
    at = words.index("--init")
    if at + 1 == len(words) or words[at + 1].startswith("-"):
        raise InputError("--init needs the name of the file to write, for example configs/mine.yaml")
    path, flags = Path(words[at + 1]), words[:at] + words[at + 2 :]
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"--init {path}: the name of a config must end in .yaml")
    mend_folder(path.parent, path.name)
    if path.exists():
        raise InputError(f"--init {path} exists: choose another name, or delete it")
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, path.name)
        trial.write_text(template(path, Machine.this(gpu=False), Paths()), encoding="utf-8")
        given = [str(trial), "--data.motif_window", "126"]  # which the template says where there are motif sites
        config, plain = load_config([*given, *flags]), load_config(given)
    before, after = flatten(to_dict(plain)), flatten(to_dict(config))
    others = [key for key in after if after[key] != before.get(key) and key.removeprefix("data.") not in FIELDS]
    if others:
        raise InputError(f"--init takes {', '.join(f'--data.{name}' for name in FIELDS)}: set {others[0]} in the file")
    paths = Paths(**{name: getattr(config.data, name) for name in FIELDS})
    import torch  # now that nothing can be refused: it takes a second

    write_text(path, template(path, Machine.this(torch.cuda.is_available()), paths))
    return path
