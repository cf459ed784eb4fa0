"""What a config would take on a GPU that is not at hand: arithmetic from data sheets, with its assumptions."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from transformers import BertConfig

from simcsp.core.arms import FLOORS
from simcsp.core.config import Config, ModelConfig, PretrainConfig
from simcsp.core.errors import InputError
from simcsp.labels.splits import load_windows
from simcsp.model.encoder import DEFAULT_POOLING, fresh_config
from simcsp.training.cost import MARGIN, Step, block_weights, expected_epochs, fits_in_a_fold, windows_in_an_epoch
from simcsp.training.pretraining import stages


@dataclass(frozen=True)
class Gpu:
    """NVIDIA's data sheets (SXM): bytes of memory; operations a second in half precision (dense) and in float32 without
    TF32, which torch does not use unless asked; bytes a second of memory."""

    memory: float
    half: float
    single: float
    bandwidth: float


GPUS = {
    "a100": Gpu(80e9, 312e12, 19.5e12, 2.04e12),
    "h100": Gpu(80e9, 989e12, 67e12, 3.35e12),
    "h200": Gpu(141e9, 989e12, 67e12, 4.8e12),
}
REACHED = 0.8  # of either rate, by matrix products and by pointwise operations
ATTENTION = 0.32  # of that of products, at 512 tokens: cuDNN's on an H100 (Shah et al. 2024, figure 5; heads of 128)
KERNELS = 54  # of a step of fine-tuning, for each block, as tests/pretend_cuda counts them
LAUNCH, SHORTEST = 1e-5, 2e-6  # seconds of the host from one kernel to the next; of the device, beside its work
VALIDATION = 7.0  # seconds of a processor for SCCS and NMI of 20,000 sites, beside the training
NEIGHBOURS = 0.2  # of one that the training waits for: what the GPU leaves to it of finding neighbours of these sites
SITES, AUTOCAST = 20_000, 2.1  # sites that a validation encodes; bytes moved, which are float32 between blocks there
KEPT = 20  # bytes a weight that are written at a validation: a checkpoint, the best one's copy, the state
DISK = 1e9  # bytes a second
LABELLED = 44_152  # Spliceator's windows, where data.spliceator is not there to be counted
Row = tuple[str, str]


def project(config: Config) -> str:
    """Memory and hours of pre-training and fine-tuning on the GPU that config.device names, in lines of `what  ...`."""
    if config.device not in GPUS:
        raise InputError(f"device ({config.device}): there are plans for auto, cpu and cuda, and for {', '.join(GPUS)}")
    gpu, precision = GPUS[config.device], "bf16" if config.precision == "auto" else config.precision
    model, known = sizes_of(config.model)
    pooling = config.model.pooling or getattr(model, "pooling", None) or DEFAULT_POOLING
    rows: list[Row] = [("device", f"{config.device}, not at hand: {gpu.memory / 1e9:.0f} GB, {precision}")]
    rows.append(("encoder", f"{model.num_hidden_layers} blocks of {model.hidden_size}, {known}"))
    total = 0.0
    for name, stage in stages(config).items():
        step = Step(model, stage, config.data.window, pooling, precision)
        seconds, row = _stage(config, gpu, name, stage, step)
        total += seconds
        rows.append((name, row))
    seconds = sliced = 0.0
    if config.data.spliceator is not None and config.finetune.task == "windows":
        seconds, sliced, row = _fine_tuning(config, gpu, model, pooling, precision)
        rows.append(("fine-tune", row))
    hours = [f"{part / 3600:.1f}" for part in (total + seconds, total, seconds, total + sliced)]
    without = f"; without MPS {hours.pop()}" if config.processes > 1 else ""
    rows.append(("time", "{} h: pre-training {}, fine-tuning {}".format(*hours[:3]) + without))
    rows.append((
        "assumed",
        f"{REACHED:.0%} of the data sheet's rates, {ATTENTION:.0%} in attention, pointwise operations after products, "
        f"bytes and {KERNELS} kernels a block as counted, {1e6 * LAUNCH:.0f} microseconds of a host and "
        f"{1e6 * SHORTEST:.0f} of the GPU for each kernel, which other workers' kernels fill under NVIDIA's MPS; the "
        f"GPU never idle among several workers, a core for each; sites encoded under autocast, {VALIDATION:.0f} s of "
        f"one more core to score them; states by {DISK / 1e9:.0f} GB/s; floors and reports left out; no GPU measured",
    ))  # fmt: skip
    return "\n".join(f"{name:<10} {text}" for name, text in rows)


def sizes_of(model: ModelConfig) -> tuple[BertConfig, str]:
    """The encoder's sizes, and where they come from: its source where that is a folder, else the model section."""
    if model.source is None:
        return fresh_config(model), "fresh weights"
    if not (Path(model.source) / "config.json").is_file():
        return fresh_config(model), f"by the model section, as {model.source} is not there"
    sizes = BertConfig.from_pretrained(model.source)
    sizes.num_hidden_layers -= model.drop_layers
    return sizes, f"{model.source}"


