"""Corpora that are `datasets` sets, and what of any text is hidden because the evaluation holds it."""

import re

import numpy as np
import pandas as pd
import pytest
from conftest import POSITIVE, other_strand, put, random_bases, write_fasta
from opening import WINDOW, experiment, gtf, open_text, refused

from simcsp.labels.overlap import measure_overlap
from simcsp.text.alphabet import decode

# -- dataset -----------------------------------------------------------------------------------------------------------

ROWS = ["ACGTACGTAA" * 6, "acgtnnnryk" * 5, "TTTTTGGGGG" * 7]


def write_table(folder, suffix, rows=ROWS, column="sequence"):
    path, table = folder / f"set{suffix}", pd.DataFrame({"label": range(len(rows)), column: rows})
    if suffix in (".csv", ".tsv"):
        table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    elif suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records", lines=True)
    return path


def from_dataset(path, folder, **data):
    return experiment(folder, [], corpus="dataset", dataset=str(path), **data)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_local_files_of_any_kind_become_a_store(tmp_path, suffix):
    corpus, sampler = open_text(from_dataset(write_table(tmp_path, suffix), tmp_path))
    expected = [ROWS[0], re.sub("[RYK]", "N", ROWS[1].upper()), ROWS[2]]
    assert [decode(corpus.store.fetch(r.name, 0, r.length)) for r in corpus.store.records] == expected
    assert sampler.batch(0, 4).shape == (4, WINDOW)
    assert corpus.manifest["sources"] == [f"set{suffix}"]


