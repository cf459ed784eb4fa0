"""data/fetch.py on files of packages: pip itself, against an index that is a folder of small stand-ins."""

import functools
import gzip
import hashlib
import io
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, refusal

from data import convert, fetch, regions, sources, variants
from simcsp.core.errors import InputError
from simcsp.text.annotation import introns, read_annotation
from simcsp.text.fasta import fasta_pieces
from utils.script import run_script

INTRON_ROW = "HomSap-G1@T1-intron_1(4);[i]\t0.0\tACGTC\tGTAAGT/.../TTCAG\tGGCAT\n"
REGION = {(("chr2", 100, 200, "+"), 2, 4): np.array([0, 1, 2, 3, 0, 0, 2])}


def gene(bases, sites):
    """One-hot bases [n, 4], and labels [n, 3] with `sites` {0-based base: 1 acceptor, 2 donor}."""
    labels = np.eye(3, dtype=int)[[sites.get(i, 0) for i in range(len(bases))]]
    return np.array([[base == letter for letter in "ACGT"] for base in bases], dtype=int), labels


def genes_archive(path):
    """Three genes: one of chr1 with an N and two introns, one of chr3 without any, one without coordinates."""
    arrays = {}
    for number, (bases, sites) in {
        1: ("AANCGT" * 20, {9: 2, 40: 1, 50: 2, 90: 1}),
        2: ("ACGT" * 10, {}),
        7: ("ACGT" * 20, {3: 2, 60: 1}),
    }.items():
        arrays[f"x{number}"], arrays[f"y{number}"] = gene(bases, sites)
    np.savez(path, **arrays)
    fields = "gene transcript chrom strand hg19_start hg19_end hg38_start hg38_end".split()
    values = {"1": ["ONE", "T1", "chr1", "-", 11, 130, 21, 140], "2": ["TWO", "T2", "chr3", "+", 1, 40, 2, 41]}
    return json.dumps({key: dict(zip(fields, row)) for key, row in values.items()})