def _stage(config: Config, gpu: Gpu, name: str, stage: PretrainConfig, step: Step) -> tuple[float, str]:
    """Seconds of a stage with its validations, and its row."""
    mini = stage.mini_batch_size
    if mini == "auto":
        mini = step.mini_batch_size(gpu.memory / MARGIN)
    needed = step.memory(mini)
    held = f"about {needed / 1e9:.1f} GB of {gpu.memory / 1e9:.0f}"
    if mini is not None:
        held += f", {mini} windows at once"
    if needed > gpu.memory / MARGIN:
        held += f": DOES NOT FIT, {name}.mini_batch_size auto takes {step.mini_batch_size(gpu.memory / MARGIN)} at once"
    seconds = _step_seconds(gpu, step)[1] * (1 if mini is None else 4 / 3)  # one more forward pass
    repeats = 1 if name == "mlm" else len(config.pretrain_seeds)
    validations = (2 + -(-stage.steps // stage.eval_steps)) * (config.data.motif_bed is not None)
    of_validation = _validation_seconds(gpu, step, config.data.motif_window, stage.eval_steps * seconds)
    waited = 2 * VALIDATION * (validations > 0)  # for the floors, and at the end
    total = repeats * (stage.steps * seconds + validations * of_validation + waited)
    work = f"{stage.objective}, {stage.steps:,} steps of {seconds:.3f} s"
    if validations:
        work += f", {validations} validations of {of_validation:.1f} s"
    return total, f"{work}: {total / 3600:.1f} h; {held}"


def _validation_seconds(gpu: Gpu, step: Step, window: int, interval: float) -> float:
    """For which a validation keeps the training. interval: seconds from one to the next, within which it is scored."""
    sites = PretrainConfig(objective="classify", batch_size=SITES)
    whole = Step(step.model, sites, window, "mean", step.precision)
    waiting = NEIGHBOURS + max(0.0, VALIDATION - interval)
    return _forward(gpu, whole, AUTOCAST) + KEPT * block_weights(step.model) / DISK + waiting


def _work(gpu: Gpu, step: Step) -> float:
    """Seconds of a step's products and bytes."""
    return _computing(gpu, step) + step.moved() / gpu.bandwidth / REACHED


def _forward(gpu: Gpu, step: Step, bytes_moved: float = 1.0) -> float:
    """The same of a forward pass, a third of it, beside which weights are nothing. bytes_moved: in those counted."""
    return (_computing(gpu, step) + bytes_moved * step.moved_by_states() / gpu.bandwidth / REACHED) / 3


def _computing(gpu: Gpu, step: Step) -> float:
    rate = gpu.single if step.precision == "fp32" else gpu.half
    attention = step.attention()
    return ((step.operations() - attention) / REACHED + attention / ATTENTION) / rate


def _step_seconds(gpu: Gpu, step: Step) -> tuple[float, float]:
    """Of a step: of the GPU, and from its beginning to its end in a process by itself."""
    kernels = KERNELS * step.model.num_hidden_layers
    of_gpu = _work(gpu, step) + SHORTEST * kernels
    return of_gpu, max(of_gpu, LAUNCH * kernels)


def _fine_tuning(config: Config, gpu: Gpu, model: BertConfig, pooling: str, precision: str) -> tuple[float, float, str]:
    """Seconds of fine-tuning, as many folds side by side as there are workers, with and without MPS, and its row."""
    settings, data = config.finetune, config.data
    arms = [arm for arm in settings.arms if arm not in FLOORS]
    windows, source = LABELLED, "windows assumed"
    if Path(data.spliceator).is_dir():
        with tempfile.TemporaryDirectory(prefix="simcsp-plan-") as aside:  # for the splits, which nobody is to find
            windows, source = len(load_windows(data, Path(aside))[0]), "windows"
    folds = len(settings.folds or range(data.fold_count))
    fits = folds * sum(fits_in_a_fold(config, arm) for arm in arms)
    epochs = expected_epochs(settings)
    whole = windows / len(settings.sites)
    steps = windows_in_an_epoch(settings, 0.7 * whole) / settings.batch_size
    stage = PretrainConfig(objective="classify", batch_size=settings.batch_size)
    step = Step(model, stage, data.context, pooling, precision, clips=False)
    (of_gpu, alone), workers = _step_seconds(gpu, step), config.processes
    # of the validation windows each epoch, of the test windows before and after; weights are read once for many
    evaluated = whole * (0.1 * epochs + 3 * 0.2) / settings.batch_size * _forward(gpu, step)
    state = epochs * 2 * 18 * block_weights(model) / DISK  # written, and read by another epoch
    nmi = (data.motif_bed is not None) * 2 / folds  # before and after, in the first fold
    of_worker = (epochs * steps * alone + evaluated + state + nmi * VALIDATION) / workers
    side_by_side = _work(gpu, step) if workers > 1 else of_gpu
    seconds, sliced = (fits * max(epochs * steps * each + evaluated, of_worker) for each in (side_by_side, of_gpu))
    what = (
        f"{fits} fits of {epochs} epochs, {windows:,} {source}, {1000 * alone:.1f} ms a step of {settings.batch_size}"
    )
    beside = f", {workers} folds side by side: {1000 * side_by_side:.1f}" if workers > 1 else ""
    return seconds, sliced, what + beside
