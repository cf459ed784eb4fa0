"""Masked bases by region of transcripts."""

import numpy as np
import pytest
import torch
from conftest import random_bases, write_fasta
from sklearn.metrics import balanced_accuracy_score
from transformers import AutoTokenizer, BertForMaskedLM

from simcsp.core.config import ModelConfig
from simcsp.core.errors import InputError
from simcsp.labels.floors import NeighbourTable
from simcsp.metrics.masked_regions import (
    FLOORS,
    NEAR,
    RegionWindows,
    balanced_accuracy,
    predict_masked,
    region_rows,
    region_windows,
    shallow_predictions,
    transcript_regions,
)
from simcsp.model.checkpoint import load_backbone
from simcsp.text.alphabet import MASK, A, C, G, T, decode, encode
from simcsp.text.annotation import read_annotation
from simcsp.text.store import open_store

EXONS = np.array([[10, 20], [320, 340], [400, 420]])
CODING = np.array([[15, 20], [320, 340], [400, 405]])


def as_ranges(regions, start):
    """{region: places} with empty ones left out."""
    return {name: (np.flatnonzero(here) + start).tolist() for name, here in regions.items() if here.any()}


def test_regions_of_a_transcript_by_hand():
    found = as_ranges(transcript_regions(EXONS, CODING, "+", 5, 425), 5)
    assert found["5'UTR"] == [*range(10, 15)] and found["3'UTR"] == [*range(405, 420)]
    assert found["CDS"] == [*range(15, 20), *range(320, 340), *range(400, 405)]
    assert found["intron"] == [*range(20, 320), *range(340, 400)]
    assert found["near donor"] == [*range(20, 20 + NEAR), *range(340, 400)]
    assert found["near acceptor"] == [*range(320 - NEAR, 320), *range(340, 400)]
    assert found["deep intron"] == [*range(20 + NEAR, 320 - NEAR)]


def test_on_the_minus_strand_regions_are_those_of_the_mirrored_transcript():
    mirrored = 430 - EXONS[::-1, ::-1], 430 - CODING[::-1, ::-1]
    minus = transcript_regions(*mirrored, "-", 430 - 425, 430 - 5)
    plus = transcript_regions(EXONS, CODING, "+", 5, 425)
    assert set(minus) == set(plus) and all(np.array_equal(minus[name], plus[name]) for name in plus)


def test_a_long_noncoding_transcript_and_one_without_coding_parts_have_exons():
    noncoding = as_ranges(transcript_regions(EXONS, None, "+", 0, 430, noncoding=True), 0)
    assert set(noncoding) == {"lncRNA exon", "lncRNA intron"} and noncoding["lncRNA exon"][:10] == [*range(10, 20)]
    assert "exon" in transcript_regions(EXONS, None, "+", 0, 430)
    assert "CDS" not in transcript_regions(EXONS, None, "+", 0, 9)


def test_balanced_accuracy_of_five_bases_by_hand_and_as_scikit_learn_has_it():
    truth, called = np.array([A, A, A, C, T]), np.array([A, A, G, C, A])
    assert balanced_accuracy(truth, called) == pytest.approx((2 / 3 + 1 + 0) / 3)
    rng = np.random.default_rng(0)
    truth, called = rng.integers(A, T + 1, (2, 500))
    assert balanced_accuracy(truth, called) == pytest.approx(balanced_accuracy_score(truth, called), abs=1e-12)


def test_predictions_are_those_of_transformers_own_model_and_tokenizer(start):
    rng = np.random.default_rng(1)
    windows = rng.integers(A, T + 1, (6, 25)).astype(np.uint8)
    windows[rng.random(windows.shape) < 0.2] = MASK
    tokenizer, model = AutoTokenizer.from_pretrained(start), BertForMaskedLM.from_pretrained(start).eval()
    called = predict_masked(load_backbone(ModelConfig(source=str(start)))[0], windows, 4)
    bases = tokenizer.convert_tokens_to_ids(list("ACGT"))
    for row, own in zip(windows, called):
        text = " ".join("[MASK]" if i == MASK else decode(np.array([i])) for i in row)
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0, 1:-1, bases]
        assert np.array_equal(own, logits.argmax(-1).numpy() + bases[0])


