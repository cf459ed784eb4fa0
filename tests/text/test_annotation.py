"""GTF and GFF3: what is read, and what is refused with file and line."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from simcsp.core.errors import InputError
from simcsp.text.alphabet import decode
from simcsp.text.annotation import gene_bodies, introns, other_spelling, read_annotation, symbols
from simcsp.text.store import open_store

LENGTHS = {"chr1": 1000, "chr2": 1000}


def row(feature, start, end, attributes, chrom="chr1", strand="+"):
    return "\t".join(map(str, (chrom, "x", feature, start, end, ".", strand, ".", attributes))) + "\n"


def gtf(start, end, transcript="t1", gene="g1", **where):
    return row("exon", start, end, f'gene_id "{gene}"; transcript_id "{transcript}"; exon_number 1;', **where)


GFF3 = (
    "##gff-version 3\n"
    + row("gene", 101, 500, "ID=g1;Name=one")
    + row("mRNA", 101, 500, "ID=t1;Parent=g1")
    + row("mRNA", 101, 500, "ID=t2;Parent=g1")
    + row("exon", 101, 200, "Parent=t1,t2")
    + row("CDS", 101, 200, "ID=cds;Parent=t1")
    + row("exon", 301, 400, "ID=e2;Parent=t1")
    + row("exon", 351, 500, "Parent=t2;Note=gene_id")
)
GTF = (
    "#!genome-build x\n"
    + row("gene", 101, 500, 'gene_id "g1"; gene_name "one";')
    + row("transcript", 101, 500, 'gene_id "g1"; transcript_id "t1";')
    + gtf(301, 400)  # Ensembl lists the exons of the minus strand backwards
    + row("CDS", 101, 200, 'gene_id "g1"; transcript_id "t1";')
    + gtf(101, 200)
    + gtf(101, 200, "t2")
    + gtf(351, 500, "t2")
)


@pytest.fixture
def read(tmp_path):
    def read(text, lengths=LENGTHS, name="a.gtf"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_annotation(path, lengths)

    return read


def one(exons, transcript="t1", gene="g1", chrom="chr1", strand="+"):
    return {(transcript, gene, chrom, strand): exons}


def keyed(transcripts):
    return {(t.name, t.gene, t.chrom, t.strand): t.exons.tolist() for t in transcripts}


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [GTF, GFF3], ids=["GTF", "GFF3"])
def test_exons_are_half_open_and_ascending_whichever_the_format(read, text):
    transcripts = read(text)
    assert keyed(transcripts) == one([[100, 200], [300, 400]]) | one([[100, 200], [350, 500]], "t2")
    assert transcripts[0].exons.dtype == np.int64
    assert not any(transcript.orphan for transcript in transcripts)


@pytest.mark.parametrize("text", [GTF, GFF3], ids=["GTF", "GFF3"])
@pytest.mark.parametrize(
    "change",
    [
        gzip.compress,
        lambda b: b.replace(b"\n", b"\r\n"),
        lambda b: b.replace(b"\n", b"\r"),
        lambda b: b"\xef\xbb\xbf" + b,
    ],
    ids=["gz", "CRLF", "CR", "BOM"],
)
def test_gzip_line_ends_and_a_mark_of_utf8_change_nothing(read, text, change):
    assert keyed(read(change(text.encode()))) == keyed(read(text))


SEQUENCE = ">chr1\nACGT\nACGT\n"
ELSEWHERE = gtf(1, 50_000, "t9", chrom="chr9")  # of a record that the FASTA lacks, beyond any other


@pytest.mark.parametrize("end", ["##FASTA\n" + SEQUENCE, SEQUENCE, ELSEWHERE], ids=["FASTA", "sequence", "elsewhere"])
def test_the_sequence_at_the_end_and_rows_of_records_that_the_fasta_lacks_are_not_read(read, end):
    assert keyed(read(GFF3 + end)) == keyed(read(GFF3))


def test_a_gff3_transcript_belongs_to_the_gene_at_the_top(read):
    text = (
        row("gene", 1, 90, "ID=g")
        + row("primary_transcript", 1, 90, "ID=p;Parent=g")
        + row("miRNA", 1, 90, "ID=m;Parent=p")
        + row("exon", 1, 90, "Parent=m")
        + row("gene", 200, 290, "ID=direct")
        + row("exon", 200, 290, "Parent=direct")
    )
    assert {t.name: t.gene for t in read(text)} == {"m": "g", "direct": "direct"}


def test_a_transcript_on_two_strands_comes_in_two_parts(read):
    parts = read(gtf(1, 50) + gtf(101, 150) + gtf(401, 450, strand="-") + gtf(301, 350, strand="-"))
    assert keyed(parts) == one([[0, 50], [100, 150]]) | one([[300, 350], [400, 450]], strand="-")


def test_exons_that_overlap_or_come_twice_are_one(read):
    (transcript,) = read(gtf(1, 50) + gtf(1, 50) + gtf(40, 60) + gtf(61, 70))
    assert transcript.exons.tolist() == [[0, 60], [60, 70]]


def test_introns_come_once_and_alignment_gaps_not_at_all(read):
    text = (
        gtf(1, 50) + gtf(101, 150) + gtf(170, 200) + gtf(221, 250)  # gaps of 50, 19 and 20
        + gtf(11, 50, "t2", "g0") + gtf(101, 120, "t2", "g0")
        + gtf(1, 50, "t3", "g3", strand="-") + gtf(101, 150, "t3", "g3", strand="-")
    )  # fmt: skip
    expected = [("chr1", 50, 100, "+", "g0"), ("chr1", 50, 100, "-", "g3"), ("chr1", 200, 220, "+", "g1")]
    assert introns(read(text)) == expected


def test_a_gene_body_spans_all_its_transcripts(read):
    text = gtf(101, 150) + gtf(50, 60, "t2") + gtf(800, 900, "t3") + gtf(5, 9, "t4", chrom="chr2")
    assert gene_bodies(read(text)) == [("chr1", 49, 900, "+", "g1"), ("chr2", 4, 9, "+", "g1")]


@pytest.mark.parametrize(
    "text",
    [
        GFF3.replace("ID=t2;", "ID=t2;ccdsid=CCDS1.2;"),
        GFF3 + row("CDS", 351, 400, "ID=c2;Parent=t2;Dbxref=CCDS:CCDS1.2,GeneID:9"),
        GTF.replace('"t2"; exon', '"t2"; ccds_id "CCDS1"; exon'),
        GTF.replace('"t2"; exon', '"t2"; tag "CCDS"; ccdsid "CCDS1.1"; exon'),
    ],
    ids=["Ensembl GFF3", "NCBI GFF3", "Ensembl GTF", "GENCODE GTF"],
)
def test_of_the_consensus_coding_set_only_its_transcripts_are_read(tmp_path, text):
    (tmp_path / "a").write_text(text)
    assert [t.name for t in read_annotation(tmp_path / "a", LENGTHS, "ccds")] == ["t2"]
    assert [t.name for t in read_annotation(tmp_path / "a", LENGTHS)] == ["t1", "t2"]


def test_an_annotation_that_names_no_ccds_is_refused(tmp_path):
    (tmp_path / "a.gtf").write_text(GTF)
    with pytest.raises(InputError, match="a.gtf: no transcript has a CCDS identifier.*data.transcripts"):
        read_annotation(tmp_path / "a.gtf", LENGTHS, "ccds")


# -- files as they are -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["g1", ".", "", 'gene_id "g1"'])
def test_the_dialect_is_that_of_each_row(read, first):
    """BRAKER's GTF has bare ids in its rows of genes and transcripts."""
    text = row("gene", 1, 500, first) + row("transcript", 1, 500, "g1.t1") + gtf(101, 200) + gtf(301, 400)
    assert keyed(read(text)) == one([[100, 200], [300, 400]])


