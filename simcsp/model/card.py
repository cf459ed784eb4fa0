"""Model cards: README.md of a checkpoint, with the YAML front matter that the hub and its search read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from simcsp.core.arms import HEAD_FILE, PLAIN_CLASSIFIER, holds_classifier
from simcsp.core.files import write_text
from simcsp.model.bases import BASES_CONFIG
from simcsp.model.checksums import CARD, CARD_TAG

TAGS = [CARD_TAG, "biology", "genomics", "dna", "splice-site"]
METRICS = {  # of a summary -> type on the hub, name
    "test/f1": ("f1", "F1"),
    "test/auc": ("roc_auc", "AUC"),
    "test/ap": ("average_precision", "AP"),
    "test/ap_donor": ("average_precision", "AP donor"),
    "test/ap_acceptor": ("average_precision", "AP acceptor"),
    "test/topk_donor": ("top_k_accuracy", "top-k donor"),
    "test/topk_acceptor": ("top_k_accuracy", "top-k acceptor"),
    "val/sccs": ("sccs", "SCCS"),
    "val/nmi": ("nmi", "NMI"),
    "val/loss": ("loss", "loss"),
}
_INSTEAD_OF_BASES = """\
For human splice sites and variants whose scores matter, use SpliceAI or Pangolin, which have learnt from the whole
genome and look at 5,000 nt on either side. Not a clinical tool."""
_INSTEAD_OF_WINDOWS = """\
To scan a genome, use a model that labels every base: this one was fitted on as many decoys as sites or a fixed ratio of
them, so that in a genome, with hundreds of GT and AG to a site, most of what it calls is false. For human variants use
SpliceAI or Pangolin. Not a clinical tool."""
_INSTEAD_OF_ENCODER = """\
For a language model of RNA or DNA in general, use SpliceBERT or another that has read whole genomes: this one knows the
text that it was trained on. Where you have an annotation or labels, compare it with a linear model of them first: a
report of SimCSP has one among its floors."""
UNKNOWN_LICENSE = "other"
"""Of a model that was begun from one whose card names none."""


class Kind(NamedTuple):
    """What a checkpoint is: the hub's task, a sentence, when another model serves better, how and by what it loads."""

    task: str
    about: str
    instead: str
    use: str
    library: str = "transformers"


def kind_of(folder: Path) -> Kind:
    name, path = folder.name, folder / "config.json"
    config = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if (folder / BASES_CONFIG).is_file():
        task, instead, plain = "token-classification", _INSTEAD_OF_BASES, "BertForTokenClassification"
        about = "Labels every base of both strands as neither, acceptor or donor, at the exon's base of the boundary."
        own = "It has convolutions that no class of transformers has: `evaluate.py predict` of SimCSP loads it."
        use = f"python evaluate.py predict {name} genome.fa.gz --out scores.bed"
    elif holds_classifier(folder):
        task, instead, plain = "text-classification", _INSTEAD_OF_WINDOWS, PLAIN_CLASSIFIER
        about = "P(splice site) of windows of DNA with the boundary at their centre."
        own = "Its pooling no class of transformers has: AutoModel loads the encoder alone, "
        own += f"`simcsp.model.classifier.load_classifier` encoder and head (`{HEAD_FILE}`)."
        use = f"python evaluate.py predict {name} windows.fa.gz --fasta_windows --out scores.tsv"
    else:
        return Kind(
            "fill-mask" if "MaskedLM" in config else "feature-extraction",
            "A BERT over single nucleotides with SpliceBERT's ten-row vocabulary; [CLS] bases [SEP], one token a base.",
            _INSTEAD_OF_ENCODER,
            f'from transformers import AutoModel, AutoTokenizer\nmodel = AutoModel.from_pretrained("{name}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        )
    if f'"{plain}"' not in config:
        return Kind(task, f"{about} {own}", instead, use, "pytorch")
    use = f'from transformers import pipeline\nlabel = pipeline("{task}", model="{name}")\nlabel("ACGTACGT")'
    return Kind(task, about, instead, use)


def license_of(source: str | None) -> str:
    """The licence that a model has from the one it was begun with; mit, this project's, for fresh weights."""
    if source is None:
        return "mit"
    card = Path(source) / CARD
    return (card_data(card).license or UNKNOWN_LICENSE) if card.is_file() else UNKNOWN_LICENSE


def card_data(path: Path) -> ModelCardData:
    """The front matter of a card; empty where it has none, or none that the hub could read."""
    try:
        return ModelCard.load(path, ignore_metadata_errors=True).data
    except ValueError:
        return ModelCardData()


def write_card(
    folder: Path, name: str, source: str | None, data: Mapping[str, Any], measured_on: str, scores: Mapping[str, Any]
) -> None:
    """Put README.md into a checkpoint folder.

    source: what training began from, None for fresh weights. data: {what: file or value} of the training, without
    folders; measured_on: on what the scores, {'test/f1': value}, were measured; those that METRICS has are shown.
    """
    kind = kind_of(folder)
    known = {key: float(scores[key]) for key in METRICS if _is_number(scores.get(key))}
    text = "genome" if kind.task == "token-classification" else "windows"
    results = [
        EvalResult(kind.task, text, measured_on, METRICS[key][0], round(value, 4), metric_name=METRICS[key][1])
        for key, value in known.items()
    ]
    header = ModelCardData(
        license=license_of(source),
        library_name=kind.library,
        pipeline_tag=kind.task,
        tags=TAGS,
        model_name=name,
        eval_results=results or None,
        ignore_metadata_errors=True,
    )
    rows = [f"| begun from | {Path(source).name if source else 'fresh weights'} |"]
    rows += [f"| {what} | {_shown(value)} |" for what, value in data.items() if value not in (None, [], "")]
    table = [f"| {METRICS[key][1]} | {value:.4f} |" for key, value in known.items()]
    lines = [f"# {name}", "", kind.about, "", "## When to use something else", "", kind.instead, ""]
    lines += ["## Training", "", "| | |", "|---|---|", *rows, ""]
    if table:
        lines += ["## Scores", "", f"On {measured_on}.", "", "| | |", "|---|---|", *table, ""]
    lines += ["## Use", "", "```", kind.use, "```", ""]
    write_text(folder / CARD, f"---\n{header.to_yaml()}\n---\n\n" + "\n".join(lines))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _shown(value: Any) -> str:
    values = value if isinstance(value, (list, tuple)) else [value]
    return ", ".join(Path(item).name if isinstance(item, str) and "/" in item else str(item) for item in values)
