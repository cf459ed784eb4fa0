"""Every reader on made-up and damaged input: it reads it as an independent reader does, or refuses it in one line.

Slow: 500 cases a reader. `FUZZ_CASES=5000 bash tests/run.sh -m slow tests/test_fuzz.py` looks longer.
"""

import gzip
import json
import os
import shutil

import numpy as np
import pandas as pd
import pysam
import pytest
import yaml
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import accepted, check_bed, check_csv, check_vcf

from simcsp.core.config import ModelConfig
from simcsp.core.files import read_json, read_table
from simcsp.core.run_folder import RunFolder, read_metrics
from simcsp.labels.motifs import read_cut
from simcsp.model.checkpoint import load_backbone
from simcsp.text.alphabet import encode
from simcsp.text.annotation import read_annotation
from simcsp.text.fasta import fasta_pieces
from simcsp.text.known_introns import read_truth
from simcsp.text.store import open_store
from utils.arguments import load_config

pytestmark = pytest.mark.slow
CASES = int(os.environ.get("FUZZ_CASES", 500))
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
fuzz = settings(max_examples=CASES, deadline=None, suppress_health_check=SUPPRESSED)
JUNK = [*" \t\0\r\x85²٣é;\"'", "", "-1", "1e9", "nan", "=1+1", "<b>", "../x", "9" * 30]


def field(*good):
    """A field of a row: good mostly."""
    return st.one_of(*[st.sampled_from(good)] * 6, st.sampled_from(JUNK), st.text(max_size=4))


def table(*columns, separator="\t"):
    """UTF-8 of a few rows of these fields, some of them short or long."""
    row = st.tuples(*columns).map(list)
    cut = st.tuples(row, st.integers(-1, 12)).map(lambda pair: pair[0] if pair[1] < 0 else pair[0][: pair[1]])
    rows = st.lists(st.one_of(row, row, row, cut).map(separator.join), max_size=6)
    ends = st.sampled_from(["\n", "\n", "\r\n"])
    text = st.builds(lambda rows, end, whole: end.join(rows) + end * whole, rows, ends, st.booleans())
    return text.map(lambda text: text.encode("utf-8", "surrogatepass"))


def damaged(content):
    """Bytes with some flipped, cut off or repeated."""
    change = st.tuples(st.sampled_from(["flip", "cut", "repeat"]), st.floats(0, 1), st.integers(0, 255))
    return st.lists(change, min_size=1, max_size=3).map(lambda changes: _apply(content, changes))


def _apply(content, changes):
    for kind, share, byte in changes:
        at = int(share * max(len(content) - 1, 0))
        if kind == "cut":
            content = content[:at]
        elif kind == "repeat":
            content = content[:at] + content[at // 2 :]
        elif content:
            content = content[:at] + bytes([byte]) + content[at + 1 :]
    return content


# -- text --------------------------------------------------------------------------------------------------------------

HEADERS = st.sampled_from([">a", ">b x", ">", ">a", ""])
LINE = st.one_of(st.text("ACGTNacgtnURY", max_size=12), st.text(max_size=5), HEADERS)


@fuzz
@given(lines=st.lists(LINE, max_size=8), ending=st.sampled_from(["\n", "\r\n"]), zipped=st.booleans())
def test_fasta(tmp_path, lines, ending, zipped):
    path, content = tmp_path / "a.fa", ending.join(lines).encode("utf-8", "surrogatepass")
    path.write_bytes(gzip.compress(content) if zipped else content)
    pieces = accepted(lambda: list(fasta_pieces(path)))
    if pieces is None:
        return
    found = {}
    for name, ids, lower in pieces:
        found.setdefault(name, []).append((ids, lower))
    with pysam.FastxFile(str(path), persist=True) as handle:
        expected = {record.name: record.sequence for record in handle if record.sequence}
    assert set(found) == set(expected)
    for name, parts in found.items():
        ids, lower = (np.concatenate(arrays) for arrays in zip(*parts))
        assert np.array_equal(ids, encode(expected[name].upper(), "expected"))
        assert np.array_equal(lower, [letter.islower() for letter in expected[name]])


SEQUENCE = field("A" * 100, "0")
NUMBER = field("1", "5", "10", "40", "0", "200")
STRAND = field("+", "-", ".")
GTF = table(
    field("tiny1", "tiny2", "chrX"), field("x"), field("exon", "gene", "transcript", "mRNA"), NUMBER, NUMBER,
    field("."), STRAND, field("."),
    field('gene_id "g"; transcript_id "t";', 'gene_id "g"; transcript_id "u";', "ID=t;Parent=g", "Parent=t", "ID=g"),
)  # fmt: skip


def check_annotation(path):
    transcripts = accepted(lambda: read_annotation(path, {"tiny1": 100, "tiny2": 100}))
    if not transcripts:
        return
    lines = path.read_bytes().decode("utf-8", "replace").replace("\r", "").split("\n")
    rows = [line.split("\t") for line in lines if line.strip() and line[0] != "#"]
    exons = {(row[0], int(row[3]) - 1, int(row[4]), row[6]) for row in rows if len(row) == 9 and row[2] == "exon"}
    for transcript in transcripts:
        for start, end in transcript.exons:
            assert (transcript.chrom, start, end, transcript.strand) in exons


def check_introns(path):
    genome = path.with_name("genome.fa")
    if not genome.exists():
        genome.write_text(">tiny1\n" + "ACGT" * 100 + "\n")
    store = open_store([genome], path.with_name("cache"))
    accepted(lambda: read_truth(path, store))


LABEL = field("x|GT(donor)", "x|AG(acceptor)")
TABLES = {
    "a.gtf": (GTF, check_annotation),
    "a.bed": (table(field("tiny3"), field("60", "130"), field("62", "132"), LABEL, field("."), STRAND), check_bed),
    "a.csv": (table(field("a_HUMAN", "ID_uniprot"), SEQUENCE, field("C" * 120), field("FP"), separator=";"), check_csv),
    "a.tsv": (table(field("tiny1"), field("5", "70"), field("90", "120"), STRAND), check_introns),
}


@pytest.mark.parametrize("name", TABLES)
@fuzz
@given(data=st.data())
def test_tables(tmp_path, name, data):
    rows, check = TABLES[name]
    (tmp_path / name).write_bytes(data.draw(rows))
    check(tmp_path / name)


VCF = table(
    field("tiny1"), field("5", "70"), field("."), field("A", "ACG"), field("T", "C,G", "<DEL>", "*", "."), field("."),
    field("PASS", "."), field("."),
)  # fmt: skip
HEADER = b"##fileformat=VCFv4.2\n##contig=<ID=tiny1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@fuzz
@given(rows=VCF, zipped=st.booleans())
def test_vcf(tmp_path, rows, zipped):
    path, content = tmp_path / "a.vcf", HEADER + rows
    path.write_bytes(gzip.compress(content) if zipped else content)
    check_vcf(path)


# -- settings ----------------------------------------------------------------------------------------------------------

SCALAR = st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.booleans(), st.none(), st.sampled_from(JUNK))
KEYS = ["name", "seed", "pretrain.lr", "pretrain.steps", "finetune.arms", "finetune.folds", "data.fasta", "workers"]
KEYS += ["model.pooling", "model.hidden_size", "data.context", "finetune.stages", "search.space", "evaluate.kmer"]
KEY = st.sampled_from([*KEYS, "nothing.here"])
VALUE = st.one_of(SCALAR, st.lists(SCALAR, max_size=3), st.dictionaries(st.text(max_size=3), SCALAR, max_size=2))