def write_wheel(folder, name, version, files):
    label = f"{name.lower()}-{version}"
    with zipfile.ZipFile(folder / f"{label}-py3-none-any.whl", "w") as wheel:
        for file, content in files.items():
            wheel.writestr(f"x/data/{file}", content)
        wheel.writestr(f"{label}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{label}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{label}.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip finds packages in: wheels of chr19 and of junctions, a source distribution of genes."""
    folder = tmp_path / "index"
    folder.mkdir()
    files = {
        "Homo_sapiens.Chr19.Ensembl_91.fa.gz": gzip.compress(b">19\nACGT\n"),
        "Homo_sapiens.Chr19.Ensembl_91.gff3.gz": gzip.compress(b"##gff-version 3\n"),
        "u2_reference_human.introns.iic.gz": gzip.compress(INTRON_ROW.encode()),
        "u2_reference_multispecies.introns.iic.gz": gzip.compress(INTRON_ROW.encode()),
    }
    write_wheel(folder, "intronIC", "3.0.0", files)
    write_wheel(folder, "cispliceai", "1.2.2", {regions.JUNCTIONS: b"chr,strand,jn_start,jn_end\nchr2,+,102,\n"})
    places = genes_archive(tmp_path / "genes.npz")
    files = {
        "PKG-INFO": b"Metadata-Version: 2.1\nName: frame-alignment-checks\nVersion: 0.0.74\n",
        "setup.py": f"open({str(tmp_path / 'ran')!r}, 'w')\nimport setuptools\nsetuptools.setup()\n".encode(),
        "src/data/relevant_validation_genes.npz": (tmp_path / "genes.npz").read_bytes(),
        "src/data/relevant_validation_genes_transcript_coords.json": places.encode(),
        f"src/data/{regions.TEXTS}": gzip.compress(pickle.dumps({"gene_sequences": REGION})),
    }
    with tarfile.open(folder / "frame_alignment_checks-0.0.74.tar.gz", "w:gz") as sdist:
        for name, content in files.items():
            member = tarfile.TarInfo(f"frame_alignment_checks-0.0.74/{name}")
            member.size = len(content)
            sdist.addfile(member, io.BytesIO(content))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("chr19", "introns", "genes", "regions"):
        data_set = sources.DATA_SETS[name]
        files = [(folder / source.name).read_bytes() for source in data_set.sources]
        hashes = [hashlib.sha256(content).hexdigest() for content in files]
        pinned = tuple(replace(source, sha256=sha256) for source, sha256 in zip(data_set.sources, hashes))
        monkeypatch.setitem(sources.DATA_SETS, name, replace(data_set, sources=pinned))
    return folder


@pytest.fixture
def get(call, tmp_path):
    return lambda *names: run_script(lambda: call(fetch, *names, "--data", tmp_path / "data"))


def test_members_of_packages_arrive_and_no_code_of_theirs_runs(index, get, tmp_path, capsys):
    data = tmp_path / "data"
    get("chr19", "introns", "genes", "regions")
    assert gzip.decompress((data / "chr19.fa.gz").read_bytes()) == b">19\nACGT\n"
    assert {path.name for path in (data / "introns").iterdir()} == {
        f"{name}.{kind}" for name in ("human", "multispecies") for kind in ("fa", "gtf")
    }
    assert (data / "genes/chr3.fa").read_text().startswith(">TWO\n")
    assert (data / "regions/human.fa").read_text() == ">chr2:101-107\nNACGTAAGN\n"
    assert (data / "regions/human.tsv").read_text().splitlines()[1:] == ["chr2:101-107\t3\t8\t+"]
    assert not (tmp_path / "ran").exists()  # setup.py of the source distribution
    assert not [path for path in (data / "downloads").iterdir() if path.name.startswith(".pip-")]
    for path in index.iterdir():
        path.unlink()
    capsys.readouterr()
    get("chr19", "introns", "genes", "regions")
    assert capsys.readouterr().out.count("already here") == 5


def test_check_counts_records_and_introns(index, get, capsys):
    get("introns", "genes")
    capsys.readouterr()
    get("check", "introns")
    assert capsys.readouterr().out.splitlines()[0] == "introns/human.fa: 1 records, 121 nt; 1 introns, 100.0% GT-AG"
    get("check", "genes")
    assert "genes/chr1.fa: 1 records, 120 nt; 2 introns, 0.0% GT-AG" in capsys.readouterr().out


def test_another_file_than_the_pinned_one_is_refused(index, call, capsys, tmp_path):
    with open(index / "intronic-3.0.0-py3-none-any.whl", "ab") as wheel:
        wheel.write(b"\n")
    line = refusal(call, capsys, fetch, "chr19", "--data", tmp_path / "data")
    assert "intronic==3.0.0" in line and "sha256" in line
    assert not list((tmp_path / "data").rglob("*.gz")) and not list((tmp_path / "data").rglob("*.whl"))


def test_without_an_index_the_status_says_so(index, tmp_path):
    (index / "intronic-3.0.0-py3-none-any.whl").unlink()
    command = [sys.executable, ROOT / "data/fetch.py", "chr19", "--data", tmp_path / "data"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == fetch.UNREACHABLE
    assert done.stderr.count("\n") == 1 and "put the file at" in done.stderr


# -- the forms they come in --------------------------------------------------------------------------------------------


def read(path):
    """{record: bases as letters}, and the introns of its GTF."""
    letters = {}
    for name, ids, _ in fasta_pieces(f"{path}.fa"):
        letters[name] = letters.get(name, "") + "".join("?????NACGT"[i] for i in ids)
    found = introns(read_annotation(f"{path}.gtf", {name: len(bases) for name, bases in letters.items()}))
    return letters, [tuple(intron)[:4] for intron in found]


def test_genes_in_spliceai_layout_become_fasta_gtf_and_a_table_of_places(tmp_path):
    (tmp_path / "places.json").write_text(genes_archive(tmp_path / "genes.npz"))
    convert.genes_from_npz(tmp_path / "genes.npz", tmp_path / "places.json", tmp_path)
    letters, found = read(tmp_path / "chr1")
    assert letters == {"ONE": "AANCGT" * 20}
    assert found == [("ONE", 10, 40, "+"), ("ONE", 51, 90, "+")]  # donor: the exon's last base, acceptor: its first
    assert read(tmp_path / "chr3") == ({"TWO": "ACGT" * 10}, [])
    assert read(tmp_path / "unplaced")[1] == [("gene7", 4, 60, "+")]
    rows = [line.split("\t") for line in (tmp_path / "genes.tsv").read_text().splitlines()]
    assert dict(zip(rows[0], rows[1])) == {
        "record": "ONE", "chrom": "chr1", "strand": "-", "hg19_start": "11", "hg19_end": "130", "hg38_start": "21",
        "hg38_end": "140", "transcript": "T1", "length": "120", "introns": "2",
    }  # fmt: skip
    assert rows[3][:3] == ["gene7", "", ""]


def test_labels_that_do_not_alternate_are_refused(tmp_path):
    (tmp_path / "places.json").write_text("{}")
    for sites in ({9: 1, 40: 2}, {9: 2}, {9: 2, 20: 2, 40: 1}):
        x, y = gene("ACGT" * 20, sites)
        np.savez(tmp_path / "genes.npz", x1=x, y1=y)
        with pytest.raises(InputError, match="genes.npz, y1: donors and acceptors do not alternate"):
            convert.genes_from_npz(tmp_path / "genes.npz", tmp_path / "places.json", tmp_path)


def test_introns_become_records_with_their_exons_and_n_for_what_is_left_out(tmp_path):
    (tmp_path / "a.iic.gz").write_bytes(gzip.compress(b"# note\n" + INTRON_ROW.encode()))
    convert.introns_from_iic(tmp_path / "a.iic.gz", tmp_path / "human")
    letters, found = read(tmp_path / "human")
    assert letters == {"HomSap-G1@T1-intron_1(4)": "ACGTC" + "GTAAGT" + "N" * 100 + "TTCAG" + "GGCAT"}
    assert found == [("HomSap-G1@T1-intron_1(4)", 5, 116, "+")]
    assert (tmp_path / "human.gtf").read_text().count('gene_id "HomSap-G1"') == 2
    (tmp_path / "a.iic.gz").write_bytes(gzip.compress(INTRON_ROW.encode() + b"HomSap-G1@T1\t0\tACGT\n"))
    with pytest.raises(InputError, match="a.iic.gz, line 2: expected SPECIES-GENE@TRANSCRIPT"):
        convert.introns_from_iic(tmp_path / "a.iic.gz", tmp_path / "human")


# -- variants ----------------------------------------------------------------------------------------------------------

VEXSEQ = """\
chromosome\tposition\treference\talternative\tUpstream Int Adj\tDown Int Adj\tExon up\tExon down\tstrand\tSequence
chr1\t100\tControl\tOriginal\t101\t110\t104\t106\t+\tAACGTACGTT
chr1\t103\tC\tT\t101\t110\t104\t106\t+\tAATGTACGTT
chr1\t203\tC\tT\t201\t210\t204\t207\t-\tTTGCAGGAAA
"""
MFASS = """\
id\tensembl_id\tcategory\tchr\tsnp_position\tstrand\tref_allele\talt_allele\trel_position\tintron1_len\texon_len\tintron2_len\tv2_dpsi\tstrong_lof\tnatural_seq
E1_000\tE1\tnatural\tchr1\tNA\t-\tNA\tNA\tNA\t2\t5\t3\t0\tFALSE\tTTGCAGGGAA
E1_001\tE1\tmutant\tchr1\t203\t-\tC\tT\t8\t2\t5\t3\t-0.75\tTRUE\tTTGCAGGGAA
"""


def rows_of(path):
    header, *rows = [line.split("\t") for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    return [dict(zip(header, row)) for row in rows]


def test_tables_of_variants_are_on_the_transcript_strand(tmp_path):
    raw = tmp_path / "variants/vexseq"
    raw.mkdir(parents=True)
    (raw / "68_97_final_sequences_fixed.tsv").write_text(VEXSEQ)
    measured = "variant\tdelta_psi_H\tdelta_psi_K\nchr1_103_C_T\t-30\t1\nchr1_203_C_T\t5\t2\n"
    (raw / "delta_PSI_values.tsv").write_text(measured)
    (tmp_path / "variants/snv_data_clean.txt").write_text(MFASS)
    variants.make_vexseq(tmp_path, tmp_path / "vexseq.tsv.gz")
    variants.make_mfass(tmp_path, tmp_path / "mfass.tsv.gz")
    plus, minus = rows_of(tmp_path / "vexseq.tsv.gz")
    place = "offset0", "exon_start0", "exon_end0", "wt", "dpsi_HepG2"
    assert [plus[key] for key in place] == ["2", "3", "6", "AACGTACGTT", "-30"]
    assert [minus[key] for key in place] == ["7", "3", "7", "TTGCAGGGAA", "5"]
    (row,) = rows_of(tmp_path / "mfass.tsv.gz")
    assert [row[key] for key in ("offset0", "exon_start0", "exon_end0", "strand", "sdv")] == ["7", "3", "8", "-", "1"]
    others = {"TTGCAGGGAA": "TTGCAGGCAA", "TTGCAGGAAA": "TTGCAGGCAA"}  # neither allele where it should be
    texts = {raw / "68_97_final_sequences_fixed.tsv": VEXSEQ, tmp_path / "variants/snv_data_clean.txt": MFASS}
    for path, text in texts.items():
        path.write_text(functools.reduce(lambda text, pair: text.replace(*pair), others.items(), text))
    for make, allele in ((variants.make_vexseq, "alt"), (variants.make_mfass, "ref")):
        with pytest.raises(InputError, match=rf"the allele \({allele}\) of 1 of . variants"):
            make(tmp_path, tmp_path / "x.gz")


def test_scores_of_others_are_joined_by_variant(tmp_path):
    raw = tmp_path / "variants/peers"
    raw.mkdir(parents=True)
    (raw / "mfass_labels.csv").write_text("id,sdv,dpsi,spanr\na,0,0,1.5\nb,1,-1,2.5\n")
    for number, file in enumerate(variants.PEERS.values()):
        (raw / file).write_text(f"id,score\nb,{number + 0.5}\na,{number}\n")
    for number, file in enumerate(variants.CONSERVATION.values()):
        (raw / file).write_text(f"\na\t1\t1\t0\t0\t{number}\n\nb\t1\t1\t0\t0\t0.25\n")
    variants.make_peers(tmp_path, tmp_path / "peers.tsv.gz")
    assert rows_of(tmp_path / "peers.tsv.gz")[1] == {
        "id": "b", "spliceai": "0.5", "pangolin": "1.5", "splicetransformer": "2.5", "mmsplice": "3.5", "spanr": "2.5",
        "phastcons100": "0.25", "phylop100": "0.25",
    }  # fmt: skip


def test_conservation_is_in_the_order_of_the_transcript(tmp_path):
    (tmp_path / "conservation").mkdir()
    path = tmp_path / "conservation/snv_nat_cons_scores_all.bed"
    scores = [("E2_pos1", 0.25), ("E1_pos3", 1), ("E1_pos2", 0), ("E1_pos1", 0.0514), ("E1_pos10", 0.1)]
    path.write_text("".join(f"{name}\t1\t1\t{score}\t{score}\t{score}\n" for name, score in scores))
    variants.make_conservation(tmp_path, tmp_path / "out.tsv.gz")
    expected = {"E1": "0.051,0,1,0.1", "E2": "0.25"}
    found = rows_of(tmp_path / "out.tsv.gz")
    assert found == [{"exon": exon, "phastcons100": scores} for exon, scores in expected.items()]
    path.write_text("chr1\t1\t1\t0\t0\t0\n")
    with pytest.raises(InputError, match="another file"):
        variants.make_conservation(tmp_path, tmp_path / "out.tsv.gz")
