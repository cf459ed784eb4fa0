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
KERNELS = 54  # of a step of fine-tuning, for each block, as tests/pretend_cuda counts them
LAUNCH, SHORTEST = 1e-5, 2e-6  # seconds of the host from one kernel to the next; of the device, beside its work
VALIDATION = 9.0  # seconds of a processor for SCCS and NMI of 20,000 sites, beside the training
SITES, AUTOCAST = 20_000, 1.75  # sites that a validation encodes; bytes moved, which are float32 between blocks there
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
    seconds = 0.0
    if config.data.spliceator is not None and config.finetune.task == "windows":
        seconds, row = _fine_tuning(config, gpu, model, pooling, precision)
        rows.append(("fine-tune", row))
    hours = [f"{part / 3600:.1f}" for part in (total + seconds, total, seconds)]
    rows.append(("time", "{} h: pre-training {}, fine-tuning {}".format(*hours)))
    rows.append((
        "assumed",
        f"{REACHED:.0%} of the data sheet's rates, pointwise operations after products, bytes and {KERNELS} kernels a "
        f"block as counted, {1e6 * LAUNCH:.0f} microseconds of a host and {1e6 * SHORTEST:.0f} of the GPU for each "
        f"kernel, a core for each worker; sites encoded under autocast, {VALIDATION:.0f} s of one more core to score "
        f"them; states by {DISK / 1e9:.0f} GB/s; floors and reports left out; no GPU was measured",
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
    seconds = _step_seconds(gpu, step) * (1 if mini is None else 4 / 3)  # one more forward pass
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
    rate = gpu.single if step.precision == "fp32" else gpu.half
    encoding = (whole.operations() / rate + AUTOCAST * whole.moved() / gpu.bandwidth) / REACHED / 3  # of a step
    return encoding + KEPT * block_weights(step.model) / DISK + max(0.0, VALIDATION - interval)


def _step_seconds(gpu: Gpu, step: Step, processes: int = 1) -> float:
    """processes: that launch kernels side by side, each a step of its own; the mean of their steps."""
    rate = gpu.single if step.precision == "fp32" else gpu.half
    kernels = KERNELS * step.model.num_hidden_layers
    work = (step.operations() / rate + step.moved() / gpu.bandwidth) / REACHED
    return max(work + SHORTEST * kernels, LAUNCH * kernels / processes)


def _fine_tuning(config: Config, gpu: Gpu, model: BertConfig, pooling: str, precision: str) -> tuple[float, str]:
    """Seconds of fine-tuning, as many folds side by side as there are workers, and its row."""
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
    step = Step(model, stage, data.context, pooling, precision)
    of_step = _step_seconds(gpu, step, config.processes)
    # a forward pass is a third of a step: of the validation windows each epoch, of the test windows before and after
    scored = whole * (0.1 * epochs + 3 * 0.2) / settings.batch_size / 3
    state = epochs * 2 * 18 * block_weights(model) / DISK / config.processes  # written, and read by another epoch
    nmi = (data.motif_bed is not None) * 2 / folds  # before and after, in the first fold
    of_fit = (epochs * steps + scored) * of_step + state + nmi * VALIDATION / config.processes
    beside = f", {config.processes} folds side by side" if config.processes > 1 else ""
    what = f"{fits} fits of {epochs} epochs, {windows:,} {source}"
    return fits * of_fit, f"{what}, {1000 * of_step:.1f} ms a step of {settings.batch_size}{beside}"