@pytest.mark.parametrize("line", ["##FASTADQAIVV", "##FASTA-like", "#>x", "track name=x", "browser hide all"])
def test_only_whole_directives_count(read, line):
    assert keyed(read(gtf(101, 200) + f"{line}\n" + gtf(301, 400))) == one([[100, 200], [300, 400]])


def test_records_may_be_called_as_lines_of_browsers_begin(read):
    text = gtf(1, 50, chrom="track1") + gtf(1, 50, "t2", chrom="browser")
    assert [t.chrom for t in read(text, {"track1": 90, "browser": 90})] == ["track1", "browser"]


def test_rows_behind_a_sequence_are_read(read):
    """Files that were joined: the first one's sequence ends nothing."""
    more = row("mRNA", 601, 700, "ID=t9;Parent=g1") + row("exon", 601, 700, "Parent=t9")
    assert [t.name for t in read(GFF3 + "##FASTA\n>chr1\nACGT\n" + more)] == ["t1", "t2", "t9"]


def test_quoted_semicolons_and_keys_in_values_are_no_attributes(read):
    text = row("exon", 1, 50, 'note "a; gene_id x"; gene_id "g;1"; transcript_id t1; gene_name "foo;bar"')
    (transcript,) = read(text)
    assert (transcript.gene, transcript.name, transcript.symbol) == ("g;1", "t1", "foo;bar")


