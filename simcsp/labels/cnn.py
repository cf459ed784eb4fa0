"""A small convolutional network on one-hot bases, in the manner of Spliceator (Scalzitti et al. 2021): what a model of
the encoder's size learns from the labelled windows alone."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn

from simcsp.core.device import CPU, forked_rng
from simcsp.text.alphabet import A, T

LR, WEIGHT_DECAY, BATCH_SIZE = 1e-3, 1e-2, 32  # AdamW
MAX_EPOCHS, PATIENCE = 200, 10  # it stops after so many epochs without a better validation AUC
DROPOUT, DENSE, POOL = 0.2, 100, 3


def build_network(length: int, width: int) -> nn.Sequential:
    """Three convolutions, each with a third of the length and twice the channels of the one before; two dense layers.

    Takes one-hot bases [n, 4, length], gives logits [n, 1]. width: channels of the first."""
    layers: list[nn.Module] = []
    channels = 4
    for out, kernel in ((width, 9), (2 * width, 7), (4 * width, 7)):
        layers += [nn.Conv1d(channels, out, kernel, padding="same"), nn.ReLU(), nn.Dropout(DROPOUT)]
        layers.append(nn.MaxPool1d(POOL, ceil_mode=True))
        channels, length = out, -(-length // POOL)
    layers += [nn.Flatten(), nn.Linear(channels * length, DENSE), nn.ReLU(), nn.Dropout(DROPOUT)]
    return nn.Sequential(*layers, nn.Linear(DENSE, 1))


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def widest(length: int, parameters: int) -> int:
    """The largest width whose network has at most this many parameters; at least 1."""
    with torch.device("meta"):
        width = 1
        while parameter_count(build_network(length, width + 1)) <= parameters:
            width += 1
    return width


class SmallCnn:
    """parameters: about how many it has. seed: of weights, order and dropout. device: where it is trained."""

    def __init__(self, parameters: int, seed: int, device: torch.device = CPU) -> None:
        self.parameters = parameters
        self.seed = seed
        self.device = device

    def fit(self, ids: np.ndarray, labels: np.ndarray, val_ids: np.ndarray, val_labels: np.ndarray) -> SmallCnn:
        """ids: uint8 [n, length]; labels [n] in {0, 1}. The epoch with the best validation AUC is kept.

        Afterwards `facts` has epochs, best_epoch and hit_limit: whether the last epoch allowed came before patience ran
        out.
        """
        with forked_rng(self.device):
            torch.manual_seed(self.seed)
            self.network = build_network(ids.shape[1], widest(ids.shape[1], self.parameters)).to(self.device)
            optimizer = torch.optim.AdamW(self.network.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
            x, y = _one_hot(ids).to(self.device), torch.from_numpy(labels).float().to(self.device)
            best, best_epoch, best_state, epoch = -1.0, 0, None, 0
            while epoch < MAX_EPOCHS and epoch - best_epoch < PATIENCE:
                self.network.train()
                for index in torch.randperm(len(x)).split(BATCH_SIZE):
                    loss = F.binary_cross_entropy_with_logits(self.network(x[index])[:, 0], y[index])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                epoch += 1
                auc = roc_auc_score(val_labels, self.predict(val_ids))
                if auc > best:
                    best, best_epoch, best_state = auc, epoch, copy.deepcopy(self.network.state_dict())
            self.network.load_state_dict(best_state)
        self.facts = {"epochs": epoch, "best_epoch": best_epoch, "hit_limit": epoch - best_epoch < PATIENCE}
        return self

    @torch.no_grad()
    def predict(self, ids: np.ndarray) -> np.ndarray:
        """P(site), float [n]."""
        self.network.eval()
        parts = (ids[start : start + 1024] for start in range(0, len(ids), 1024))
        logits = [self.network(_one_hot(part).to(self.device))[:, 0] for part in parts]
        return torch.cat(logits).cpu().sigmoid().double().numpy()


def _one_hot(ids: np.ndarray) -> torch.Tensor:
    """float32 [n, 4, length]; N is all zero."""
    return torch.from_numpy((ids[:, None, :] == np.arange(A, T + 1)[:, None]).astype(np.float32))
