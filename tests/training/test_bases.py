"""Models that label every base: labels from annotation, folds of records, exact resume, checkpoints."""

import dataclasses
import re
import signal

import numpy as np
import pytest
import torch
import yaml
from conftest import SMALL, fresh, other_strand, put, random_bases, refusal, summary_of, write_fasta

import finetune
from simcsp.core.config import BasesConfig
from simcsp.core.errors import InputError, Interrupted
from simcsp.core.run_folder import read_metrics
from simcsp.core.run_layout import finished_fits, fit_key
from simcsp.labels.bases import LABEL, UNLABELLED, fold_records, read_genome
from simcsp.model import bases as bases_model
from simcsp.model.bases import IDENTITY, BaseClassifier, Labeller, Shape, grow, load_bases, save_bases
from simcsp.text.alphabet import A, N, T, encode, reverse_complement
from simcsp.text.store import open_store
from simcsp.training import bases as training
from simcsp.training.arms import Arm, FoldJob
from simcsp.training.stopping import StopSignal
from utils.arguments import load_config

TINY = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
LEFT, RIGHT = "CAGGTAAGT", "TTCTTTCTTTTCAGG"  # a donor's exon ends after its 3rd base, an acceptor's begins at its 15th


def with_introns(bases, introns):
    for start, end, strand in introns:
        first, second = (LEFT, RIGHT) if strand == "+" else (other_strand(RIGHT), other_strand(LEFT))
        bases = put(bases, start - (3 if strand == "+" else 1), first)
        bases = put(bases, end - (14 if strand == "+" else 6), second)
    return bases


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """Four records of 3,000 nt with ten introns each, as FASTA and table; {record: bases}."""
    folder, rng = tmp_path_factory.mktemp("annotated"), np.random.default_rng(0)
    records, rows = {}, ["record\tstart\tend\tstrand"]
    for name in ("a", "b", "c", "d"):
        introns = [(100 + 280 * i, 230 + 280 * i, "+-"[i % 2]) for i in range(10)]
        records[name] = with_introns(random_bases(rng, 3000), introns)
        rows += [f"{name}\t{start}\t{end}\t{strand}" for start, end, strand in introns]
    (folder / "introns.tsv").write_text("\n".join(rows) + "\n")
    return write_fasta(folder / "genome.fa", records), folder / "introns.tsv", records


def config_file(folder, annotated, **changes):
    values = {
        "name": "bases",
        "runs": str(folder / "runs"),
        "device": "cpu",
        "precision": "fp32",
        "model": SMALL | TINY | {"max_position_embeddings": 32},
        "data": {"cache": str(folder / "cache"), "context": 20},
        "pretrain": {"steps": 0},
        "mlm": {"steps": 0},
        "report": False,
        "finetune": {"task": "bases", "arms": ["cnn"], "folds": [0]},
        "bases": {
            "fasta": [str(annotated[0])],
            "annotation": [str(annotated[1])],
            "parts": [["a"], ["b*"]],
            "tile": 30,
            "channels": 16,
            "dilations": [1, 2],
            "steps": 60,
            "eval_steps": 20,
            "tiles": 6,
        },
    }
    for key, value in changes.items():
        values["bases" if key in BasesConfig.__dataclass_fields__ else "finetune"][key] = value
    path = folder / "bases.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def text_of(folder, annotated, **changes):
    """The section bases of a config, and what its first fold trains on."""
    config = load_config([str(config_file(folder, annotated, **changes))])
    return config.bases, training.build_text(config, read_genome(config.bases, folder), 0)


def test_labels_are_at_the_exons_bases_of_both_strands(annotated, tmp_path):
    fasta, table, records = annotated
    genome = read_genome(BasesConfig(fasta=[str(fasta)], annotation=[str(table)], parts=[["a"], ["b"]]), tmp_path)
    for minus in (0, 1):
        read = other_strand(records["a"]) if minus else records["a"]
        labels = genome.labels("a", 0, 3000, minus)
        for label, before, after in ((2, "CAG", "GTAAGT"), (1, "TTCTTTCTTTTCAG", "G")):
            places = np.flatnonzero(labels == label)
            assert len(places) == 5
            for place in places:
                at = place + 1 if label == 2 else place
                assert read[at - len(before) : at] == before and read[at : at + len(after)] == after
        part = genome.labels("a", 200, 700, minus)
        assert np.array_equal(part, labels[2300:2800] if minus else labels[200:700])


