"""The synthetic demo data: what it promises to the rest of the project, read back from its files by other code."""

import gzip
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import other_strand

from data import demo, grammar

SITES = ("donor", "acceptor")
MOTIF = {"donor": "GT", "acceptor": "AG"}
TRAINING = "spliceator/Training_data"
SCRIPT = Path(demo.__file__)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Default demos of two seeds: {seed: folder}."""
    root = tmp_path_factory.mktemp("demo")
    for seed in range(2):
        assert demo.main(["--out", str(root / f"seed{seed}"), "--seed", str(seed)]) == 0
    return {seed: root / f"seed{seed}" for seed in range(2)}


@pytest.fixture(scope="module")
def folder(made):
    return made[0]


@pytest.fixture(scope="module")
def genome(folder):
    """{record: bases}, case as in the file."""
    records = re.split(r"^>", (folder / "genome.fa").read_text(), flags=re.M)[1:]
    return {record.split()[0]: "".join(record.split("\n")[1:]) for record in records}


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def positives(folder, site):
    return [row.split(";") for row in (folder / TRAINING / f"Positive/GS/POS_{site}_600.csv").read_text().splitlines()]


def negatives(folder, site):
    rows = (folder / TRAINING / f"Negative/GS/GS_1/NEG_600_{site}.csv").read_text().splitlines()
    assert rows[0] == "ID_uniprot;Position;Sequence;Type"
    return [row.split(";") for row in rows[1:]]


def benchmark(folder, site, sign):
    path = folder / f"spliceator/Benchmarks/Synthetic/SA_sequences_{site}_400_Final_3.{sign}.txt"
    return [row.split(";") for row in path.read_text().splitlines()]


def motif_rows(folder):
    rows = [line.split("\t") for line in gzip.decompress((folder / "motifs.bed.gz").read_bytes()).decode().splitlines()]
    return [(chrom, int(start), int(end), name, name2, strand) for chrom, start, end, name, name2, strand in rows]


def introns(folder):
    """(chrom, start, end, strand), 0-based half-open, from the exon rows of the GTF."""
    transcripts = {}
    for line in (folder / "genes.gtf").read_text().splitlines():
        if not line.startswith("#"):
            chrom, _, feature, start, end, _, strand, _, attributes = line.split("\t")
            if feature == "exon":
                name = re.search(r'transcript_id "(.+?)"', attributes)[1]
                number = int(re.search(r'exon_number "(\d+)"', attributes)[1])
                transcripts.setdefault((name, chrom, strand), []).append((number, int(start) - 1, int(end)))
    for (_, chrom, strand), exons in transcripts.items():
        ordered = [(start, end) for _, start, end in sorted(exons)]
        assert ordered == sorted(ordered, reverse=strand == "-"), "exons are numbered in transcript order"
        ordered.sort()
        for (_, left), (right, _) in zip(ordered[:-1], ordered[1:], strict=True):
            yield chrom, left, right, strand


def area_under_curve(labels, scores):
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores)] = np.arange(len(scores))
    positive = labels == 1
    return (ranks[positive].mean() - (positive.sum() - 1) / 2) / (~positive).sum()


def test_same_seed_same_bytes_other_seed_other_bytes(made, tmp_path):
    demo.main(["--out", str(tmp_path / "again"), "--seed", "0"])
    first, again, other = tree(made[0]), tree(tmp_path / "again"), tree(made[1])
    assert first == again
    assert first.keys() == other.keys()
    assert [name for name in first if first[name] == other[name]] == []


def test_every_file_says_that_it_is_synthetic(folder):
    for name, content in tree(folder).items():
        text = gzip.decompress(content) if name.endswith(".gz") else content
        assert b"synthetic" in text[:2000].lower(), name


def test_manifest_holds_the_checksum_of_every_other_file(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["version"] == demo.VERSION and manifest["arguments"]["seed"] == 0
    assert set(manifest["sha256"]) | {"manifest.json"} == set(tree(folder))


@pytest.mark.parametrize("site", SITES)
def test_training_windows(folder, site):
    real, false = positives(folder, site), negatives(folder, site)
    assert len(real) == len(false) == 600
    assert all(len(row) == 3 and row[2] == "True" for row in real)
    assert {row[3] for row in false} == {"FP"}
    windows = [row[1] for row in real] + [row[2] for row in false]
    at = slice(300, 302) if site == "donor" else slice(298, 300)
    assert {window[at] for window in windows} == {MOTIF[site]}
    assert all(re.fullmatch("[ACGT]{600}", window) for window in windows)
    assert len(set(windows)) == len(windows)
    # The published loader takes field 1, or field 2 where field 1 is short, and the part after the last _ as group.
    assert all(len(row[1]) < 100 for row in false)
    assert {row[0].rsplit("_", 1)[1] for row in real + false} == {"SYNTHETIC"}


@pytest.mark.parametrize("site", SITES)
def test_benchmark_windows(folder, site):
    at = slice(200, 202) if site == "donor" else slice(198, 200)
    real, false = benchmark(folder, site, "positive"), benchmark(folder, site, "negative")
    assert len(real) == len(false) == 200
    assert all(re.fullmatch("[ACGT]{400}", window) for _, window in real + false)
    assert len({window for _, window in real + false}) == 400
    assert {window[at] for _, window in real + false} == {MOTIF[site]}


def test_labels_text_and_benchmark_are_of_different_records(folder, genome):
    def where(window):
        return {name for name, bases in upper.items() if window in bases or other_strand(window) in bases}

    upper = {name: bases.upper() for name, bases in genome.items()}
    for site in SITES:
        assert all(where(row[1]) == {"synthetic_chr3"} for row in positives(folder, site)[:15])
        assert all(where(row[2]) == {"synthetic_chr3"} for row in negatives(folder, site)[:15])
        for sign in ("positive", "negative"):
            assert all(where(window) == {"synthetic_chr4"} for _, window in benchmark(folder, site, sign)[:15])
    assert {row[0] for row in motif_rows(folder)} == {"synthetic_chr4"}


def test_genome_has_the_size_the_gaps_and_the_lower_case_it_promises(genome):
    assert list(genome) == [f"synthetic_chr{i}" for i in range(1, 5)]
    assert 3e6 < sum(map(len, genome.values())) < 4.5e6
    for bases in genome.values():
        assert set(bases) <= set("ACGTNacgtn")
        assert len(re.findall("N+", bases.upper())) == 3
        assert [len(stretch) for stretch in re.findall("[acgtn]+", bases)] == [3000]
    upper = "".join(genome.values()).upper()
    assert 0.38 < (upper.count("G") + upper.count("C")) / len(upper) < 0.44
    observed_cpg = upper.count("CG") * len(upper) / (upper.count("C") * upper.count("G"))
    assert 0.15 < observed_cpg < 0.45


def test_bases_of_the_motif_bed_agree_with_labels_and_annotation_on_both_strands(folder, genome):
    true_sites = set()
    for chrom, start, end, strand in introns(folder):
        first, last = (start, start + 2), (end - 2, end)
        donor, acceptor = (first, last) if strand == "+" else (last, first)
        true_sites |= {(chrom, *donor, strand, "GT(donor)"), (chrom, *acceptor, strand, "AG(acceptor)")}
    rows = motif_rows(folder)
    labels = [name.rsplit("|", 1)[1] for _, _, _, name, _, _ in rows]
    expected = ("GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)")
    assert {label: labels.count(label) for label in set(labels)} == dict.fromkeys(expected, 150)
    assert len({row[:3] + row[5:] for row in rows}) == len(rows)
    for (chrom, start, end, _, _, strand), label in zip(rows, labels, strict=True):
        bases = genome[chrom][start:end].upper()
        assert (bases if strand == "+" else other_strand(bases)) == label[:2]
        kind = "GT(donor)" if label.startswith("GT") else "AG(acceptor)"
        assert ((chrom, start, end, strand, kind) in true_sites) == ("non" not in label)
        left = (start + end) // 2 - 255
        assert left >= 0 and "N" not in genome[chrom][left : left + 510].upper() and left + 510 <= len(genome[chrom])
    assert {(label, row[5]) for row, label in zip(rows, labels)} == set(itertools.product(expected, "+-"))


@pytest.mark.parametrize("site, columns, allowed", [("donor", slice(297, 306), 5), ("acceptor", slice(275, 302), 8)])
def test_sites_follow_the_published_frequencies(folder, site, columns, allowed):
    table, motif = (grammar.DONOR, "GT") if site == "donor" else (grammar.ACCEPTOR, "AG")
    windows = np.array([list(row[1][columns]) for row in positives(folder, site)])
    windows = np.delete(windows, [3, 4] if site == "donor" else [23, 24], axis=1)
    measured = np.stack([(windows == base).mean(0) for base in "ACGT"]) * 100
    assert np.abs(measured - table / table.sum(0) * 100).max() < allowed, motif


def test_donors_compensate_one_mismatch_by_another_match(folder):
    """Odds ratios of two mismatches, of which a weight matrix sees nothing: low in donors, about 1 in decoys."""
    consensus = np.array(list("ACGT"))[grammar.DONOR.argmax(0)]

    def odds_ratio(windows, pair):
        bases = np.array([[window[300 + at] for at in grammar.DONOR_AT] for window in windows])
        columns = [list(grammar.DONOR_AT).index(at) for at in pair]
        first, second = (bases[:, column] != consensus[column] for column in columns)
        counts = [(first & second).sum(), (~first & ~second).sum(), (first & ~second).sum(), (~first & second).sum()]
        return (counts[0] + 0.5) * (counts[1] + 0.5) / ((counts[2] + 0.5) * (counts[3] + 0.5))

    real, false = [row[1] for row in positives(folder, "donor")], [row[2] for row in negatives(folder, "donor")]
    for pair in grammar.PAIRS:
        assert odds_ratio(real, pair) < 0.5 < odds_ratio(false, pair), pair


@pytest.mark.parametrize("site", SITES)
def test_there_is_signal_out_of_the_matrix_reach_and_gc_is_no_giveaway(folder, site):
    """3-mers on either side, at 20 to 200 nt from the boundary, naive Bayes fitted on one half, scored on the other."""
    windows = [row[1] for row in positives(folder, site)] + [row[2] for row in negatives(folder, site)]
    letters = np.array([list(window) for window in windows])
    labels = np.repeat([1, 0], 600)
    gc_curve = area_under_curve(labels, np.isin(letters, ["G", "C"]).mean(1))
    assert 0.55 < gc_curve < 0.68

    bases = np.searchsorted(list("ACGT"), letters)
    words = bases[:, :-2] * 16 + bases[:, 1:-1] * 4 + bases[:, 2:]
    sides = [words[:, 100:278], words[:, 320:498]]
    counts = np.concatenate([[np.bincount(row, minlength=64) for row in side] for side in sides], axis=1)
    fit = np.random.default_rng(0).random(len(labels)) < 0.5
    weights = [np.log(counts[fit & (labels == label)].sum(0) + 1) for label in (0, 1)]
    assert area_under_curve(labels[~fit], counts[~fit] @ (weights[1] - weights[0])) > 0.7


def test_damaged_or_differently_made_data_are_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "MIN_INTRONS", 40)  # a small genome is quick
    out = tmp_path / "demo"
    options = ["--out", str(out), "--windows", "30", "--benchmark", "9", "--motif-sites", "5"]
    demo.main(options)
    whole = tree(out)
    (out / "genes.gtf").write_text("cut short")
    demo.main(options)
    assert tree(out) == whole
    demo.main([*options[:-1], "6"])
    assert len(motif_rows(out)) == 24
    assert "up to date" not in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "write_gzip", killed)
    with pytest.raises(KeyboardInterrupt):
        demo.main(["--out", str(tmp_path / "demo")])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_made_by_somebody_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        demo.main(["--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "was not made by this script" in capsys.readouterr().err
    assert tree(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize(
    "bad",
    [["--seed", "-1"], ["--seed", "x"], ["--windows", "0"], ["--motif-sites", "0"], ["--benchmark", "2"], ["--frogs"]],
)
def test_a_bad_argument_is_one_line_and_status_2(bad, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main(["--out", str(tmp_path / "demo"), *bad])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and re.fullmatch(r"data/demo\.py: error: .*\n", printed.err)
    assert bad[0] in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_from_another_folder_does_nothing_and_says_so(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run = subprocess.run([sys.executable, str(SCRIPT), "--out", str(folder)], capture_output=True, text=True, cwd="/")
    assert (run.returncode, run.stdout) == (0, f"{folder}: up to date (synthetic, seed 0)\n"), run.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
