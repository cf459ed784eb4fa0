"""Dilated residual convolutions on one-hot bases, in the manner of SpliceAI (Jaganathan et al., Cell 176, 535-548,
2019): of the models of labelled windows alone the best one here, where there are thousands (results/REPORT.md)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.optim.swa_utils import AveragedModel

from simcsp.core.device import CPU, forked_rng
from simcsp.text.alphabet import A, T

WIDTH, KERNEL, DILATIONS = 48, 11, (1, 1, 4, 4, 8)  # sees 180 nt on either side of a base
LR, WEIGHT_DECAY, BATCH_SIZE, EPOCHS = 3e-3, 1e-2, 64, 12  # AdamW; the rate rises for a tenth of the steps, then cosine
PATIENCE = 3  # epochs without a better validation AUC that end the fit
BLOCK_DROPOUT, HEAD_DROPOUT = 0.15, 0.2
DECAY = 0.998  # a step, of the moving average of weights and of batch statistics, which is the model
MUTATION_RATE, KEPT = 0.03, 10  # share of bases exchanged in training, but for so many on either side of the centre


class Block(nn.Module):
    """Two dilated convolutions beside a shortcut; [n, channels, 1, length] to the same."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        padding = (0, KERNEL // 2 * dilation)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, (1, KERNEL), padding=padding, dilation=(1, dilation)) for _ in range(2)
        )
        self.dropout = nn.Dropout2d(BLOCK_DROPOUT)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        changed = states
        for norm, convolve in zip(self.norms, self.convolutions):
            changed = convolve(F.relu(norm(changed)))
        return states + self.dropout(changed)


class Network(nn.Module):
    """Logit [n] of one-hot bases [n, 4, 1, length]: from the two central positions and the mean of either half.

    Convolutions run in two dimensions, one of size 1: channels-last memory, four times as fast on a CPU, serves those
    alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(T - A + 1, WIDTH, (1, 1))
        self.blocks = nn.Sequential(*(Block(WIDTH, dilation) for dilation in DILATIONS))
        self.norm = nn.BatchNorm2d(WIDTH)
        self.head = nn.Sequential(nn.Dropout(HEAD_DROPOUT), nn.Linear(4 * WIDTH, 1))
        self.to(memory_format=torch.channels_last)

    def forward(self, bases: torch.Tensor) -> torch.Tensor:
        states = F.relu(self.norm(self.blocks(self.stem(bases))))[:, :, 0]
        middle = states.shape[2] // 2
        halves = states[:, :, :middle].mean(2), states[:, :, middle:].mean(2)
        return self.head(torch.cat([states[:, :, middle - 1], states[:, :, middle], *halves], 1))[:, 0]


class DilatedResNet:
    """seed: of weights, order, exchanged bases and dropout. autocast: the number format of the convolutions; device:
    where they run."""

    def __init__(
        self, seed: int, autocast: Callable[[], AbstractContextManager] = nullcontext, device: torch.device = CPU
    ) -> None:
        self.seed = seed
        self.autocast = autocast
        self.device = device

    def fit(self, ids: np.ndarray, labels: np.ndarray, val_ids: np.ndarray, val_labels: np.ndarray) -> DilatedResNet:
        """ids: uint8 [n, length]; labels [n] in {0, 1}. Of at most EPOCHS epochs the best by validation AUC is kept.

        Afterwards `facts` has epochs and best_epoch.
        """
        rng = np.random.default_rng([self.seed, 7])
        batch_size = min(BATCH_SIZE, len(ids))
        with forked_rng(self.device):
            torch.manual_seed(self.seed)
            network = Network().to(self.device)
            averaged = AveragedModel(network, avg_fn=_moved, use_buffers=True)
            self.network = averaged.module
            optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
            steps = EPOCHS * (len(ids) // batch_size)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.1)
            best, best_epoch, best_state = -1.0, 0, None
            for epoch in range(1, EPOCHS + 1):
                network.train()
                order = rng.permutation(len(ids))
                for start in range(0, len(ids) - batch_size + 1, batch_size):
                    index = order[start : start + batch_size]
                    with self.autocast():
                        logits = network(_one_hot(_mutated(ids[index], rng)).to(self.device))
                    target = torch.from_numpy(labels[index]).float().to(self.device)
                    loss = F.binary_cross_entropy_with_logits(logits.float(), target)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    averaged.update_parameters(network)
                auc = roc_auc_score(val_labels, self.predict(val_ids))
                if auc > best:
                    best, best_epoch, best_state = auc, epoch, copy.deepcopy(self.network.state_dict())
                elif epoch - best_epoch >= PATIENCE:
                    break
            self.network.load_state_dict(best_state)
        self.facts = {"epochs": epoch, "best_epoch": best_epoch}
        return self

    @torch.no_grad()
    def predict(self, ids: np.ndarray) -> np.ndarray:
        """P(site), float [n]."""
        self.network.eval()
        with self.autocast():
            parts = (_one_hot(ids[start : start + 512]).to(self.device) for start in range(0, len(ids), 512))
            logits = [self.network(part) for part in parts]
        return torch.cat(logits).cpu().double().sigmoid().numpy()


def _moved(average: torch.Tensor, value: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The average after one more step. A young one moves faster, so that it does not keep the first weights."""
    return average + (value - average) * (1 - min(DECAY, (1 + int(count)) / (10 + int(count))))


def _mutated(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Windows with a share of their bases substituted, those about the centre kept."""
    exchanged = rng.random(ids.shape) < MUTATION_RATE
    centre = ids.shape[1] // 2
    exchanged[:, max(centre - KEPT, 0) : centre + KEPT] = False
    return np.where(exchanged, rng.integers(A, T + 1, ids.shape, dtype=ids.dtype), ids)


def _one_hot(ids: np.ndarray) -> torch.Tensor:
    """float32 [n, 4, 1, length], channels last; N is all zero."""
    bases = ids[:, None, None, :] == np.arange(A, T + 1)[None, :, None, None]
    return torch.from_numpy(bases.astype(np.float32)).contiguous(memory_format=torch.channels_last)
