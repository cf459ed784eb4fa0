"""What an experiment costs, before any of it is run: fits and epochs of fine-tuning, and the memory of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simcsp.core.arms import starts_of
from simcsp.core.config import Config, FinetuneConfig, ModelConfig, PretrainConfig
from simcsp.core.errors import InputError

if TYPE_CHECKING:
    from transformers import BertConfig

SUPCON_EPOCHS = 5


def block_weights(model: ModelConfig | BertConfig) -> int:
    """Weights of an encoder's blocks, but for biases and layer norms."""
    hidden, inner = model.hidden_size, model.intermediate_size
    return model.num_hidden_layers * (4 * hidden * hidden + 2 * hidden * inner)


def fits_in_a_fold(config: Config, arm: str) -> int:
    """Fits of an entry of finetune.arms in one fold: sites x seeds x draws of training windows x its start models."""
    settings = config.finetune
    starts = starts_of(arm, len(config.pretrain_seeds))
    return len(settings.sites) * len(settings.seeds) * len(settings.cuts) * starts


def expected_epochs(settings: FinetuneConfig) -> int:
    """Epochs of a fit that stops early: twice its patience, at most. On stored vectors, one pass over the windows."""
    epochs = {"full": min(settings.max_epochs, 2 * settings.patience), "supcon": SUPCON_EPOCHS, "head": 1, "probe": 1}
    return sum(epochs[stage] for stage in settings.stages)


def windows_in_an_epoch(settings: FinetuneConfig, whole: float) -> float:
    """Training windows of a fit, the mean over draws. whole: those of a fold's training part."""
    return sum(whole if count is None else count for count, _ in settings.cuts) / len(settings.cuts)


# -- a step of pre-training --------------------------------------------------------------------------------------------

MARGIN = 1.15
"""By which an estimate of memory may be off: what is refused is more than the device has by more than that."""

PER_KEPT, PER_KEPT_OF_FEW, PER_KEPT_FP32 = 3.2, 3.65, 4.3
"""Bytes moved for each that the backward pass keeps: in half precision, of MANY tokens and of fewer; in float32."""
MANY = 2**16
"""Tokens of a step from which on a sum over them costs more than columns of ones (`simcsp.training.half`)."""
PER_WEIGHT, PER_CLIPPED = 40.0, 12.0
"""Bytes moved for each weight: its copy, its gradient, AdamW; and clipping or fp16's scaler."""


