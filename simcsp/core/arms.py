"""The arms of a comparison: their names and their order."""

from __future__ import annotations

from pathlib import Path

HEAD_FILE = "head.safetensors"
"""Beside the encoder in the checkpoint of a classifier that no transformers class covers."""
PLAIN_CLASSIFIER = "BertForSequenceClassification"
"""The transformers class of the others: encoder and head in one file."""
OF_ANNOTATION = ("annotation", "annotation_linear")
"""Floors that are fitted on the text's own annotated sites, and on no label."""
FLOORS = ("pwm", "kmer", "linear", "cnn", *OF_ANNOTATION)
"""They have no encoder; all others are fitted on the training windows of each fold."""
BASELINE = "baseline"  # the start of the pretrain stage
PROXIES = ("sccs", "nmi")
"""Monitored in pre-training; each keeps a best checkpoint; higher is better for both."""
OF_PRETRAINING = ("best_sccs", "best_nmi", "last")
"""Checkpoints of the pretrain stage, and of its control, under their folders' names."""
CONTROL = "control_"
OF_CONTROL = tuple(f"{CONTROL}{name}" for name in OF_PRETRAINING)
ARMS = (*FLOORS, "fresh", BASELINE, *OF_PRETRAINING, *OF_CONTROL)
"""All predefined arms, in the order of tables."""


def is_trained(name: str) -> bool:
    """Whether an arm, by its name or as run:arm, is a checkpoint of pre-training or its control: another seed makes
    another."""
    return name.rpartition(":")[2] in OF_PRETRAINING + OF_CONTROL


def starts_of(arm: str, pretrain_seeds: int) -> int:
    """From how many checkpoints an entry of finetune.arms is fine-tuned: one a pre-training seed where this run's
    pre-training makes them, and one alone where it is NAME=CHECKPOINT."""
    return pretrain_seeds if arm in OF_PRETRAINING + OF_CONTROL else 1


def holds_classifier(folder: Path) -> bool:
    """Whether a checkpoint folder is that of a classifier of windows, and not of an encoder alone."""
    if (folder / HEAD_FILE).is_file():
        return True
    config = folder / "config.json"
    return config.is_file() and f'"{PLAIN_CLASSIFIER}"' in config.read_text(encoding="utf-8", errors="replace")