def test_a_gff3_is_percent_decoded_behind_its_commas(read):
    text = row("gene", 1, 90, "ID=g%2C1;Name=a%3Bb%20c") + row("mRNA", 1, 90, "ID=t%3D1;Parent=g%2C1")
    text += row("mRNA", 1, 90, "ID=t2;Parent=g%2C1") + row("exon", 1, 90, "Parent=t%3D1,t2")
    transcripts = read((text + text.replace("chr1", "c%7C2")).encode(), LENGTHS | {"c|2": 99})
    found = [(t.name, t.gene, t.symbol, t.chrom) for t in transcripts[::2]]
    assert found == [("t=1", "g,1", "a;b c", "chr1"), ("t=1", "g,1", "a;b c", "c|2")]


def test_ids_of_transcripts_are_unique_within_their_gene_and_record_alone(read):
    """NCBI's GTF has an unknown_transcript_1 in every gene without transcripts."""
    text = gtf(1, 50, "u1", "g1") + gtf(301, 350, "u1", "g2") + gtf(101, 150, "u1", "g1", chrom="chr2")
    transcripts = read(text)
    others = one([[300, 350]], "u1", "g2") | one([[100, 150]], "u1", chrom="chr2")
    assert keyed(transcripts) == one([[0, 50]], "u1") | others
    assert introns(transcripts) == []


def test_ids_of_a_gff3_are_unique_within_their_record_alone(read):
    parts = [
        row("gene", 1, 400, f"ID=g1;Name={name}", chrom) + row("mRNA", 1, 400, f"ID=t1;Parent={gene}", chrom)
        + row("exon", 1, 50, "Parent=t1", chrom) + row("exon", at, at + 50, "Parent=t1", chrom)
        for name, gene, at, chrom in (("one", "g1", 101, "chr1"), ("two", "g1", 201, "chr2"))
    ]  # fmt: skip
    transcripts = read("".join(parts))
    assert keyed(transcripts) == one([[0, 50], [100, 151]]) | one([[0, 50], [200, 251]], chrom="chr2")
    assert symbols(transcripts) == {("chr1", "+", "g1"): "one", ("chr2", "+", "g1"): "two"}


TRANS = [(401, 500), (101, 200), (801, 900)]