def test_a_stretch_has_the_labels_of_its_strand_and_hidden_bases_none(annotated, tmp_path):
    settings, text = text_of(tmp_path, annotated)
    assert text.records == ["c", "d"]
    text.hidden["c"][:] = True
    rng, seen = np.random.default_rng(0), set()
    for _ in range(20):
        for ids, labels in zip(*training.draw_stretches(text, settings, rng)):
            assert (labels[:30] == UNLABELLED).all() and (labels[-30:] == UNLABELLED).all()
            for place in np.flatnonzero(labels > 0):
                motif = ids[place + 1 : place + 3] if labels[place] == 2 else ids[place - 2 : place]
                assert np.array_equal(motif, encode("GT" if labels[place] == 2 else "AG")) or N in motif
                seen.add(int(labels[place]))
    assert seen == {1, 2}
    text.hidden["d"][:] = True
    assert (training.draw_stretches(text, settings, rng)[1] == UNLABELLED).all()


def test_half_of_the_stretches_about_sites_are_n_beyond_their_gene_where_genes_are_held_out(annotated, tmp_path):
    fasta, _, records = annotated
    spans = {"a": (300, 900, "+"), "b": (300, 900, "-"), "c": (1500, 2000, "+"), "d": (1500, 2000, "-")}
    rows = [
        f'{name}\tx\texon\t{first + 1}\t{last}\t.\t{strand}\t.\tgene_id "{name}"; transcript_id "{name}";\n'
        for name, (start, end, strand) in spans.items()
        for first, last in ((start, start + 60), (start + 200, start + 260), (end - 60, end))
    ]
    (tmp_path / "genes.gtf").write_text("".join(rows))
    changes = {"forward": True, "site_share": 1.0, "annotation": [str(tmp_path / "genes.gtf")]}
    settings, text = text_of(tmp_path, annotated, **changes)
    assert {tuple(ends) for ends in text.genes.tolist()} == {(1500, 2000)}
    strands = {"c": encode(records["c"]), "d": reverse_complement(encode(records["d"]))}
    beyond = {True: 0, False: 0}
    for seed in range(40):
        for ids, labels in zip(*training.draw_stretches(text, settings, np.random.default_rng(seed))):
            known = np.flatnonzero(ids != N)
            run = ids[known[0] : known[-1] + 1]
            places = {name: bytes(bases).find(bytes(run)) for name, bases in strands.items()}
            name, at = max(places.items(), key=lambda place: place[1])  # -1 in the other
            assert at >= 0
            start, end = (1500, 2000) if name == "c" else (1000, 1500)
            reaches = at + len(ids) - known[0] > end + 30 or at - known[0] < start - 30
            if reaches:  # by more than the tile that any stretch may lose
                beyond[at < start or at + len(run) > end] += 1
            assert (labels[ids == N] == UNLABELLED).all()
    assert min(beyond.values()) > 0.35 * sum(beyond.values()) > 10


def test_of_a_fragment_the_text_about_a_site_is_left_and_nothing_else_is_learnt_from():
    rng, sizes = np.random.default_rng(0), []
    whole = rng.integers(A, T + 1, 512).astype(np.uint8)
    learnt = np.zeros(512, dtype=np.int64)
    learnt[[100, 300]] = LABEL["donor"], LABEL["acceptor"]
    for sites in (True, False):
        for _ in range(300):
            ids, labels = whole.copy(), np.where(sites, learnt, 0)
            training.keep_fragment(ids, labels, 64, rng)
            kept = np.flatnonzero(ids != N)
            assert (kept == np.arange(kept[0], kept[-1] + 1)).all() and (ids[kept] == whole[kept]).all()
            assert (labels[kept] == (learnt[kept] if sites else 0)).all()
            assert (np.delete(labels, kept) == UNLABELLED).all()
            assert not sites or (labels > 0).any()
            sizes.append(len(kept))
    assert min(sizes) >= 64 and max(sizes) <= 512
    assert np.median(sizes) == pytest.approx(np.sqrt(64 * 512), rel=0.15)  # log-uniform


