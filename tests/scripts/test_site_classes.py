"""Classes of annotated sites, worked out by hand for three transcripts of one gene and one of another."""

import numpy as np
from conftest import other_strand, put, random_bases, write_fasta

from benchmarks.site_classes import site_classes
from simcsp.text.store import open_store

DONOR, ACCEPTOR = 2, 1


def rows(gene, transcript, strand, exons, coding=None):
    ids = f'gene_id "{gene}"; transcript_id "{transcript}";'
    text = "".join(f"c\tx\texon\t{start}\t{end}\t.\t{strand}\t.\t{ids}\n" for start, end in exons)
    return text + (f"c\tx\tCDS\t{coding[0]}\t{coding[1]}\t.\t{strand}\t0\t{ids}\n" if coding else "")


def test_each_site_has_its_class_in_every_group(tmp_path):
    bases = random_bases(np.random.default_rng(0), 1200).replace("GT", "GA").replace("AG", "AA")
    for donor, acceptor, motif in ((100, 200, "GT"), (250, 350, "GC"), (400, 500, "GT")):  # 0-based, of the introns
        bases = put(put(bases, donor, motif), acceptor - 2, "AG")
    bases = put(put(bases, 800, other_strand("AG")), 898, other_strand("GT"))
    exons = [(51, 100), (201, 250), (351, 400), (501, 550)]
    text = rows("g", "t1", "+", exons, (230, 250)) + rows("g", "t2", "+", [exons[0], (201, 400), exons[3]])
    text += rows("h", "u", "-", [(751, 800), (901, 950)])
    (tmp_path / "g.gtf").write_text(text)
    store = open_store([write_fasta(tmp_path / "g.fa", {"c": bases})], tmp_path)
    found = site_classes(tmp_path / "g.gtf", store)

    def of(group, minus, base, label):
        return found[group].get(("c", minus, base, label))

    sites = [(0, base, label) for base, label in zip((99, 200, 249, 350, 399, 500), (DONOR, ACCEPTOR) * 3)]
    assert [of("place", *site) for site in sites] == ["first", "first", "internal", "internal", "last", "last"]
    assert [of("region", *site) for site in sites] == ["UTR", "UTR", "coding", "UTR", "UTR", "UTR"]
    uses = ["constitutive", "constitutive", "alternative", "alternative", "constitutive", "constitutive"]
    assert [of("use", *site) for site in sites] == uses
    assert [of("motif", *site) for site in sites] == ["GT-AG", "GT-AG", "GC-AG", "GC-AG", "GT-AG", "GT-AG"]
    lone = [(1, 900, DONOR), (1, 799, ACCEPTOR)]
    assert [of("place", *site) for site in lone] == ["only", "only"] and of("use", *lone[0]) is None
    assert [of("motif", *site) for site in lone] == ["GT-AG"] * 2 and of("region", *lone[0]) == "non-coding"
    (tmp_path / "bare.gtf").write_text(rows("h", "u", "-", [(751, 800), (901, 950)]))
    assert set(site_classes(tmp_path / "bare.gtf", store)) == {"place", "motif"}