def test_the_floor_counts_over_the_other_half_of_the_genes():
    rng = np.random.default_rng(2)
    ids = rng.integers(A, T + 1, (40, 30)).astype(np.uint8)
    gene = np.array([f"g{i % 4}" for i in range(40)])
    called = shallow_predictions(RegionWindows(ids, {}, gene), "counts of 3 bases on either side")
    for half, others in (((0, 2), (1, 3)), ((1, 3), (0, 2))):
        table = NeighbourTable()
        for row in ids[np.isin(np.arange(40) % 4, others)]:
            table.add(row)
        for row in np.flatnonzero(np.isin(np.arange(40) % 4, half))[:5]:
            for place in range(3, 27):
                best = table.predict(ids[row, place - 3 : place + 4][None])[0].argmax() + A
                assert called[row, place] == best
    assert (called[:, :3] == A).all() and (called[:, -3:] == A).all()


def test_rows_count_the_masked_bases_of_each_region():
    ids = np.array([[A, C, G, T, A, A, A, A], [C, C, G, T, A, A, A, C]], dtype=np.uint8)
    region = np.zeros(ids.shape, dtype=bool)
    region[:, :4] = True
    asked = np.ones(ids.shape, dtype=bool)
    asked[0, 0] = False
    called = ids.copy()
    called[1, 0] = G
    regions = {"all": np.ones_like(region), "left": region, "none": ~np.ones_like(region)}
    windows = RegionWindows(ids, regions, np.array(["x", "y"]))
    rows = {row["metric"]: row for row in region_rows(windows, asked, called, 200, 0)}
    expected = {f"{kind}, {name}" for kind in ("balanced accuracy", "accuracy") for name in ("all", "left")}
    of_floors = [f"balanced accuracy of {name}, all" for name in FLOORS]
    shallow = {metric: rows[metric]["value"] for metric in of_floors}
    assert set(rows) == expected | set(shallow)
    assert rows["balanced accuracy, all"]["floor"] == max(shallow.values())
    assert (rows["accuracy, left"]["n"], rows["accuracy, left"]["value"]) == (7, pytest.approx(6 / 7))
    assert rows["balanced accuracy, left"]["value"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert rows["accuracy, left"]["low"] == pytest.approx(3 / 4) and rows["accuracy, left"]["high"] == 1


GTF = '{}\tx\t{}\t{}\t{}\t.\t{}\t.\tgene_id "{}"; transcript_id "{}";\n'


def test_windows_lie_in_the_longest_transcript_and_know_repeats(tmp_path):
    bases = random_bases(np.random.default_rng(3), 900)
    bases = bases[:100] + bases[100:200].lower() + bases[200:]
    store = open_store([write_fasta(tmp_path / "a.fa", {"chr": bases})], tmp_path / "cache")
    lines = [GTF.format("chr", "exon", 51, 150, "+", "g", "t"), GTF.format("chr", "exon", 301, 500, "+", "g", "t")]
    lines += [GTF.format("chr", "CDS", 101, 150, "+", "g", "t"), GTF.format("chr", "CDS", 301, 400, "+", "g", "t")]
    lines.append(GTF.format("chr", "exon", 51, 90, "+", "g", "short"))
    lines.append(GTF.format("chr", "exon", 701, 720, "-", "rna", "r"))
    (tmp_path / "a.gtf").write_text("".join(lines))
    lengths = {"chr": 900}
    exons, coding = (read_annotation(tmp_path / "a.gtf", lengths, feature=kind) for kind in ("exon", "CDS"))
    windows = region_windows(store, exons, coding, 60, 50, 0)
    assert len(windows.ids) == 50 and set(windows.gene) == {"g"}
    assert {"CDS, repeats", "CDS, outside repeats", "5'UTR", "intron, repeats"} <= set(windows.regions)
    text = encode(bases)
    for row in range(50):
        start = next(i for i in range(841) if np.array_equal(text[i : i + 60], windows.ids[row]))
        assert 50 <= start <= 440
        places = np.arange(start, start + 60)
        translated = (places >= 100) & (places < 150) | (places >= 300) & (places < 400)
        assert np.array_equal(windows.regions["CDS"][row], translated)
        repeat = (places >= 100) & (places < 200)
        assert np.array_equal(windows.regions["intron, repeats"][row], repeat & (places >= 150))
    with pytest.raises(InputError, match="700 nt"):
        region_windows(store, exons, coding, 700, 5, 0)


def test_an_annotation_without_coding_parts_gives_none(tmp_path):
    (tmp_path / "a.gtf").write_text(GTF.format("chr", "exon", 51, 150, "+", "g", "t"))
    assert read_annotation(tmp_path / "a.gtf", {"chr": 900}, feature="CDS") == []
