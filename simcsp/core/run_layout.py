"""The layout of a run folder: its paths are built and parsed here, and spelled out in no other module.

RUN is runs/<name>; brackets: levels that only some runs have.

mlm/  pretrain/[seedN/]  control/[seedN/]                                stages of pre-training
finetune/<arm>/<site>/[pretrainN/][windowsN/drawN/]seedN/foldNN/         fits
splits/  corpus.json  corpus.npz  overlap.json  floors/                  what stages and fits share
report/  benchmark/  relate/  search/trialNNNN/                          what is made of them

The folder of a stage or fit holds config.yaml, env.json, train.log, metrics.jsonl, checkpoints/<name>/ and, written
last, summary.json: it means done. A fit's holds predictions.csv and validation.csv too. While the work goes on there
are also .lock, state.pt, and state.previous.pt, the state before that one.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from simcsp.core.arms import BASELINE, CONTROL
from simcsp.core.errors import InputError

# -- files of a stage or fit -------------------------------------------------------------------------------------------

CONFIG = "config.yaml"
ENVIRONMENT = "env.json"
LOG = "train.log"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
STATE = "state.pt"
PREVIOUS_STATE = "state.previous.pt"
PREDICTIONS = "predictions.csv"
VALIDATION = "validation.csv"
CHECKPOINTS = "checkpoints"

# -- names of checkpoints ----------------------------------------------------------------------------------------------

START = "start"
LAST = "last"
BEST = "best"  # the one that a fit keeps
_STEP = "step-"

# -- files and folders of a run ----------------------------------------------------------------------------------------

MLM = "mlm"
PRETRAIN = "pretrain"
CONTROL_STAGE = "control"
PRETRAINING_STAGES = (MLM, PRETRAIN, CONTROL_STAGE)
"""In their order."""
FINETUNE = "finetune"
SPLITS = "splits"
SPLITS_RECORD = "splits.json"
CORPUS = "corpus.json"
SCORED_CORPUS = "corpus.npz"  # of splice_enriched: every window with its score and odds
OVERLAP = "overlap.json"
FLOOR_CURVES = "floors"
REPORT = "report"
REPORT_TEXT = "report.md"
REPORT_TABLE = "summary.csv"
REPORT_CONTRASTS = "contrasts.csv"
BENCHMARK = "benchmark"
BENCHMARK_TABLE = "benchmark.csv"
RELATE = "relate"  # laid out as a run folder itself
RELATE_TABLE = "relate.csv"
CORRELATIONS = "correlations.csv"
SPLICEBERT = "splicebert"
SEARCH = "search"
BEST_SETTINGS = "search/best.yaml"
STUDY = "search/study.journal"
STUDY_DATABASE = "search/study.db"  # of earlier versions; now a journal

BASES = "bases"
"""The site of fits that label every base; the others' are donor, acceptor and both."""
_FIT = re.compile(
    r"(?:^|/)(?P<arm>[^/]+)/(?P<site>donor|acceptor|both|bases)/(?:pretrain(?P<pretrain_seed>\d+)/)?"
    r"(?:windows(?P<train_windows>\d+)/draw(?P<draw>\d+)/)?seed(?P<seed>\d+)/fold(?P<fold>\d+)$"
)
_CHECKPOINT = re.compile(r"(?P<run>.+)/(?P<stage>pretrain|control)/(?:seed(?P<seed>\d+)/)?checkpoints/(?P<name>[^/]+)$")
_FIT_LEVELS = ((), ("pretrain*",), ("windows*", "draw*"), ("pretrain*", "windows*", "draw*"))  # optional, of the site


def is_finished(folder: Path) -> bool:
    return (folder / SUMMARY).is_file()


def checkpoint_path(folder: Path, name: str = BEST) -> Path:
    return folder / CHECKPOINTS / name


def stage_of(checkpoint: Path) -> Path:
    """The folder of the stage or fit whose checkpoint this is."""
    return checkpoint.parents[1]


def best_of(proxy: str) -> str:
    return f"{BEST}_{proxy}"


def step_name(step: int) -> str:
    return f"{_STEP}{step:06d}"


def step_checkpoints(folder: Path) -> dict[int, Path]:
    """{step: checkpoint folder} of the steps that a stage has kept, ascending."""
    kept = {int(path.name.removeprefix(_STEP)): path for path in (folder / CHECKPOINTS).glob(f"{_STEP}*[0-9]")}
    return dict(sorted(kept.items()))


# -- stages of pre-training --------------------------------------------------------------------------------------------


def stage_name(stage: str, seed: int | None) -> str:
    """A stage under one of several seeds, such as pretrain/seed3; None: the stage of one seed."""
    return stage if seed is None else f"{stage}/seed{seed}"


def stage_folders(run: Path, stage: str) -> dict[int | None, Path]:
    """{seed: folder} of a pre-training stage, ascending; {None: folder} where it has one seed; {} without any."""
    seeds = {int(folder.name.removeprefix("seed")): folder for folder in _below(run / stage, "seed*[0-9]")}
    if seeds:
        return dict(sorted(seeds.items()))
    return {None: run / stage} if (run / stage).is_dir() else {}


def finished_stages(run: Path, stage: str) -> dict[int | None, Path]:
    """`stage_folders` of the seeds that are done."""
    return {seed: folder for seed, folder in stage_folders(run, stage).items() if is_finished(folder)}


def begun_stages(run: Path) -> list[Path]:
    """Folders of all stages that have been begun, in their order, seeds ascending."""
    every = [folder for stage in PRETRAINING_STAGES for folder in stage_folders(run, stage).values()]
    return [folder for folder in every if (folder / ENVIRONMENT).is_file()]


