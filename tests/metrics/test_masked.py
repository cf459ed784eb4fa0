"""Masked-base accuracy by region, and the neighbour model that it has to beat."""

import json

import numpy as np
import pytest
import torch
import yaml
from conftest import motif_settings, other_strand, random_bases, refusal, tiny_config, write_fasta
from transformers import BertConfig, BertForMaskedLM

import evaluate
from simcsp.labels.floors import NeighbourTable
from simcsp.metrics.masked import (
    REGIONS,
    WHOLE,
    choose_places,
    choose_windows,
    compare_with_neighbours,
    label_regions,
    masked_predictions,
)
from simcsp.text.alphabet import MASK, N, add_special_tokens, encode, reverse_complement
from simcsp.text.annotation import Transcript
from simcsp.text.store import open_store


def plain_counts(texts, reach):
    """{(left, right): {base: count}} by slicing strings, both strands."""
    counts = {}
    for text in [*texts, *map(other_strand, texts)]:
        for i in range(reach, len(text) - reach):
            near = text[i - reach : i], text[i + 1 : i + 1 + reach]
            if "N" not in near[0] + text[i] + near[1]:
                counts.setdefault(near, dict.fromkeys("ACGT", 0))[text[i]] += 1
    return counts


@pytest.mark.parametrize("reach", [1, 3])
def test_neighbour_table_equals_a_plain_count(reach):
    rng = np.random.default_rng(0)
    texts = [random_bases(rng, 400), random_bases(rng, 90) + "N" + random_bases(rng, 90), "ACG"]
    table = NeighbourTable(reach)
    for text in texts:
        table.add(encode(text))
    counts = plain_counts(texts, reach)
    windows = [random_bases(rng, 2 * reach + 5) for _ in range(200)]
    predicted = table.predict(np.stack([encode(window) for window in windows]))
    for window, row in zip(windows, predicted):
        middle = len(window) // 2
        near = window[middle - reach : middle], window[middle + 1 : middle + 1 + reach]
        expected = np.array([counts.get(near, {}).get(base, 0) + 1 for base in "ACGT"])
        assert row == pytest.approx(expected / expected.sum())


def test_neighbour_table_gives_even_odds_beside_an_n():
    table = NeighbourTable()
    table.add(encode("ACGTACGTACGTACGT"))
    assert table.predict(encode("ACGNTACGA")[None]).tolist() == [[0.25] * 4]
    assert table.predict(encode("NCGTTACGN")[None]).max() > 0  # an N out of reach does not count


def test_regions_follow_the_transcript_on_either_strand():
    #            exon      intron     exon
    exons = np.array([[100, 150], [250, 300]])
    for strand in "+-":
        region, minus = label_regions([Transcript("t", "g", "chr", strand, exons)], "chr", 400)
        names = [REGIONS[number] for number in region]
        donor = (147, 156) if strand == "+" else (244, 253)
        acceptor = (230, 253) if strand == "+" else (147, 170)
        for i, name in enumerate(names):
            in_site = donor[0] <= i < donor[1] or acceptor[0] <= i < acceptor[1]
            expected = "intron" if 150 <= i < 250 else "exon" if 100 <= i < 150 or 250 <= i < 300 else "intergenic"
            assert name == ("splice site" if in_site else expected), (strand, i)
        assert minus[100:300].all() == (strand == "-") and not minus[:90].any()


def test_places_are_drawn_from_each_region_and_only_where_usable():
    region = np.repeat(np.arange(4, dtype=np.int8), 50)
    usable = np.ones(200, dtype=bool)
    usable[150:195] = False
    places, regions = choose_places(region, usable, 20, seed=1)
    assert usable[places].all() and np.array_equal(regions[:65], region[places[:65]])
    assert np.bincount(regions[regions != WHOLE]).tolist() == [20, 20, 20, 5]
    assert len(places) == 130 and len(set(places[regions == WHOLE])) == 65
    assert np.array_equal(places, choose_places(region, usable, 20, seed=1)[0])


def test_only_the_central_base_is_masked_and_read():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=10, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = BertForMaskedLM(config).eval()
    windows = np.stack([encode(random_bases(np.random.default_rng(i), 11)) for i in range(5)])
    tokens = torch.from_numpy(add_special_tokens(windows)).long()
    tokens[:, 6] = MASK
    with torch.no_grad():
        expected = model(input_ids=tokens).logits[:, 6, 6:10].softmax(-1).numpy()
    assert masked_predictions(model, windows, 2) == pytest.approx(expected, abs=1e-6)