@dataclass(frozen=True)
class Step:
    """A step of pre-training, of which bytes and operations are counted. window: nt; precision: fp32, bf16 or fp16;
    processes: that share the batch; device: cpu or cuda; clips: gradients, as fine-tuning does not."""

    model: BertConfig
    stage: PretrainConfig
    window: int
    pooling: str
    precision: str
    processes: int = 1
    device: str = "cuda"
    clips: bool = True

    @property
    def _passes(self) -> tuple[int, int]:
        """How many tokens of each window the encoder reads, pooled and for masked bases."""
        from simcsp.training.objectives import OBJECTIVES  # torch, which a plan of jobs does without

        stage, tokens = self.stage, self.window + 2
        masked = stage.objective == "mlm" or stage.mlm_weight > 0
        return OBJECTIVES[stage.objective].views * tokens, masked * tokens

    @property
    def _blocks(self) -> tuple[int, bool]:
        """Blocks that a pooled window goes through whole, and whether one more computes its pooled tokens alone."""
        kind, _, layer = self.pooling.partition("@")
        blocks = int(layer) if layer.isdecimal() else self.model.num_hidden_layers
        at_places = kind != "mean" and layer != "mix" and blocks > 0
        return blocks - at_places, at_places

    def kept(self) -> float:
        """Bytes that the backward pass keeps of a window in all its views and its masked copy, and holds in passing.

        Counted operation by operation of transformers' BERT; tests/pretend_cuda holds it to what is counted there. In
        half precision the states between blocks are float32 under autocast, on a CPU, where each that reads them keeps
        a copy; on a GPU they are half (`OnHalfCopies`).
        """
        hidden, inner, heads = self.model.hidden_size, self.model.intermediate_size, self.model.num_attention_heads
        on_cpu, size = self.device == "cpu", 4 if self.precision == "fp32" else 2  # of an activation
        copies = on_cpu and size == 2
        state = 4 if on_cpu else size
        matrix = 4 * heads * (self.window + 2) if on_cpu else 0  # attention's weights, with dropout
        # query, key, value and what each reads; attention's output; dropout's mask; the two sums that layer norms read
        attention = hidden * (3 * size + (3 * size if copies else size) + size + 1 + state) + 4 * heads + matrix
        feed_forward = hidden * (size + 1 + state) + 2 * size * inner
        of_block, of_embedding = attention + feed_forward, hidden * (state + 1)
        of_last = hidden * (2 * size + (2 * size if copies else size))  # keys and values alone
        of_head = hidden * (size + size + state + size) + 12 * self.model.vocab_size
        whole, at_places = self._blocks
        pooled, masked = self._passes
        # of the block whose gradients are made; its own are freed by then
        in_passing = 2 * size * inner + (2 + state) * hidden
        last = max(in_passing, at_places * of_last)
        kept = pooled * (of_embedding + whole * of_block + last)
        kept += masked * (of_embedding + self.model.num_hidden_layers * of_block + of_head)
        kept += 0 if pooled else masked * in_passing
        return float(kept)

    def memory(self, mini_batch_size: int | None) -> float:
        """Peak bytes: weights, gradients, AdamW's moments; what is kept of the windows at once; the outputs of all."""
        pooled, masked = self._passes
        share = self.stage.batch_size // self.processes
        at_once = min(mini_batch_size or share, share)
        outputs = share * (pooled * 4 + masked * (12 + 6 * self.model.vocab_size * (mini_batch_size is not None)))
        similarities = 0 if self.stage.objective == "mlm" else 16 * self.stage.batch_size * share
        rows = self.model.vocab_size + self.model.max_position_embeddings
        weights = block_weights(self.model) + rows * self.model.hidden_size
        each = 16 if self.precision == "fp32" else 18  # weight, gradient, two moments; in half precision a copy
        return each * weights + at_once * self.kept() + outputs + similarities

    def moved(self) -> float:
        """Bytes that a step reads and writes on a GPU but for products and attention, as tests/pretend_cuda counts."""
        per_weight = PER_WEIGHT + PER_CLIPPED * (self.clips or self.precision == "fp16")
        return self.moved_by_states() + per_weight * block_weights(self.model)

    def moved_by_states(self) -> float:
        """Of those, what grows with the windows."""
        size = self.stage.batch_size
        of_half = PER_KEPT if size * sum(self._passes) >= MANY else PER_KEPT_OF_FEW
        return (PER_KEPT_FP32 if self.precision == "fp32" else of_half) * size * self.kept()

    def operations(self) -> float:
        """Floating-point operations of the matrix products of a step of the whole batch, forward and backward, without
        what gradient caching repeats: those of the work, by which MFU is reckoned (Chowdhery et al. 2022, appendix B).
        """
        hidden, blocks = self.model.hidden_size, self.model.num_hidden_layers
        of_block = 2 * block_weights(self.model) / blocks
        whole, at_places = self._blocks
        pooled, masked = self._passes
        of_window = pooled * (whole * of_block + at_places * 4 * hidden * hidden)
        of_window += masked * (blocks * of_block + 2 * hidden * hidden)
        return 3.0 * self.stage.batch_size * of_window + self.attention()

    def attention(self) -> float:
        """Of those, what attention's own two products take."""
        (whole, _), (pooled, masked) = self._blocks, self._passes
        tokens = pooled * whole + masked * self.model.num_hidden_layers
        return 12.0 * self.stage.batch_size * tokens * (self.window + 2) * self.model.hidden_size

    def mini_batch_size(self, free: float) -> int | None:
        """Windows at once, None for all of a process's share, that fit into nine tenths of the free bytes: the most
        that are a power of two. Raises InputError where one does not."""
        if self.memory(None) <= 0.9 * free:
            return None
        size = self.stage.batch_size // self.processes
        while size > 1:
            size = 1 << ((size - 1).bit_length() - 1)
            if self.memory(size) <= 0.9 * free:
                return size
        raise InputError(
            f"one window takes {self.memory(1) / 1e9:,.1f} GB of memory, {free / 1e9:,.1f} GB are free: a smaller model"
        )