def test_fragments_are_the_share_asked_for(annotated, tmp_path):
    settings, text = text_of(tmp_path, annotated, fragments=0.3)
    without, cut, plain = dataclasses.replace(settings, fragments=0.0), 0, 0
    for seed in range(200):
        ids, _ = training.draw_stretches(text, settings, np.random.default_rng(seed))
        whole, _ = training.draw_stretches(text, without, np.random.default_rng(seed))
        cut += int(((ids == N).mean(1) > 0.3).sum())
        plain += int(((whole == N).mean(1) > 0.3).sum())
    assert 0.1 < (cut - plain) / (200 * len(ids)) < 0.3  # of log-uniform lengths some are nearly whole


def test_mutations_replace_a_share_of_the_bases_and_never_those_of_a_site(annotated, tmp_path):
    settings, text = text_of(tmp_path, annotated, mutations=0.1)
    plain, shares = dataclasses.replace(settings, mutations=0.0), []
    for seed in range(40):
        rngs = [np.random.default_rng([seed, 0]) for _ in range(2)]
        before, labels = (rows[:1] for rows in training.draw_stretches(text, plain, rngs[0]))
        after, same = (rows[:1] for rows in training.draw_stretches(text, settings, rngs[1]))
        assert np.array_equal(labels, same) and np.array_equal(before == N, after == N)
        changed = (before != after)[0]
        for label, first, last in ((2, 2, 6), (1, 20, 2)):
            for base in np.flatnonzero(labels[0] == label):
                assert not changed[max(base - first, 0) : base + last + 1].any()
        shares.append(changed.mean())
    assert 0.04 < np.mean(shares) < 0.1 and min(shares) < 0.03 < 0.1 < max(shares)


def test_every_nth_record_of_the_validation_part_is_held_out_and_the_others_are_learnt(annotated, tmp_path):
    config = load_config([str(config_file(tmp_path, annotated, parts=[["a"], ["b", "c", "d"]], val_every=2))])
    genome = read_genome(config.bases, tmp_path)
    parts = fold_records(config.bases, genome.store, 0)
    assert parts == {"test": ["a"], "val": ["b", "d"], "train": ["c"], "grafts": []}
    assert training.build_text(config, genome, 0).records == ["c"]


def test_what_a_held_out_record_has_too_is_not_learnt_from(annotated, tmp_path):
    fasta, table, records = annotated
    twin = write_fasta(tmp_path / "twin.fa", records | {"c": records["c"][:1000] + other_strand(records["a"][500:700])})
    rows = [line for line in table.read_text().splitlines() if not line.startswith("c") or int(line.split()[2]) < 900]
    (tmp_path / "t.tsv").write_text("\n".join(rows) + "\n")
    _, text = text_of(tmp_path, (twin, tmp_path / "t.tsv"))
    assert text.hidden["c"][1000:].all() and not text.hidden["c"][:990].any() and not text.hidden["d"].any()