@fuzz
@given(changes=st.dictionaries(KEY, VALUE, max_size=4))
def test_yaml(tmp_path, changes):
    values = {}
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = value
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    config = accepted(lambda: load_config([str(path)]))
    if config is not None and "seed" in changes:
        assert config.seed == changes["seed"]


@fuzz
@given(content=damaged((ROOT / "configs/demo.yaml").read_bytes()))
def test_damaged_yaml(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    accepted(lambda: load_config([str(tmp_path / "a.yaml")]))


@fuzz
@given(words=st.lists(st.tuples(KEY, VALUE), max_size=3))
def test_overrides(words):
    argv = [word for key, value in words for word in (f"--{key}", json.dumps(value, default=str))]
    accepted(lambda: load_config([str(ROOT / "configs/demo.yaml"), *argv]))


# -- what we write -----------------------------------------------------------------------------------------------------

CHECKPOINT = ROOT / "tests/data/run-fbd936b/runs/tiny/pretrain/checkpoints/last"
FOLD = ROOT / "tests/data/run-fbd936b/runs/tiny/finetune/baseline/both/seed0/fold01"


@fuzz
@given(data=st.data(), name=st.sampled_from(["config.json", "model.safetensors"]))
def test_checkpoint(tmp_path, data, name):
    content = data.draw(damaged((CHECKPOINT / name).read_bytes()))
    shutil.copytree(CHECKPOINT, tmp_path / "checkpoint", dirs_exist_ok=True)
    (tmp_path / "checkpoint" / name).write_bytes(content)
    accepted(lambda: load_backbone(ModelConfig(source=str(tmp_path / "checkpoint"))))


@fuzz
@given(data=st.data(), name=st.sampled_from(["config.yaml", "env.json", "metrics.jsonl", "state.pt"]))
def test_run_folder(tmp_path, data, name):
    content = data.draw(damaged((FOLD / name).read_bytes()))
    fold = shutil.copytree(FOLD, tmp_path / "fold", dirs_exist_ok=True)
    (fold / name).write_bytes(content)
    accepted(lambda: RunFolder(fold, {}, {}, "cpu"))
    accepted(lambda: read_metrics(fold))
    if name == "state.pt":
        shutil.copy(FOLD / "env.json", fold)
        run = RunFolder.__new__(RunFolder)  # without the check of its config
        run.path = fold
        state = accepted(run.load_state)
        assert state is None or state["epoch"] == 2


@fuzz
@given(content=damaged((FOLD.with_name("fold00") / "predictions.csv").read_bytes()))
def test_predictions(tmp_path, content):
    (tmp_path / "p.csv").write_bytes(content)
    columns = ["window", "fold", "label", "probability"]
    found = accepted(lambda: read_table(tmp_path / "p.csv", columns))
    if found is not None:
        pd.testing.assert_frame_equal(found, pd.read_csv(tmp_path / "p.csv"))


@fuzz
@given(content=st.one_of(damaged((FOLD.with_name("fold00") / "summary.json").read_bytes()), st.binary(max_size=20)))
def test_json(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    accepted(lambda: read_json(tmp_path / "a.json"))


@fuzz
@given(content=st.one_of(st.binary(max_size=40), st.binary(max_size=20).map(lambda end: b"PK\3\4" + end)))
def test_cut_motifs(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    assert accepted(lambda: read_cut(tmp_path / "a.npz", 40)) is None
