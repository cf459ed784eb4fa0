"""Text opened as pre-training does, for the tests of its corpora."""

import pytest

from simcsp.text.corpora import build_sampler
from simcsp.training import pretraining
from utils.config import Config, DataConfig
from utils.device import build_accelerator
from utils.errors import InputError

WINDOW = 40


def experiment(folder, fasta, **data):
    """A config whose text is these FASTA files; data: fields of its data section."""
    data = {"fasta": [str(path) for path in fasta], "cache": str(folder / "cache"), "window": WINDOW, **data}
    return Config(name="corpus", device="cpu", precision="fp32", data=DataConfig(**data))


def open_text(config):
    """The corpus and its windows, as pre-training opens them."""
    corpus = pretraining.open_text(config, build_accelerator(config.device, config.precision))
    return corpus, build_sampler(config.data, corpus, config.seed)


def refused(config, message):
    with pytest.raises(InputError, match=message) as error:
        open_text(config)
    assert "\n" not in str(error.value)


def gtf(path, genes):
    """A GTF of genes: (record, strand, [(start, end) of each exon, 0-based half-open])."""
    lines = []
    for i, (record, strand, exons) in enumerate(genes):
        attributes = f'gene_id "g{i}"; transcript_id "t{i}";'
        lines += [f"{record}\tx\texon\t{start + 1}\t{end}\t.\t{strand}\t.\t{attributes}\n" for start, end in exons]
    path.write_text("".join(lines))
    return path