@pytest.mark.parametrize("arm", ["cnn", "fresh"])
def test_training_learns_selects_and_resumes_bit_for_bit(arm, annotated, call, tmp_path, monkeypatch):
    steps, long_share = (60, 0.75) if arm == "cnn" else (20, 0.0)  # 15 steps on short stretches, 45 on long ones
    changes = {"steps": steps, "eval_steps": 10, "average": 0.8, "long_share": long_share}
    path = config_file(tmp_path, annotated, arms=[arm], **changes)
    call(finetune, path, "--name", "whole")
    stop, count, loss_of = StopSignal(), [], training.stretches_loss

    def stops_at_15(fit, rng):
        count.append((fit.drawn.tiles, fit.drawn.stretches))
        stop.number = signal.SIGTERM if len(count) == 15 else 0
        return loss_of(fit, rng)

    monkeypatch.setattr(training, "stretches_loss", stops_at_15)
    with pytest.raises(Interrupted):
        training.run_bases(load_config([str(path), "--name", "stopped"]), stop)
    state = torch.load(tmp_path / f"runs/stopped/finetune/{arm}/bases/seed0/fold00/state.pt", weights_only=False)
    assert state["step"] == 15  # nothing is lost
    assert set(count) == {(6, 8)} and len(count) == 15
    call(finetune, path, "--name", "stopped", "--report", str(arm == "cnn").lower())
    assert set(count[15:]) == {(12, 4) if arm == "cnn" else (6, 8)}
    assert (tmp_path / "runs/stopped/report/bases/summary.csv").is_file() == (arm == "cnn")
    one, two = (tmp_path / f"runs/{name}/finetune/{arm}/bases/seed0/fold00" for name in ("whole", "stopped"))
    first, second = (summary_of(folder) for folder in (one, two))
    assert (one / "metrics.jsonl").read_text().count("train/loss") == steps // 10
    losses = [[row["train/loss"] for row in read_metrics(folder)] for folder in (one, two)]
    assert losses[0] == losses[1]
    assert first["metrics"] == second["metrics"] and first["best_step"] == second["best_step"]
    assert set(first["metrics"]) >= {"test/ap", "test/ap_donor", "test/topk_acceptor", "test/recall", "val/ap"}
    file = "checkpoints/best/bases.safetensors"
    assert (one / file).read_bytes() == (two / file).read_bytes()
    if arm == "cnn":
        assert first["metrics"]["test/ap"] > 0.3  # a site in 300 bases
    else:
        assert (one / "checkpoints/best/model.safetensors").is_file()


def test_an_arm_of_several_pretraining_seeds_is_a_fit_each(annotated, tmp_path, monkeypatch, capsys):
    config = load_config([str(config_file(tmp_path, annotated, steps=1, eval_steps=1))])
    monkeypatch.setattr(training, "resolve_arms", lambda _: [Arm("cnn", None, seed, True) for seed in (0, 3)])
    rows = training.run_bases(config, StopSignal())
    assert list(rows) == ["cnn:pretrain0 seed 0 fold 0", "cnn:pretrain3 seed 0 fold 0"]
    assert [fit_key(folder).model for folder in finished_fits(config.folder)] == ["cnn:pretrain0", "cnn:pretrain3"]
    lines = [line for line in capsys.readouterr().out.splitlines() if "donor AP" in line]
    assert [line.split("pre-training seed ")[1][0] for line in lines] == ["0", "3"]


def test_stretches_keep_to_the_margin(annotated, tmp_path):
    settings, text = text_of(tmp_path, annotated, margin=40, site_share=0.0)
    text.sites[:, 2] = 1500  # all at one base
    first = encode(annotated[2]["c"] + annotated[2]["d"])
    for row, known in zip(*training.draw_stretches(text, settings, np.random.default_rng(0))):
        middle = row[(known != UNLABELLED)][15:-15]
        both = [bytes(middle), bytes(reverse_complement(middle))]
        at = max(bytes(first).find(piece) for piece in both) % 3000
        assert at >= 0 and abs(at + len(middle) / 2 - 1500) <= 40 + len(middle) and any(p in bytes(first) for p in both)
    text.sites[:, 2], settings.margin = 2990, 2000  # of 3000: half of what is drawn lies beyond the record
    for seed in range(5):
        _, labels = training.draw_stretches(text, settings, np.random.default_rng(seed))
        assert (labels != UNLABELLED).any(axis=1).all()


def test_calibration_gives_back_the_frequencies():
    rng = np.random.default_rng(0)
    odds = rng.normal(-3, 2, (200_000, 2)).astype(np.float32)
    odds[:, 1] = -20
    chance = 1 / (1 + np.exp(-(0.5 * odds[:, 0] - 1)))
    labels = (rng.random(len(odds)) < chance).astype(np.int64)
    labels[0] = 2
    slope, offset = training.calibrate(odds, labels)[0]
    assert slope == pytest.approx(0.5, abs=0.02) and offset == pytest.approx(-1, abs=0.05)
    rare = rng.normal(-12, 3, (300_000, 2)).astype(np.float32)  # a site in thousands: a mean loss of almost nothing
    sites = (rng.random(len(rare)) < 1 / (1 + np.exp(-(0.8 * rare[:, 0] - 1)))).astype(np.int64)
    sites[:50] = 2
    slope, offset = training.calibrate(rare, sites)[0]
    assert (1 / (1 + np.exp(-(slope * rare[50:, 0] + offset)))).sum() == pytest.approx((sites == 1).sum(), rel=1e-4)
    labeller = Labeller(BaseClassifier(None, Shape()), np.array([[0.5, -1.0], [1.0, 0.0]]), torch.device("cpu"))
    assert labeller.probabilities(odds)[:, 0] == pytest.approx(chance, abs=1e-4)
    many = labeller.probabilities(rng.normal(0, 30, (1000, 2)))
    assert (many.sum(axis=1) <= 1 + 1e-6).all() and (many >= 0).all() and np.isfinite(many).all()


