"""What TensorBoard shows: the curves of a stage, pictures of its validations, and a run for each arm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from simcsp.core import run_layout as layout
from simcsp.core.arms import FLOORS, OF_CONTROL, OF_PRETRAINING
from simcsp.core.colours import class_colour
from simcsp.core.config import Config, to_dict
from simcsp.core.config_file import read_saved
from simcsp.core.files import read_json, read_table
from simcsp.core.run_folder import HEADLINES, START_ANEW, RunFolder, read_metrics
from simcsp.metrics.clustering import lay_out
from simcsp.metrics.sccs import cosine_pairs
from simcsp.training.validation import MOST_SHOWN, Embedded, Validation, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PAIRS = 500  # in histograms
LEAST_SITES = 30  # in UMAP's plane
_SCORES = {"val/auc": "val_auc", "val/f1": "val_f1", "train/loss": "loss"}


# -- curves of a stage ------------------------------------------------------------------------------------------------


def open_folder(
    path: Path,
    config: dict[str, Any],
    inputs: dict[str, str],
    device: str,
    shown: bool = True,
    start: str | None = None,
) -> RunFolder:
    """The run folder of a stage (its arguments there) with its curves. shown: whether TensorBoard has it."""
    return RunFolder(path, config, inputs, device, Curves(path, shown), start)


class Curves:
    """The TensorBoard run of a stage's folder `path`; nothing is written where shown is False."""

    def __init__(self, path: Path, shown: bool = True) -> None:
        self.path, self.shown = path, shown
        self._writer: SummaryWriter | None = None

    @property
    def writer(self) -> SummaryWriter:
        if self._writer is None:
            self._writer = SummaryWriter(str(self.path))
        return self._writer

    def show(self, row: dict[str, Any]) -> None:
        """A row of metrics as points of curves, but for floors, which are no curves of this stage."""
        if not self.shown:
            return
        for key, value in row.items():
            if key not in ("step", "time") and not key.startswith("floor/"):
                self.writer.add_scalar(key, value, row["step"], walltime=row["time"])

    def picture(self, step: int, distributions: dict[str, np.ndarray], figure: Figure | None = None) -> None:
        """What a validation looks like: histograms of values within [-1, 1], and a figure."""
        if not self.shown:
            return
        for name, values in distributions.items():
            self.writer.add_histogram(name, values, step, bins=np.linspace(-1, 1, 41))
        if figure is not None:
            self.writer.add_figure("UMAP", figure, step)

    def rewind(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Have TensorBoard forget what comes after `step`; of a new stage say what the run is. rows: of metrics, which
        are shown again where their events are gone."""
        self.close()
        events = list(self.path.glob("events.out.tfevents.*"))
        for path in events if step < 0 else ():
            path.unlink()
        if not self.shown:
            return
        self._writer = SummaryWriter(str(self.path), purge_step=None if step < 0 else step + 1)
        for row in rows if not events else ():
            self.show(row)
        run = layout.run_of_stage(self.path)
        if step < 0 and self.path == next(iter(layout.begun_stages(run)), None):  # the other stages would repeat it
            for name, path in (
                ("config", self.path / layout.CONFIG),
                ("environment", self.path / layout.ENVIRONMENT),
                ("pre-training text", run / layout.CORPUS),
                ("overlap of the evaluation with the text", run / layout.OVERLAP),
            ):
                show_file(self.writer, name, path)

    def flush(self) -> None:
        """Write what a resume counts on."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def finish(self, hyperparameters: dict[str, Any] | None, metrics: dict[str, float]) -> None:
        """Add the line of HPARAMS, with the headlines among the metrics, and close."""
        if hyperparameters and self.shown:
            show_hyperparameters(self.writer, hyperparameters, [tag for tag in HEADLINES if tag in metrics])
        self.close()


def show_file(writer: SummaryWriter, name: str, path: Path) -> None:
    """A YAML or JSON file as a TEXT, where it exists."""
    if path.is_file():
        writer.add_text(name, f"```{path.suffix[1:]}\n{path.read_text(encoding='utf-8')}\n```")


def show_hyperparameters(writer: SummaryWriter, values: dict[str, Any], tags: list[str]) -> None:
    """A line of TensorBoard's HPARAMS: settings, and the last values of the scalars named by tags.

    add_hparams would open a run of its own; its three summaries can go to this one.
    """
    plain = {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in values.items()}
    for part in hparams(plain, dict.fromkeys(tags, 0.0)):
        writer.file_writer.add_summary(part)


# -- pictures of a validation ------------------------------------------------------------------------------------------


def draw_validation(
    step: int, validation: Validation, embedded: Embedded
) -> tuple[dict[str, np.ndarray], Figure | None]:
    """What `Curves.picture` shows: histograms of cosines within and between the classes, and in UMAP's plane the motif
    sites, or without any the selection windows."""
    distributions, figure = {}, None
    if embedded.vectors is not None:
        same, other = class_cosines(embedded.vectors, validation.labels, validation.seed)
        distributions = {"cosine/same class": same, "cosine/different class": other}
    shown = embedded.shown
    if shown is None and embedded.vectors is not None:
        some = spread(len(embedded.vectors), MOST_SHOWN)
        shown = embedded.vectors[some], np.where(validation.labels[some] == 1, "site", "no site")
    if shown is not None and len(shown[0]) >= LEAST_SITES:
        figure = draw_points(*shown, validation.seed, f"step {step}")
    return distributions, figure


def class_cosines(vectors: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of at most MOST_PAIRS random pairs of vectors [n, hidden] of the same class, and of different classes."""
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, len(vectors), (2, 8 * MOST_PAIRS))
    left, right = left[left != right], right[left != right]
    cosines, same = cosine_pairs(vectors, left, right), labels[left] == labels[right]
    return cosines[same][:MOST_PAIRS], cosines[~same][:MOST_PAIRS]


def draw_points(vectors: np.ndarray, labels: np.ndarray, seed: int, title: str) -> Figure:
    """UMAP's layout of vectors [n, any], coloured by label [n]."""
    from matplotlib.figure import Figure

    points = lay_out(vectors, seed)
    figure = Figure(figsize=(4, 3.4), dpi=90, layout="constrained")
    axis = figure.add_subplot()
    for label in sorted(set(labels)):
        axis.scatter(*points[labels == label].T, s=5, linewidths=0, color=class_colour(label), label=label)
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.legend(fontsize=7, markerscale=2)
    return figure


def show_layout(writer: SummaryWriter) -> None:
    """The page that the tab CUSTOM SCALARS opens on: values, each with its band, floors as level lines.

    All are charts of values in a band, with no width where there is none, because TensorBoard smooths every other kind
    by default, and bends a curve of few validations. It draws the last one first.
    """
    charts = {
        "loss": ["train/loss"] * 3,
        "SCCS with its interval, and its floors": ["val/sccs", "val/sccs_low", "val/sccs_high"],
        "NMI and its floors": ["val/nmi"] * 3,
        "F1 on the test windows: mean, least and most of the folds": ["test/f1", "test/f1_least", "test/f1_most"],
        "validation AUC by epoch: mean, least and most of the folds": ["val_auc/mean", "val_auc/least", "val_auc/most"],
    }
    margins = {title: ["Margin", tags] for title, tags in reversed(charts.items())}
    writer.add_custom_scalars({"Pre-training, then fine-tuning": margins})


def show_floors(folder: Path, floors: dict[str, dict[str, float]], steps: int) -> None:
    """A TensorBoard run for each floor, in `folder`/floors/<name>: level lines, without a band, under curves' names.

    floors: {'sccs': {'gc': value, 'gc_low': ..., 'gc_high': ...}, 'nmi': ...}. folder: of the run.
    """
    rows: dict[str, dict[str, float]] = {}
    for proxy, values in floors.items():
        for name, value in values.items():
            if not name.endswith(("_low", "_high")):
                ends = ("", "_low", "_high") if proxy == "sccs" else ("",)
                rows.setdefault(name, {}).update({f"val/{proxy}{end}": value for end in ends})
    for name, row in rows.items():
        path = folder / layout.FLOOR_CURVES / name
        for events in path.glob("events.out.tfevents.*"):
            events.unlink()
        with SummaryWriter(str(path)) as writer:
            for step in (0, steps):
                for tag, value in row.items():
                    writer.add_scalar(tag, value, step)


# -- arms --------------------------------------------------------------------------------------------------------------


def show_arm(folder: Path, arm: str) -> None:
    """TensorBoard's run of an arm, in `folder`/finetune/<arm>, from what is finished of it; rebuilt each time.

    Means over folds and seeds by epoch with the least and the most of them, the same of F1 and AUC on the test windows
    with a histogram of the folds, precision and recall of all test windows together, and in HPARAMS the settings of its
    pre-training and of its fits. folder: of the run.
    """
    folds = [(path, read_json(path / layout.SUMMARY, "train it again")) for path in layout.finished_fits(folder, arm)]
    whole = [(path, summary) for path, summary in folds if not summary.get("train_windows")]
    by_site: dict[str, list] = {}
    for path, summary in whole or folds:
        by_site.setdefault(summary["site"], []).append((path, summary))
    for events in (folder / layout.FINETUNE / arm).glob("events.out.tfevents.*"):
        events.unlink()
    if not folds:
        return
    with SummaryWriter(str(folder / layout.FINETUNE / arm)) as writer:
        show_layout(writer)
        for site, of_site in by_site.items():
            prefix = "" if len(by_site) == 1 else f"{site}/"
            _show_epochs(writer, prefix, [read_metrics(path) for path, _ in of_site])
            _show_scores(writer, prefix, of_site)
        prefix = "" if len(by_site) == 1 else f"{next(iter(by_site))}/"
        tags = [f"{prefix}test/f1", f"{prefix}test/auc"]
        show_hyperparameters(writer, arm_settings(folder, arm, folds[0][0]), tags)


def arm_settings(run: Path, arm: str, fit: Path) -> dict[str, object]:
    """The columns of an arm in HPARAMS: of its pre-training what every stage has and what is not as by default, under
    the names that a stage's own line has; of its fits stages, learning rate and labels. Floors have no pre-training."""
    shown: dict[str, object] = {"arm": arm, "objective": "none"}
    settings = read_saved(fit / layout.CONFIG)["finetune"]
    if arm not in FLOORS:
        stages = layout.stage_folders(run, layout.checkpoint_of(arm)[0])
        stage = next(iter(stages.values()), None)
        if arm in (*OF_PRETRAINING, *OF_CONTROL) and stage is not None and (stage / layout.CONFIG).is_file():
            shown |= stage_settings(read_saved(stage / layout.CONFIG)["pretrain"])
        shown["stages_finetune"] = "+".join(settings["stages"])
        shown |= {} if settings["stages"] == ["probe"] else {"lr_finetune": settings["lr"]}
    sizes = settings.get("train_windows") or [None]  # runs of earlier versions have none
    return shown | {"train_windows": sizes[0] or "all"}


def stage_settings(values: dict[str, Any]) -> dict[str, object]:
    """Of the fields of section pretrain: objective, lr, steps, and those that are not as they are by default."""
    first = ("objective", "lr", "steps")
    skipped = {*first, "control", "seeds", "warmup_steps", "logging_steps", "eval_steps"}
    defaults = to_dict(Config())["pretrain"]
    changed = {key: value for key, value in values.items() if key not in skipped and value != defaults.get(key)}
    return {key: values[key] for key in first} | changed


def _show_epochs(writer: SummaryWriter, prefix: str, fits: list[list[dict[str, float]]]) -> None:
    rows = pd.DataFrame([row for fit in fits for row in fit if "train/loss" in row])
    for key, name in _SCORES.items():
        if key not in rows:
            continue
        table = rows.groupby("step")[key].agg(["mean", "min", "max", "count"])
        for row in table[2 * table["count"] >= len(fits)].itertuples():
            for part, value in (("mean", row.mean), ("least", row.min), ("most", row.max)):
                writer.add_scalar(f"{prefix}{name}/{part}", value, row.Index)


def _show_scores(writer: SummaryWriter, prefix: str, folds: list[tuple[Path, dict]]) -> None:
    """Mean, least and most of the folds' F1 and AUC, a histogram of each, and precision against recall."""
    scores = pd.DataFrame([summary["metrics"] for _, summary in folds])
    for tag in ("test/f1", "test/auc"):
        for end, value in (("", scores[tag].mean()), ("_least", scores[tag].min()), ("_most", scores[tag].max())):
            writer.add_scalar(f"{prefix}{tag}{end}", value)
        writer.add_histogram(f"{prefix}{tag} of the folds", scores[tag].to_numpy(), bins=np.linspace(0, 1, 101))
    columns = ["label", "probability"]
    table = pd.concat([read_table(path / layout.PREDICTIONS, columns, START_ANEW) for path, _ in folds])
    writer.add_pr_curve(f"{prefix}test windows", table["label"].to_numpy(), table["probability"].to_numpy())