def run_of_stage(folder: Path) -> Path:
    return folder.parent if folder.name in PRETRAINING_STAGES else folder.parent.parent


# -- checkpoints of arms -----------------------------------------------------------------------------------------------


def checkpoint_of(arm: str) -> tuple[str, str]:
    """(stage, checkpoint) of an arm of pre-training: 'control_last' -> ('control', 'last')."""
    if arm == BASELINE:
        return PRETRAIN, START
    return (CONTROL_STAGE, arm.removeprefix(CONTROL)) if arm.startswith(CONTROL) else (PRETRAIN, arm)


def arm_checkpoints(run: Path, arm: str) -> dict[int | None, Path]:
    """{seed: checkpoint folder} of an arm of pre-training, of the seeds that have it; {None: ...} where there is one
    seed."""
    stage, name = checkpoint_of(arm)
    folders = {seed: checkpoint_path(folder, name) for seed, folder in stage_folders(run, stage).items()}
    return {seed: folder for seed, folder in folders.items() if folder.is_dir()}


def arm_model(arm: str, pretrain_seed: int | None) -> str:
    """One of an arm's models: the arm, of several pre-training seeds `last:pretrain3`."""
    return arm if pretrain_seed is None else f"{arm}:pretrain{pretrain_seed}"


def model_arm(model: str) -> tuple[str, int | None]:
    """The arm and the pre-training seed that `arm_model` made a name of."""
    arm, _, seed = model.rpartition(":pretrain")
    return (arm, int(seed)) if arm and seed.isdecimal() else (model, None)


def checkpoint_model(folder: Path) -> tuple[Path, str] | None:
    """(run folder, model) of a checkpoint of pre-training: runs/a/control/seed3/checkpoints/last is (runs/a,
    'control_last:pretrain3'); None for any other folder."""
    found = _CHECKPOINT.search(folder.resolve().as_posix())
    if found is None or found["name"].startswith(_STEP):
        return None
    arm = BASELINE if found["name"] == START else found["name"]
    if found["stage"] == CONTROL_STAGE and arm != BASELINE:
        arm = f"{CONTROL}{arm}"
    return Path(found["run"]), arm_model(arm, None if found["seed"] is None else int(found["seed"]))


# -- fits --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FitKey:
    """Which fit of a run. site: donor, acceptor, both or bases; seed: of fine-tuning. pretrain_seed: where the run has
    several of the arm, else None. train_windows: how many of its training windows, None for all; draw: which."""

    arm: str
    site: str
    seed: int
    fold: int
    pretrain_seed: int | None = None
    train_windows: int | None = None
    draw: int = 0

    @property
    def model(self) -> str:
        """The arm, of several pre-training seeds one each: `last:pretrain3`."""
        return arm_model(self.arm, self.pretrain_seed)

    def folder(self, run: Path) -> Path:
        path = run / FINETUNE / self.arm / self.site
        if self.pretrain_seed is not None:
            path /= f"pretrain{self.pretrain_seed}"
        if self.train_windows is not None:
            path /= f"windows{self.train_windows}/draw{self.draw}"
        return path / f"seed{self.seed}/fold{self.fold:02d}"


def fit_key(folder: Path) -> FitKey:
    """The fit whose folder this is. Raises InputError for any other folder."""
    levels = _FIT.search(folder.resolve().as_posix())
    if levels is None:
        raise InputError(f"{folder} is not the folder of a fit: give RUN/finetune/<arm>/<site>/.../seedN/foldNN")
    numbers = ("seed", "fold", "pretrain_seed", "train_windows", "draw")
    known = {name: int(value) for name, value in levels.groupdict().items() if name in numbers and value is not None}
    return FitKey(levels["arm"], levels["site"], **known)


def finished_fits(run: Path, arm: str | None = None, site: str | None = None) -> list[Path]:
    """Folders of the finished fits of a run, sorted; of one arm or site, or of all."""
    return _fits(run, arm, site, SUMMARY)


def begun_fits(run: Path) -> list[Path]:
    """Folders of the fits of a run that have been begun, finished or not, sorted."""
    return sorted({*_fits(run, None, None, ENVIRONMENT), *_fits(run, None, None, CONFIG)})


def _fits(run: Path, arm: str | None, site: str | None, file: str) -> list[Path]:
    arm, site = ("*" if name is None else glob.escape(name) for name in (arm, site))
    every = [_below(run / FINETUNE, arm, site, *levels, "seed*", "fold*") for levels in _FIT_LEVELS]
    return sorted(path for folders in every for path in folders if (path / file).is_file())


def _below(folder: Path, *levels: str) -> list[Path]:
    """Folders below one, whose names match level by level. One that may not be read is an error: it is not absent."""
    found = [folder] if folder.is_dir() else []
    for level in levels:
        names = [(parent, entry.name) for parent in found for entry in os.scandir(parent) if entry.is_dir()]
        found = [parent / name for parent, name in names if fnmatchcase(name, level)]
    return found


def fits_below(folder: Path) -> list[Path]:
    """Folders of the finished fits in any part of a run, sorted, without those of `evaluate.py relate`."""
    every = (path.parent for path in folder.rglob(f"seed*/fold*/{SUMMARY}"))
    return sorted(path for path in every if RELATE not in path.relative_to(folder).parts)


# -- trials of a search ------------------------------------------------------------------------------------------------


def trial_name(number: int) -> str:
    """A trial of a search, within the run: it is laid out as a run folder itself."""
    return f"{SEARCH}/trial{number:04d}"


def trial_folders(run: Path) -> list[Path]:
    return sorted(path for path in (run / SEARCH).glob("trial*") if path.is_dir())