def test_a_checkpoint_gives_the_same_scores_and_a_foreign_folder_is_refused(tmp_path):
    torch.manual_seed(0)
    model = BaseClassifier(None, Shape(tile=20, channels=8, kernel=5, dilations=[1, 3])).eval()
    calibration = np.array([[0.9, -1.0], [1.1, 0.5]])
    (tmp_path / "m").mkdir()
    save_bases(model, calibration, tmp_path / "m")
    again, read = load_bases(tmp_path / "m")
    ids = torch.randint(5, 10, (2, 100), dtype=torch.uint8)
    assert torch.equal(model(ids), again(ids)) and np.array_equal(read, calibration)
    strands = Labeller(again, read, torch.device("cpu")).both_strands(ids[0].numpy())
    turned = Labeller(again, read, torch.device("cpu")).both_strands(reverse_complement(ids[0].numpy()))
    assert strands == pytest.approx(turned[::-1, ::-1], abs=1e-5)


def test_a_coarse_path_sees_its_reach_and_no_further_whatever_the_chunk(tmp_path, monkeypatch):
    torch.manual_seed(0)
    shape = Shape(
        8, 4, 3, [1], stride=4, coarse_channels=4, coarse_kernel=3, coarse_dilations=[1, 2], final_dilations=[1]
    )
    model = BaseClassifier(None, shape).eval()
    (tmp_path / "m").mkdir()
    save_bases(model, IDENTITY, tmp_path / "m")
    labeller = Labeller(*load_bases(tmp_path / "m"), torch.device("cpu"))
    rng = np.random.default_rng(0)
    fasta = write_fasta(tmp_path / "g.fa", {"x": random_bases(rng, 403), "y": random_bases(rng, 5)})
    store = open_store([fasta], tmp_path)
    monkeypatch.setattr(bases_model, "_CHUNK_FLANKS", 100)
    whole = [labeller.chunk_odds(store, record, 0) for record in store.records]
    monkeypatch.setattr(bases_model, "_CHUNK_FLANKS", 1)
    monkeypatch.setattr(bases_model, "_CHUNK_TILES", 1)
    for record, expected in zip(store.records, whole):
        parts = [labeller.chunk_odds(store, record, k) for k in range(-(-record.length // labeller.chunk))]
        assert np.concatenate(parts, axis=1) == pytest.approx(expected, abs=1e-5)
        assert expected.shape == (2, record.length, 2)
    ids = torch.randint(6, 10, (1, 400), dtype=torch.uint8)
    changed = ids.clone()
    changed[0, 200] = 6 + (ids[0, 200] - 5) % 4
    touched = np.flatnonzero((model(ids) != model(changed)).any(-1)[0].numpy())
    assert 25 < 200 - touched.min() <= shape.reach == 32 and 25 < touched.max() - 200 <= 32


def test_an_intron_from_elsewhere_is_grafted_between_two_exons(annotated, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_GRAFT_SHARE", 1.0)
    fasta, table, records = annotated
    rng = np.random.default_rng(7)
    ends = [(random_bases(rng, 17), random_bases(rng, 90), random_bases(rng, 19)) for _ in range(3)]
    introns = {f"i{k}": before + LEFT + middle + RIGHT + after for k, (before, middle, after) in enumerate(ends)}
    introns["i2"] = records["a"][:100] + introns["i2"][100:]  # shares 80 nt with what is tested on
    elsewhere = write_fasta(tmp_path / "introns.fa", introns)
    (tmp_path / "i.tsv").write_text("".join(f"{name}\t20\t130\t+\n" for name in introns))
    files = {"fasta": [str(fasta), str(elsewhere)], "annotation": [str(table), str(tmp_path / "i.tsv")]}
    changes = {"site_share": 1.0, "ignore": ["i1*"], "grafts": [str(elsewhere)]}
    settings, text = text_of(tmp_path, annotated, **files, **changes)
    assert text.grafts == [("i0", 19, 130)] and text.records == ["c", "d"]
    donor, acceptor = encode(introns["i0"][19:29]), encode(introns["i0"][120:131])
    seen = set()
    for ids, labels in zip(*training.draw_stretches(text, settings, np.random.default_rng(0))):
        for label, motif, back in ((2, donor, 0), (1, acceptor, 10)):
            places = np.flatnonzero(labels == label)
            seen |= {label for place in places if np.array_equal(ids[place - back :][: len(motif)], motif)}
        for place in np.flatnonzero(labels == 2):
            assert np.array_equal(ids[place + 1 : place + 3], encode("GT"))
        for place in np.flatnonzero(labels == 1):
            assert np.array_equal(ids[place - 2 : place], encode("AG"))
    assert seen == {1, 2}


def test_sites_of_transcripts_outside_the_ccds_set_are_not_learnt(annotated, tmp_path):
    rows = []
    for transcript, starts, more in (("t1", (100, 400), 'ccdsid "CCDS1.1";'), ("t2", (100, 500), "")):
        for start in starts:
            ids = f'gene_id "g"; transcript_id "{transcript}"; {more}'
            rows.append(f"c\tx\texon\t{start}\t{start + 49}\t.\t+\t.\t{ids}\n")
    gtf = tmp_path / "g.gtf"
    gtf.write_text("".join(rows))
    config = BasesConfig(fasta=[str(annotated[0])], annotation=[str(gtf)], ccds=[str(gtf)])
    labels = read_genome(config, tmp_path).labels("c", 0, 3000, 0)
    assert [labels[148], labels[399], labels[499]] == [2, 1, UNLABELLED] and (labels != 0).sum() == 3
    table = tmp_path / "doubtful.tsv"
    table.write_text("c\t149\t399\t+\nc\t700\t800\t+\n")  # the first is annotated
    labels = read_genome(dataclasses.replace(config, doubtful=[str(table)]), tmp_path).labels("c", 0, 3000, 0)
    assert [labels[148], labels[399], labels[699], labels[800]] == [2, 1, UNLABELLED, UNLABELLED]


NARROW = {"channels": 4, "coarse_channels": 4, "dilations": [1], "coarse_dilations": [1, 2], "final_dilations": [1]}
LARGE = {"channels": 6, "coarse_channels": 7, "dilations": [1, 3]}
LARGE |= {"coarse_dilations": [1, 2, 4], "final_dilations": [1, 1]}


def test_a_grown_model_computes_what_the_smaller_one_does_and_all_its_weights_can_learn():
    torch.manual_seed(0)
    small, large = (BaseClassifier(None, Shape(8, kernel=3, stride=4, **sizes)) for sizes in (NARROW, LARGE))
    ids = torch.randint(6, 10, (2, 80), dtype=torch.uint8)
    for _ in range(3):
        small(ids)  # its norms get means and variances
    with torch.no_grad():
        for weights in small.parameters():
            weights.add_(0.3 * torch.randn_like(weights))
    grow(large, small)
    assert torch.allclose(large.eval()(ids), small.eval()(ids), atol=1e-5)
    optimizer = torch.optim.SGD(large.train().parameters(), lr=0.1)
    before = {name: weights.clone() for name, weights in large.named_parameters()}
    for _ in range(3):  # what nothing reads yet moves once its readers have
        torch.nn.functional.cross_entropy(large(ids).flatten(0, 1), torch.arange(160) % 3).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name: (weights != before[name]).float().mean() for name, weights in large.named_parameters()}
    still = [name for name, share in moved.items() if share < 0.5]
    assert all(".bias" in name for name in still), still  # batch norm takes most biases off again


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"stride": 2}, "its stride is 4, here 2"),
        ({"coarse_channels": 3}, "bases.coarse_channels (3) is less than that of bases.source (4)"),
        ({"coarse_dilations": [1, 4]}, "must begin with those of bases.source, [1, 2]"),
    ],
)
def test_a_model_that_lacks_a_part_of_the_smaller_one_cannot_grow_from_it(changes, part):
    small, large = (Shape(**{"tile": 8, "kernel": 3, "stride": 4} | NARROW | values) for values in ({}, changes))
    with pytest.raises(InputError, match=re.escape(part)):
        grow(BaseClassifier(None, large), BaseClassifier(None, small))