def test_a_folder_of_files_is_a_dataset_and_is_read_anew_when_it_changes(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    write_table(folder, ".csv", ROWS[:2])
    assert len(open_text(from_dataset(folder, tmp_path))[0].store.records) == 2
    write_table(folder, ".csv")
    assert len(open_text(from_dataset(folder, tmp_path))[0].store.records) == 3


def test_rows_are_streamed_so_that_those_not_asked_for_are_not_read(tmp_path):
    path = write_table(tmp_path, ".csv", [*ROWS, "no bases"])
    corpus, _ = open_text(from_dataset(path, tmp_path, dataset_rows=3))
    assert [record.name for record in corpus.store.records] == ["row0", "row1", "row2"]
    refused(from_dataset(path, tmp_path), r"set.csv, row 3: 'o' at base 2 is not a nucleotide code")


def test_datasets_refuse_what_they_cannot_read(tmp_path):
    path = write_table(tmp_path, ".csv")
    (tmp_path / "set.txt").write_text(ROWS[0])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but no more")

    def bad(message, path=path, **data):
        refused(from_dataset(path, tmp_path, **data), f"^{message}")

    bad(r"data.dataset_column \(bases\): .*set.csv has the columns label, sequence$", dataset_column="bases")
    bad("data.dataset .*set.csv, row 0: label is '0', expected a text of bases", dataset_column="label")
    bad("data.dataset .*set.csv: cannot be read .*test", split="test")
    bad("data.dataset .*set.txt: expected a file ending in .csv", path=tmp_path / "set.txt")
    bad("data.dataset .*broken.parquet: cannot be read", path=tmp_path / "broken.parquet")
    bad("data.dataset .*none.csv: cannot be read", path=tmp_path / "none.csv")
    bad(r"data.window \(71 nt\) is longer than every record", window=71)
    refused(experiment(tmp_path, [], corpus="dataset"), "data.dataset is not set")


# -- hide --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_data):
    """Folder of text.fa, which holds a benchmark window on either strand and a training window, and of spliceator."""
    folder, rng = tmp_path_factory.mktemp("evaluated"), np.random.default_rng(9)
    windows = [random_bases(rng, 100) for _ in range(4)]
    files = [f"SA_sequences_{site}_400_Final_3.{kind}.txt" for site in ("donor", "acceptor") for kind in ("positive",)]
    files += [name.replace("positive", "negative") for name in files]
    spliceator = folder / "spliceator"
    spliceator.mkdir()
    (spliceator / "Training_data").symlink_to(tiny_data / "spliceator/Training_data")
    benchmark = spliceator / "Benchmarks/Fly"
    benchmark.mkdir(parents=True)
    for name, window in zip(files, windows):
        (benchmark / name).write_text(f"x_0_Fly;{window}\n")
    training = (tiny_data / POSITIVE.format("donor")).read_text().split(";")[1]
    bases = random_bases(rng, 3000)
    bases = put(put(bases, 200, windows[0]), 900, other_strand(windows[3]))
    bases = put(bases, 1500, training)
    bases = put(bases, 2500, windows[1][:79] + other_strand(windows[1][79]))  # one base too little to count
    write_fasta(folder / "text.fa", {"chr1": bases[:800].lower() + bases[800:]})
    return folder, bases


def hiding(evaluated, folder, what, **data):
    data = {"spliceator": str(evaluated[0] / "spliceator"), "context": 60, "hide": what, **data}
    return experiment(folder, **{"fasta": [evaluated[0] / "text.fa"], **data})


def motif_sites(data, window):
    files = {"motif_bed": str(data / "motifs.bed"), "motif_fasta": str(data / "genome.fa")}
    return files | {"motif_window": window}


@pytest.mark.parametrize(
    "what, hidden",
    [
        ("nothing", []),
        ("benchmarks", [(200, 300), (900, 1000)]),
        ("evaluation", [(200, 300), (900, 1000), (1500, 1620)]),
    ],
)
def test_hidden_is_what_the_text_shares_with_the_evaluation_and_nothing_else(evaluated, tmp_path, what, hidden):
    config = hiding(evaluated, tmp_path, what)
    corpus, _ = open_text(config)
    expected = evaluated[1]
    for start, end in hidden:
        expected = put(expected, start, "N" * (end - start))
    assert decode(corpus.store.ids) == expected
    assert corpus.manifest["n_share"] == round(sum(end - start for start, end in hidden) / 3000, 6)
    cases = [corpus.store.lower(start, 40).mean() for start in (0, 780)]
    assert cases == [1.0, 0.5]  # the case of the letters is kept
    shared = {part.name: part.shared for part in measure_overlap(config.data, corpus)}
    ours = {"benchmark Fly": what == "nothing", "training": what != "evaluation"}
    for name, still in ours.items():
        assert (sum(count for part, count in shared.items() if part.startswith(name)) > 0) == still


def test_hiding_works_for_every_corpus(evaluated, tmp_path):
    path = write_table(tmp_path, ".csv", [evaluated[1]])
    corpus, _ = open_text(hiding(evaluated, tmp_path, "benchmarks", corpus="dataset", dataset=str(path), fasta=[]))
    hidden = put(put(evaluated[1], 200, "N" * 100), 900, "N" * 100)
    assert decode(corpus.store.ids) == hidden
    annotation = [str(gtf(tmp_path / "a.gtf", [("chr1", "-", [(100, 1000)])]))]
    config = hiding(evaluated, tmp_path, "benchmarks", corpus="genes", annotation=annotation)
    _, sampler = open_text(config)
    windows = {other_strand(evaluated[1])[2000 + i :][:WINDOW] for i in range(900 - WINDOW + 1)}
    seen = {decode(row) for step in range(20) for row in sampler.batch(step, 64)}
    assert len(seen & windows) > 500 and all("N" in window for window in seen - windows)


def test_hiding_refuses_what_it_cannot_find(evaluated, tiny_data, tmp_path):
    without = str(tiny_data / "spliceator")
    refused(hiding(evaluated, tmp_path, "benchmarks", spliceator=without), r"data.hide \(benchmarks\): .*no Benchmarks")
    refused(hiding(evaluated, tmp_path, "evaluation", spliceator=None), r"data.hide \(evaluation\): neither")
    motifs = motif_sites(tiny_data, 60)
    refused(hiding(evaluated, tmp_path, "evaluation", **motifs), r"data.hide \(evaluation\): .*motif sites have 60 nt")


@pytest.mark.parametrize("records, inside", [(["tiny1", "tiny2"], 0), (["tiny2", "tiny3"], 40), (["tiny3"], 40)])
def test_motif_sites_of_the_text_s_own_fasta_are_found_by_their_coordinates(tiny_data, tmp_path, records, inside):
    config = experiment(tmp_path, [tiny_data / "genome.fa"], records=records, **motif_sites(tiny_data, 100))
    (part,) = measure_overlap(config.data, open_text(config)[0])
    assert (part.name, part.count, part.shared) == ("motif sites", 40, inside)
    assert "by their coordinates" in str(part)
    config.data.hide = "evaluation"
    (part,) = measure_overlap(config.data, open_text(config)[0])
    assert part.shared == 0 and "80 bases in a row" in str(part)


def test_motif_sites_are_found_in_the_genome_of_several_that_they_are_of(tiny_data, tmp_path):
    other = write_fasta(tmp_path / "other.fa", {"tiny3": random_bases(np.random.default_rng(0), 500)})
    motifs = motif_sites(tiny_data, 100) | {"corpus": "multi_species"}
    for fasta, inside in (([other], 0), ([other, tiny_data / "genome.fa"], 40)):
        config = experiment(tmp_path, fasta, **motifs)
        (part,) = measure_overlap(config.data, open_text(config)[0])
        assert (part.count, part.shared) == (40, inside)