@pytest.mark.parametrize(
    "text",
    [
        "".join(row("exon", *exon, 'gene_id "g1"; transcript_id "t1"; exception "trans-splicing"') for exon in TRANS),
        "".join(row("exon", *exon, f'gene_id "g1"; transcript_id "t1"; rank {i}') for i, exon in enumerate(TRANS)),
        row("gene", 101, 900, "ID=g1") + row("mRNA", 101, 900, "ID=t1;Parent=g1")
        + "".join(row("exon", *exon, f"Parent=t1;rank={i}") for i, exon in enumerate(TRANS)),
        row("gene", 401, 500, "ID=g1;exception=trans-splicing;part=1")
        + row("gene", 101, 200, "ID=g1;exception=trans-splicing;part=2") + row("mRNA", 101, 900, "ID=t1;Parent=g1")
        + "".join(row("exon", *exon, "Parent=t1") for exon in sorted(TRANS)),
    ],
)  # fmt: skip
def test_a_trans_spliced_transcript_has_exons_and_no_introns(read, text):
    transcripts = read(text)
    assert introns(transcripts) == []
    assert gene_bodies(transcripts) == [("chr1", 100, 900, "+", "g1")]


@pytest.mark.parametrize("strand", "+-")
@pytest.mark.parametrize("order", [1, -1])
def test_ranks_that_ascend_or_descend_are_no_trans_splicing(read, strand, order):
    exons = sorted(TRANS)[::order]
    attributes = 'gene_id "g1"; transcript_id "t1"; exon_number "{}"'
    text = "".join(row("exon", *exon, attributes.format(i), strand=strand) for i, exon in enumerate(exons, start=1))
    assert len(introns(read(text))) == 2


@pytest.mark.parametrize("declared", [row("region", 1, 1000, "ID=r;Is_circular=true"), ""])
def test_transcripts_across_the_origin_of_a_circle_are_left_out_and_counted(read, declared, caplog):
    text = declared + GFF3 + row("mRNA", 950, 1060, "ID=m") + row("exon", 950, 1060, "Parent=m")
    assert keyed(read(text)) == keyed(read(GFF3))
    assert "cross the end of their record, as on a circular one (1)" in caplog.text
    text += row("mRNA", 1001, 1060, "ID=n;Parent=g1") + row("exon", 1001, 1060, "Parent=n")
    if declared:
        assert keyed(read(text)) == keyed(read(GFF3))
    else:
        with pytest.raises(InputError, match="the FASTA is a piece or another build"):
            read(text)


@pytest.mark.parametrize(
    "extra, what",
    [
        (
            gtf(601, 700, "t9", "g9", strand=".") + gtf(801, 900, "t9", "g9", strand="."),
            "transcripts without a strand (1)",
        ),
        (gtf(601, 700, "t9", strand="?") + gtf(801, 900, "t9"), "transcripts without a strand (1)"),
        (row("exon", 601, 700, 'gene_id "g1"; transcript_id "";'), "exons that name no transcript (1)"),
        (row("exon", 601, 700, "ID=e9;Derives_from=t1") * 2, "exons that name no transcript (2)"),
        (row("exon", 601, 700, "."), "exons that name no transcript (1)"),
    ],
)
def test_harmless_rows_are_left_out_counted_and_said(read, extra, what, caplog):
    assert keyed(read(GTF + extra)) == keyed(read(GTF))
    assert f"a.gtf: left out: {what}" in caplog.text


# -- record names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lengths, remedy",
    [
        ({"1": 1000}, "'chr1' is '1' in the FASTA.*removing 'chr' from the annotation's: sed 's/.chr//'"),
        ({"Chr1": 1000}, "'chr1' is 'Chr1' in the FASTA.*renaming the annotation's"),
        ({"NC_1": 1000}, "no record in common with the FASTA .'chr1' here, 'NC_1' there."),
    ],
)
def test_records_named_otherwise_are_refused_with_the_remedy(read, lengths, remedy):
    with pytest.raises(InputError, match=f"a.gtf.*{remedy}"):
        read(GTF, lengths)


