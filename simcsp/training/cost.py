"""What an experiment costs, before any of it is run: fits and epochs of fine-tuning, and the memory of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simcsp.core.arms import starts_of
from simcsp.core.config import Config, FinetuneConfig, ModelConfig, PretrainConfig

if TYPE_CHECKING:
    from transformers import BertConfig


def block_weights(model: ModelConfig | BertConfig) -> int:
    """Weights of an encoder's blocks, but for biases and layer norms."""
    hidden, inner = model.hidden_size, model.intermediate_size
    return model.num_hidden_layers * (4 * hidden * hidden + 2 * hidden * inner)


def fits_in_a_fold(config: Config, arm: str) -> int:
    """Fits of an entry of finetune.arms in one fold: sites x seeds x draws of training windows x the start models that
    it has."""
    settings = config.finetune
    starts = starts_of(arm, len(config.pretrain_seeds))
    return len(settings.sites) * len(settings.seeds) * len(settings.cuts) * starts


def expected_epochs(settings: FinetuneConfig) -> int:
    """Epochs of a fit that stops early: twice its patience, at most. On stored vectors, one pass over the windows."""
    epochs = {
        "full": min(settings.max_epochs, 2 * settings.patience),
        "supcon": settings.supcon_epochs,
        "head": 1,
        "probe": 1,
    }
    return sum(epochs[stage] for stage in settings.stages)


def windows_in_an_epoch(settings: FinetuneConfig, whole: float) -> float:
    """Training windows of a fit, the mean over draws. whole: those of a fold's training part."""
    return sum(whole if count is None else count for count, _ in settings.cuts) / len(settings.cuts)


def step_memory(model: ModelConfig | BertConfig, stage: PretrainConfig, window: int, processes: int = 1) -> float:
    """Bytes that a step of pre-training takes at least: weights, gradients and AdamW's two moments, and the activations
    in half precision of the windows that go through the encoder at once. processes: that share the batch."""
    from simcsp.training.objectives import OBJECTIVES  # torch, which a plan of jobs does without

    views = max(OBJECTIVES[stage.objective].views, 1) + stage.reverse_complement_negatives
    share = stage.batch_size // processes
    at_once = min(stage.mini_batch_size or share, share)
    hidden, inner, layers = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    activations = 2.0 * at_once * views * (window + 2) * layers * (2 * hidden + inner)
    vectors = 4.0 * stage.batch_size * views * ((window + 2) + hidden)
    similarities = 0.0 if stage.objective == "mlm" else 4.0 * stage.batch_size * share
    return 16.0 * block_weights(model) + activations + vectors + similarities