def test_comparison_counts_rights_and_its_interval_covers_no_difference():
    rng = np.random.default_rng(3)
    windows = rng.integers(6, 10, size=(3000, 9), dtype=np.uint8)
    table = NeighbourTable()
    table.add(windows.ravel())
    same = compare_with_neighbours(table.predict(windows), table, windows, np.arange(3000) * 100, 0)
    assert same["difference"] == same["low"] == same["high"] == 0
    assert same["loss"] == pytest.approx(same["loss_neighbours"])
    perfect = np.full((3000, 4), 0.01)
    perfect[np.arange(3000), windows[:, 4] - 6] = 0.97
    best = compare_with_neighbours(perfect, table, windows, np.arange(3000) * 100, 0)
    assert best["accuracy"] == 1 and best["loss"] == pytest.approx(-np.log(0.97))
    assert 0 < best["low"] < best["difference"] == 1 - best["neighbours"] < best["high"]


@pytest.mark.parametrize("strand", ["+", "-"])
def test_windows_are_read_on_the_strand_of_their_gene_with_the_place_at_the_centre(tmp_path, strand):
    bases = random_bases(np.random.default_rng(4), 600)
    bases = bases[:40] + "N" + bases[41:]
    store = open_store([write_fasta(tmp_path / "kept.fa", {"chr": bases})], tmp_path / "cache")
    gene = Transcript("t", "g", "chr", strand, np.array([[100, 200], [350, 500]]))
    for length in (20, 21):
        windows, places, regions = choose_windows(store, store.records[0], [gene], length, 40, 0)
        assert (windows != N).all() and len(windows) == len(places) == len(regions) > 100
        ids = encode(bases)
        minus = label_regions([gene], "chr", 600)[1]
        for window, place in zip(windows, places):
            read = reverse_complement(window) if minus[place] else window
            middle = length - 1 - length // 2 if minus[place] else length // 2
            assert np.array_equal(read, ids[place - middle : place - middle + length])


GTF = 'chr\tx\texon\t{}\t{}\t.\t+\t.\tgene_id "g"; transcript_id "t";\n'


def test_mlm_prints_every_region_and_leaves_out_what_the_text_holds(finished, tmp_path, capsys, call, tiny_data):
    text = "".join((tiny_data / "genome.fa").read_text().split(">tiny2")[1].splitlines()[1:])
    kept_out = random_bases(np.random.default_rng(9), 2000) + text[:500]
    write_fasta(tmp_path / "kept.fa", {"chr": kept_out})
    (tmp_path / "kept.gtf").write_text(GTF.format(301, 600) + GTF.format(901, 1200))
    words = ["--evaluate.mlm_fasta", tmp_path / "kept.fa", "--evaluate.mlm_annotation", tmp_path / "kept.gtf"]
    settings = yaml.safe_load(finished.config.read_text())
    settings["data"]["window"] = settings["data"]["context"] = 60
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    call(evaluate, "mlm", finished.run / "pretrain/checkpoints/last", tmp_path / "tiny.yaml", *words)
    out = capsys.readouterr().out
    for region in (*REGIONS, "whole record"):
        assert f"\n{region} " in out
    assert " 0 of " not in out.splitlines()[-1]


def test_mlm_without_a_kept_out_record_is_refused(finished, call, capsys):
    line = refusal(call, capsys, evaluate, "mlm", finished.run)
    assert "evaluate.mlm_fasta" in line


# -- what pretrain.py says about its text ------------------------------------------------------------------------------


def test_a_run_says_what_its_text_is_and_how_much_of_the_evaluation_it_holds(finished):
    corpus = json.loads((finished.run / "corpus.json").read_text())
    assert corpus["corpus"] == "fasta" and corpus["sources"] == ["genome.fa"] and len(corpus["sha256"]) == 64
    assert {"name", "length", "n_share", "repeat_share"} <= set(corpus["records"][0])
    overlap = json.loads((finished.run / "overlap.json").read_text())
    parts = {part["part"]: part for part in overlap["parts"]}
    assert parts["training donor positive"]["count"] == 100
    assert "## Overlap of the evaluation with the pre-training text" in (finished.run / "report/report.md").read_text()


def test_motif_sites_are_found_in_the_text_by_their_coordinates(tiny_data, tmp_path, call):
    import pretrain

    for name, records, inside in (("off", ["tiny1", "tiny2"], 0), ("on", ["tiny3"], 40)):
        changes = motif_settings(tiny_data) | {"data.records": records, "mlm.steps": 0, "pretrain.steps": 1}
        changes |= {"pretrain.warmup_steps": 0, "name": name}
        call(pretrain, tiny_config(tmp_path, tiny_data, changes))
        parts = json.loads((tmp_path / f"runs/{name}/overlap.json").read_text())["parts"]
        assert [part["shared"] for part in parts if part["part"] == "motif sites"] == [inside]
