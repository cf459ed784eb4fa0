"""What TensorBoard shows of a stage while it runs: curves, and pictures of validations. A view, made anew from what the
run folder keeps when the stage goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from utils.run import HEADLINES, RunFolder


def open_folder(
    path: Path, config: dict[str, Any], inputs: dict[str, str], device: str, shown: bool = True
) -> RunFolder:
    """The run folder of a stage (its arguments there) with its curves. shown: whether TensorBoard has it."""
    return RunFolder(path, config, inputs, device, Curves(path, shown))


class Curves:
    """The TensorBoard run of a stage's folder `path`; nothing is written where shown is False."""

    def __init__(self, path: Path, shown: bool = True) -> None:
        self.path, self.shown = path, shown
        self._writer: SummaryWriter | None = None

    @property
    def writer(self) -> SummaryWriter:
        """Opened on first use."""
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

    def picture(self, step: int, distributions: dict[str, np.ndarray], image: bytes | None = None) -> None:
        """Keep and show what a validation looks like: values to draw histograms of, within [-1, 1], and a PNG."""
        if not self.shown:
            return
        folder = self.path / "pictures"
        folder.mkdir(exist_ok=True)
        with open(folder / f"{step:06d}.npz", "wb") as handle:
            np.savez_compressed(handle, **{name: values.astype(np.float16) for name, values in distributions.items()})
        if image is not None:
            (folder / f"{step:06d}.png").write_bytes(image)
        self._show_picture(step)

    def _show_picture(self, step: int) -> None:
        stem = self.path / "pictures" / f"{step:06d}"
        with np.load(stem.with_suffix(".npz")) as kept:
            for name in kept.files:
                self.writer.add_histogram(name, kept[name].astype(np.float32), step, bins=np.linspace(-1, 1, 41))
        if stem.with_suffix(".png").is_file():
            png = stem.with_suffix(".png").read_bytes()
            width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))  # of its header
            image = Summary.Image(encoded_image_string=png, colorspace=3, width=width, height=height)
            self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="UMAP", image=image)]), step)

    def rewind(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Make the view anew: what the run is, `rows` of metrics, and the pictures up to `step`; later ones go."""
        for events in self.path.glob("events.out.tfevents.*"):
            events.unlink()
        for picture in (self.path / "pictures").glob("*"):
            if int(picture.stem) > step:
                picture.unlink()
        if not self.shown:
            return
        run = self.path.parent.parent if self.path.name.startswith("seed") else self.path.parent
        for name, path, kind in (
            ("config", self.path / "config.yaml", "yaml"),
            ("environment", self.path / "env.json", "json"),
            ("pre-training text", run / "corpus.json", "json"),
            ("overlap of the evaluation with the text", run / "overlap.json", "json"),
        ):
            if path.is_file():
                self.writer.add_text(name, f"```{kind}\n{path.read_text()}\n```")
        for row in rows:
            self.show(row)
        for picture in sorted((self.path / "pictures").glob("*.npz")):
            self._show_picture(int(picture.stem))

    def close(self) -> None:
        """Flush what is written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def finish(self, hyperparameters: dict[str, Any] | None, metrics: dict[str, float]) -> None:
        """Add the line of HPARAMS, with the headlines among the metrics, and close."""
        if hyperparameters and self.shown:
            show_hyperparameters(self.writer, hyperparameters, [tag for tag in HEADLINES if tag in metrics])
        self.close()


def show_hyperparameters(writer: SummaryWriter, values: dict[str, Any], tags: list[str]) -> None:
    """A line of TensorBoard's HPARAMS: settings, and the last values of the scalars named by tags.

    add_hparams would open a run of its own; its three summaries can go to this one.
    """
    plain = {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in values.items()}
    for part in hparams(plain, dict.fromkeys(tags, 0.0)):
        writer.file_writer.add_summary(part)