@pytest.mark.parametrize("channels", [0, 4])
def test_a_model_that_reads_an_encoder_is_nothing_to_grow_from(channels):
    with_encoder = BaseClassifier(fresh(**TINY)[0].bert, Shape(8, channels, 3, [1]))
    with pytest.raises(InputError, match="it reads an encoder"):
        grow(BaseClassifier(None, Shape(8, 4, 3, [1])), with_encoder)


def test_training_goes_on_from_a_smaller_model_and_its_folder_knows_which(annotated, call, capsys, tmp_path):
    sizes = {"stride": 2, "tile": 30, "steps": 20, "eval_steps": 20}
    call(finetune, config_file(tmp_path, annotated, **sizes | NARROW), "--name", "small")
    start = tmp_path / "runs/small/finetune/cnn/bases/seed0/fold00/checkpoints/best"
    path = config_file(tmp_path, annotated, source=str(start), **sizes | LARGE)
    config = load_config([str(path)])
    grown = training.build_model(config.bases, FoldJob(Arm("cnn", None), "bases", 0, 0)).eval()
    ids = torch.randint(6, 10, (1, 60), dtype=torch.uint8)
    assert torch.allclose(grown(ids), load_bases(start)[0](ids), atol=1e-4)
    call(finetune, path)
    fit = tmp_path / "runs/bases/finetune/cnn/bases/seed0/fold00/checkpoints/best"
    assert load_bases(fit)[0].shape.coarse_dilations == [1, 2, 4]
    assert "| begun from | best |" in (fit / "README.md").read_text()
    weights = start / bases_model.BASES_FILE
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert "start checkpoint" in refusal(call, capsys, finetune, path)
    assert "finetune.arms has no cnn" in refusal(call, capsys, finetune, path, "--finetune.arms", "[fresh]")
    for folds in ("[0, 1]", "null"):
        assert "has read what other folds test on" in refusal(call, capsys, finetune, path, "--finetune.folds", folds)


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"stride": 4, "coarse_dilations": [1]}, "bases.stride (4) must divide"),
        ({"long_share": 0.5, "stretches": 5}, "bases.stretches (5) must be even"),
        ({"source": "nowhere/m"}, "bases.source: nowhere/m is no folder of a model of bases"),
        ({"grafts": ["x.fa"]}, "x.fa is none of bases.fasta"),
        ({"decay_share": 2.0}, "bases.decay_share"),
        ({"parts": [["a"], ["mars"]]}, "no record 'mars'"),
        ({"parts": [["a"], ["a", "b"]]}, "a in more than one of them"),
        ({"parts": [["a"]]}, "at least two parts"),
        ({"parts": [["a", "b"], ["c", "d"]]}, "no record is left to train on"),
        ({"folds": [2]}, "there is no fold 2"),
        ({"annotation": []}, "bases.annotation must name a file for each"),
        ({"arms": ["pwm"]}, "pwm labels windows"),
        ({"arms": ["fresh"], "tile": 40}, "longer than the checkpoint takes"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(changes, part, annotated, call, capsys, tmp_path):
    assert part in refusal(call, capsys, finetune, config_file(tmp_path, annotated, **changes))


def test_a_part_without_a_site_is_refused(annotated, call, capsys, tmp_path):
    fasta, table, records = annotated
    bare = write_fasta(tmp_path / "bare.fa", records | {"e": random_bases(np.random.default_rng(5), 500)})
    path = config_file(tmp_path, (bare, table), parts=[["a"], ["e"]])
    assert "no annotated sites of both types" in refusal(call, capsys, finetune, path)
