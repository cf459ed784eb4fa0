"""Text opened as pre-training does, for the tests of its corpora."""

import pytest
from conftest import other_strand, put, random_bases, write_fasta

from simcsp.core.config import Config, DataConfig
from simcsp.core.errors import InputError
from simcsp.text.corpora import build_sampler
from simcsp.training import pretraining_text

WINDOW = 40
GENE, SPACE = 180, 250  # nt, of `write_spliced`


def experiment(folder, fasta, **data):
    """A config whose text is these FASTA files; data: fields of its data section."""
    data = {"fasta": [str(path) for path in fasta], "cache": str(folder / "cache"), "window": WINDOW, **data}
    return Config(name="corpus", device="cpu", precision="fp32", data=DataConfig(**data))


def open_text(config):
    """The corpus and its windows, as pre-training opens them."""
    corpus = pretraining_text.open_text(config)
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


def write_spliced(folder, name, records, rng):
    """FASTA and GTF of 24 genes a record on alternate strands, each with one intron of consensus sites."""
    text, annotation = {}, []
    for record in records:
        bases = random_bases(rng, 24 * SPACE)
        for i in range(24):
            gene, at = random_bases(rng, GENE), SPACE * i + 30
            gene = put(put(gene, 37, "CAGGTAAGT"), 120, "TTTTCTTTCTTTTTTTGCAGG")  # intron [40, 140)
            strand = "+-"[i % 2]
            bases = put(bases, at, gene if strand == "+" else other_strand(gene))
            cut = (40, 140) if strand == "+" else (GENE - 140, GENE - 40)
            annotation.append((record, strand, [(at, at + cut[0]), (at + cut[1], at + GENE)]))
        text[record] = put(bases, 245, "NNNNN")
    return write_fasta(folder / f"{name}.fa", text), gtf(folder / f"{name}.gtf", annotation), text, annotation


def enriched(spliced, folder, **data):
    settings = {"corpus": "splice_enriched", "annotation": [str(spliced[1])], "window": 80, "stride": 10}
    return experiment(folder, [spliced[0]], **settings | data)
