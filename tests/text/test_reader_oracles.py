"""The reader of annotations against gffutils, on files made up by hypothesis."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simcsp.text.annotation import read_annotation

LENGTHS = {"chr1": 5000, "chr2": 5000}
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
few = settings(max_examples=12, deadline=None, suppress_health_check=SLOW)
NUMBER = itertools.count()


@st.composite
def transcripts(draw):
    """[(gene, transcript, record, strand, exons)]: exons 1-based, apart, in any order; genes of odd names."""
    made = []
    for number in range(draw(st.integers(1, 5))):
        cuts = sorted(draw(st.sets(st.integers(1, 4900), min_size=2, max_size=12)))
        exons = [pair for pair in zip(cuts[::2], cuts[1::2]) if pair[1] - pair[0] > 1]
        if exons:
            gene = draw(st.sampled_from(["g1", "g 2", "g;3", "g,4", "g=5", "é"]))
            chrom, strand = draw(st.sampled_from(sorted(LENGTHS))), draw(st.sampled_from("+-"))
            made.append((f"{gene}/{chrom}{strand}", f"t{number}", chrom, strand, draw(st.permutations(exons))))
    return made


def as_text(form, made):
    """GTF knows no escapes, and gffutils parts its quoted values at commas, semicolons and =: there they are plain."""
    rows = []
    for gene, transcript, chrom, strand, exons in made:
        start, end = min(exons)[0], max(end for _, end in exons)
        known = f'gene_id "{gene}"; '
        of_exon = f'{known}transcript_id "{transcript}"; tag "basic";'
        whole = [("gene", start, end, known), ("transcript", start, end, of_exon)]
        if form == "gff3":
            coded = "".join(f"%{ord(c):02X}" if c in ";,= %" else c for c in gene)
            whole = [("gene", start, end, f"ID={coded}"), ("mRNA", start, end, f"ID={transcript};Parent={coded}")]
            whole = whole[(f"ID={coded}\n" in "".join(rows)) :]
            of_exon = f"Parent={transcript};Note=a%3Bb"
        for feature, first, last, attributes in [*whole, *(("exon", *exon, of_exon) for exon in exons)]:
            rows.append(f"{chrom}\tx\t{feature}\t{first}\t{last}\t.\t{strand}\t.\t{attributes}\n")
    return "".join(rows)


@few
@given(made=transcripts(), form=st.sampled_from(["gtf", "gff3"]))
def test_exons_and_genes_of_transcripts(made, form, tmp_path):
    gffutils = pytest.importorskip("gffutils")
    if not made:
        return
    if form == "gtf":
        made = [(gene.translate({ord(sign): None for sign in ";,="}), *rest) for gene, *rest in made]
    path = tmp_path / f"{next(NUMBER)}.{form}"
    path.write_text(as_text(form, made), encoding="utf-8")
    options = {"disable_infer_genes": True, "disable_infer_transcripts": True, "merge_strategy": "create_unique"}
    database = gffutils.create_db(str(path), ":memory:", **options)
    exons, genes = {}, {}
    for exon in database.features_of_type("exon"):
        (name,) = exon.attributes["Parent" if form == "gff3" else "transcript_id"]
        exons.setdefault((name, exon.seqid, exon.strand), set()).add((exon.start - 1, exon.end))
        genes[name] = exon.attributes["gene_id"][0] if form == "gtf" else database[name].attributes["Parent"][0]
    ours = read_annotation(path, LENGTHS)
    assert {(t.name, t.chrom, t.strand): set(map(tuple, t.exons.tolist())) for t in ours} == exons
    assert {t.name: t.gene for t in ours} == genes == {transcript: gene for gene, transcript, *_ in made}
