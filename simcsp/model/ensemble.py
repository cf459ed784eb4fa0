"""Fine-tuned classifiers of windows side by side: the score of a window is the mean of their P(site)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from simcsp.core.config import Config
from simcsp.model.classifier import Classifier, load_classifier, predict, predict_logits
from simcsp.model.embedding import Autocast, check_numbers
from simcsp.model.encoder import check_length

_TOKENS = {"cpu": 1 << 13, "cuda": 1 << 18}  # a batch: what keeps a CPU's caches warm, what keeps a GPU busy


@dataclass(frozen=True)
class Ensemble:
    """Models of one arm. groups: {type of site: models that score it}; length: nt of a window; typed: whether a score
    is that of a site of this type (models fitted on both types cannot tell a donor from an acceptor)."""

    groups: dict[str, list[Classifier]]
    length: int
    batch_size: int
    autocast: Autocast = nullcontext
    typed: bool = True

    def score(self, windows: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and sd (NaN for one) over models of P(site of this type), float64 [n], of windows uint8 [n, length]."""
        models = self.groups[kind]
        scores = np.stack([predict(model, windows, self.batch_size, self.autocast) for model in models])
        check_numbers(scores, f"windows of {kind}s")
        sd = scores.std(axis=0, ddof=1, dtype=np.float64) if len(models) > 1 else np.full(len(windows), np.nan)
        return scores.mean(axis=0, dtype=np.float64), sd

    def logits(self, windows: np.ndarray, kind: str) -> np.ndarray:
        """Mean logit over the models, float [n]."""
        models = self.groups[kind]
        return np.mean([predict_logits(model, windows, self.batch_size, self.autocast) for model in models], axis=0)


def load_ensemble(
    folders: dict[str, list[Path]], config: Config, device: torch.device, batch_size: int | None, autocast: Autocast
) -> Ensemble:
    """Load classifier checkpoints by what they were fitted on: {'donor', 'acceptor' or 'both': folders}.

    Models fitted on one type score it; those fitted on both score what no others do. batch_size: None takes what suits
    the device. Raises InputError for windows that a model cannot take.
    """
    length, loaded, groups = config.data.context, {}, {}
    for kind in ("donor", "acceptor"):
        site = kind if kind in folders else "both"
        if site in folders:
            if site not in loaded:
                loaded[site] = [_load(folder, config, length, device) for folder in folders[site]]
            groups[kind] = loaded[site]
    batch_size = batch_size or max(_TOKENS[device.type] // (length + 2), 1)
    return Ensemble(groups, length, batch_size, autocast, typed="both" not in loaded)


def _load(folder: Path, config: Config, length: int, device: torch.device) -> Classifier:
    model = load_classifier(folder, config.model, config.finetune.dropout).to(device)
    check_length(model.bert, length, "data.context")
    return model.eval()