def test_names_that_differ_in_part_are_refused(read):
    text = GTF + gtf(1, 50, "t9", chrom="M")
    with pytest.raises(InputError, match="a.gtf, line 9: record 'M' is 'chrM' in the FASTA.*adding 'chr'"):
        read(text, LENGTHS | {"chrM": 100})
    assert read(GTF + gtf(1, 50, "t9", chrom="M") + gtf(1, 50, "t8", chrom="chrM"), LENGTHS | {"chrM": 100})


def test_other_spelling():
    names = ["chr1", "2", "chrM"]
    spelt = {"1": "chr1", "Chr2": "2", "MT": "chrM", "chr1": None, "3": None}
    assert {name: other_spelling(name, names) for name in spelt} == spelt


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no exon row"),
        (row("gene", 1, 90, "ID=g"), "holds no exon row"),
        ("<!DOCTYPE html>\n", "line 1: expected nine tab-separated columns"),
        (GTF + "chr1\tx\texon\t1", "line 9: expected nine tab-separated columns"),
        (row("exon", 1, 50, "t1"), "line 1: the attributes of no exon are"),
        (GTF + gtf(90, 80), "line 9: the exon starts at 90, after its end at 80"),
        (GTF + gtf(0, 80), "line 9: start '0' and end '80' must be whole numbers from 1"),
        (GTF + gtf("1e3", 80), "line 9: start '1e3'"),
        (GTF + gtf(1001, 1010), "line 9: the exon ends at 1010, beyond record chr1 of 1000 nt"),
        (GTF + gtf(1, 50, strand="x"), "line 9: exon on strand 'x', expected"),
        (
            GFF3.replace("mRNA", "exon").replace("t2", "t9").replace("\tID=t", "\tParent=t"),
            "line 3: the exon's Parent 't1' has no row of its own",
        ),
    ],
)  # fmt: skip
def test_a_bad_annotation_is_refused_with_file_and_line(read, text, message):
    with pytest.raises(InputError, match=f"a.gtf.*{message}"):
        read(text)


def test_a_few_transcripts_without_a_row_are_kept_and_marked_and_most_are_refused(read):
    """Real GFF3 files cut to a region or to coding genes have some: their sites are no decoys."""
    orphan = row("exon", 601, 700, "Parent=lost")
    transcripts = read(GFF3 + orphan)
    assert keyed(transcripts) == keyed(read(GFF3)) | one([[600, 700]], "lost", "lost")
    assert [t.name for t in transcripts if t.orphan] == ["lost"]
    more = "".join(row("exon", 601, 700, f"Parent=lost{i}") for i in range(2))
    message = "line 9: the exon's Parent 'lost' has no row of its own: 3 of 5 transcripts lack theirs"
    with pytest.raises(InputError, match=message):
        read(GFF3 + orphan + more)


# -- real --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif("SIMCSP_REAL_DATA" not in os.environ, reason="SIMCSP_REAL_DATA names no folder of real data")
@pytest.mark.parametrize("fasta, annotation", [("human/chr9.hg38.fa.gz", "human/chr9.hg38.gtf.gz")] + [
    (f"species/{name}.fa.gz", f"species/{name}.gff3.gz") for name in ("athaliana", "dmelanogaster")
])  # fmt: skip
def test_introns_of_real_annotations_are_gt_ag(tmp_path, fasta, annotation):
    folder = Path(os.environ["SIMCSP_REAL_DATA"])
    store = open_store([folder / fasta], tmp_path)
    transcripts = read_annotation(folder / annotation, {record.name: record.length for record in store.records})
    sequences = [decode(store.fetch(i.chrom, i.start, i.end, i.strand)) for i in introns(transcripts)]
    assert len(sequences) >= 195
    assert np.mean([bases.startswith("GT") and bases.endswith("AG") for bases in sequences]) > 0.97
    assert ("gff3" in annotation) == any(transcript.orphan for transcript in transcripts)
