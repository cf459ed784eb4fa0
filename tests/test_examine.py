"""The report on a copy of Spliceator: every fault planted in a small set is counted in it."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import NEGATIVE, POSITIVE, put, random_bases

from utils.errors import InputError
from utils.examine import check_spliceator
from utils.spliceator import published_folds

N_WINDOWS, LENGTH = 20, 160
FILES = [
    (pattern.format(site), site, label)
    for pattern, label in ((POSITIVE, "positive"), (NEGATIVE, "negative"))
    for site in ("donor", "acceptor")
]


def make(seed=0):
    """{(site, label): windows} with GT / AG at the centre of all."""
    rng = np.random.default_rng(seed)
    at, motif = {"donor": LENGTH // 2, "acceptor": LENGTH // 2 - 2}, {"donor": "GT", "acceptor": "AG"}
    return {
        (site, label): [put(random_bases(rng, LENGTH), at[site], motif[site]) for _ in range(N_WINDOWS)]
        for _, site, label in FILES
    }


def write(folder, windows):
    for path, site, label in FILES:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(f"{site}_{i}_X;{bases};True\n" for i, bases in enumerate(windows[site, label])))
    return folder / "spliceator"


def row(report, start, after=""):
    """Cells of the first line that starts so, after a heading."""
    lines = report[report.index(after) :].splitlines()
    found = [line for line in lines if line.startswith(start)]
    assert found, (start, report)
    return found[0][len(start) :].split()


def test_a_clean_set_is_reported_clean_and_as_another_than_the_published(tmp_path):
    report = check_spliceator(write(tmp_path, make()), 100)
    assert "The numbers are NOT those published" in report
    assert row(report, "donor positive") == ["20", "10,973", "160", "GT", "100.0%"]
    assert row(report, "acceptor positive") == ["20", "11,179", "160", "AG", "100.0%"]
    assert row(report, "acceptor negative") == ["20", "11,000", "160", "AG", "100.0%"]
    assert row(report, "total") == ["80", "44,152"]
    assert "Class balance, share of splice sites: donor 50.0%; acceptor 50.0%." in report
    assert "Letters other than ACGT: none." in report
    assert "Exact duplicates: 0 of 80" in report
    assert row(report, "  identical windows") == ["0", "0"]
    assert row(report, "  donor positive") == ["0", "(0.0%)"] * 3
    assert row(report, "  both") == ["0.0%"] * 3
    assert report.endswith("\n") and all(line == line.rstrip() for line in report.splitlines())


def test_numbers_as_published_are_called_so(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.examine.PUBLISHED", {f"{site} {label}": N_WINDOWS for _, site, label in FILES})
    assert "The numbers are those published." in check_spliceator(write(tmp_path, make()), 100)


def test_bases_at_the_centre_and_class_balance_are_counted_by_file(tmp_path):
    windows = make()
    for i in range(5):
        windows["donor", "positive"][i] = put(windows["donor", "positive"][i], 80, "GC")
        windows["acceptor", "negative"][i] = put(windows["acceptor", "negative"][i], 78, "CC")
    windows["acceptor", "positive"] = windows["acceptor", "positive"][:10]
    report = check_spliceator(write(tmp_path, windows), 100)
    assert row(report, "donor positive")[3:] == ["GT", "75.0%", "GC", "25.0%"]
    assert row(report, "acceptor negative")[3:] == ["AG", "75.0%", "CC", "25.0%"]
    assert "donor 50.0%; acceptor 33.3%" in report


def test_letters_are_counted_by_window_and_those_that_training_refuses_are_said(tmp_path):
    windows = make()
    for i, letters in enumerate(("NN", "n", "RN", "E", "é")):
        windows["donor", "negative"][i] = put(windows["donor", "negative"][i], 5, letters)
    windows["donor", "positive"][0] = windows["donor", "positive"][0].lower()
    report = check_spliceator(write(tmp_path, windows), 100)
    refused = "(no nucleotide code: training refuses it)"
    line = f"Letters other than ACGT: 'E' in 1 window {refused}, 'N' in 3 windows, 'R' in 1 window, 'É' in 1 window"
    assert f"{line} {refused}." in report
    assert row(report, "donor positive")[3:] == ["GT", "100.0%"]


def test_duplicates_and_conflicts_are_counted_within_and_across_files(tmp_path):
    windows = make()
    windows["donor", "positive"][3] = windows["donor", "positive"][4]  # within a file
    windows["donor", "negative"][0] = windows["donor", "positive"][9]  # across labels: a conflict
    windows["acceptor", "negative"][:2] = windows["donor", "negative"][5:7]  # across site types: none
    centre = windows["acceptor", "positive"][7][20:140]  # the central 120 nt only
    windows["acceptor", "negative"][8] = put(windows["acceptor", "negative"][8], 20, centre)
    report = check_spliceator(write(tmp_path, windows), 120)
    assert "Exact duplicates: 4 of 80 windows" in report
    lines = [line for line in report.splitlines() if " within " in line or " in both " in line]
    assert lines == [
        "  1 within donor positive",
        "  1 in both donor positive and donor negative",
        "  2 in both donor negative and acceptor negative",
    ]
    assert row(report, "  identical windows") == ["2", "0"]
    assert row(report, "  identical central 120 nt") == ["2", "2"]
    assert row(check_spliceator(tmp_path / "spliceator", 122), "  identical central 122 nt") == ["2", "0"]


def test_near_duplicates_are_counted_by_file_type_and_place_and_parted_by_the_published_folds(tmp_path):
    windows, rng = make(), np.random.default_rng(1)

    def like(bases):
        return bases[:90] + random_bases(rng, LENGTH - 90)

    for i in range(4):
        windows["donor", "positive"][i] = like(windows["donor", "positive"][10 + i])
    for i in range(3):
        windows["donor", "negative"][i] = like(windows["donor", "positive"][16 + i])
    windows["acceptor", "negative"][0] = like(windows["acceptor", "positive"][0])
    windows["acceptor", "negative"][1] = like(windows["donor", "negative"][9])
    report = check_spliceator(write(tmp_path, windows), 100)
    expected = {
        "donor positive": (8, 11, 11),
        "acceptor positive": (0, 1, 1),
        "donor negative": (0, 3, 4),
        "acceptor negative": (0, 1, 2),
    }
    for name, counts in expected.items():
        cells = [cell for count in counts for cell in (str(count), f"({count / 20:.1%})")]
        assert row(report, f"  {name}", "Near-duplicates: ") == cells
    for site in ("donor", "acceptor", "both"):
        kinds = itertools.product(("positive", "negative"), ("donor", "acceptor") if site == "both" else (site,))
        mine = [(label, bases) for label, kind in kinds for bases in windows[kind, label]]
        kmers = [{bases[i : i + 80] for i in range(LENGTH - 79)} for _, bases in mine]
        shares = []
        for fold in published_folds(np.array([label == "positive" for label, _ in mine]).astype(int)):
            trained = set().union(*(kmers[i] for i in fold["train"]))
            found = [(mine[i][0], bool(kmers[i] & trained)) for i in fold["test"]]
            shares.append(
                [
                    np.mean([hit for label, hit in found if label in wanted])
                    for wanted in (("positive",), ("negative",), ("positive", "negative"))
                ]
            )
        cells = row(report, f"  {site}  ", "parted by the published folds")
        assert cells == [f"{share:.1%}" for share in np.mean(shares, axis=0)]
        assert cells[2] != "0.0%" or site == "acceptor"


def test_a_part_of_the_set_too_small_for_the_published_folds_is_still_reported(tmp_path):
    windows = make()
    windows["donor", "negative"] = windows["donor", "negative"][:9]
    report = check_spliceator(write(tmp_path, windows), 100)
    assert "too few windows for ten folds." in report
    assert row(report, "donor negative")[0] == "9"


def test_windows_of_several_lengths_are_reported_and_compared_about_the_centre(tmp_path):
    windows = make()
    windows["donor", "negative"] = [bases[10:-10] for bases in windows["donor", "negative"]]
    windows["donor", "negative"][0] = windows["donor", "positive"][0][10:-10]
    windows["donor", "negative"][1] = windows["donor", "positive"][1]
    report = check_spliceator(write(tmp_path, windows), 100)
    assert row(report, "donor negative") == ["20", "11,000", "140", "to", "160", "GT", "100.0%"]
    assert row(report, "  identical windows") == ["4", "0"]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_text(""), "holds no window"),
        (lambda path: path.write_text("<html><head>Not found</head></html>\n"), "line 1: expected `id;sequence`"),
        (
            lambda path: path.write_text(f"a;{'ACGT' * 30};x\nb;{'ACGT' * 25};x\n"),
            "line 2: window of 100 nt is shorter",
        ),
    ],
    ids=["missing", "empty", "html", "short"],
)
def test_files_that_hold_no_windows_are_refused_by_name(tmp_path, damage, message):
    folder = write(tmp_path, make())
    damage(tmp_path / POSITIVE.format("acceptor"))
    with pytest.raises(InputError, match=f"POS_acceptor_600.csv.*{message}"):
        check_spliceator(folder, 120)


@pytest.mark.skipif(not os.environ.get("SIMCSP_REAL_DATA"), reason="SIMCSP_REAL_DATA is not set")
def test_real_windows_are_reported_as_they_are():
    report = check_spliceator(Path(os.environ["SIMCSP_REAL_DATA"]) / "spliceator")
    assert row(report, "total") == ["25,600", "44,152"]
    for name in ("donor positive", "acceptor positive", "donor negative", "acceptor negative"):
        cells = row(report, name)
        assert cells[0] == "6,400" and cells[3] == ("GT" if name.startswith("donor") else "AG")
        assert float(cells[4].rstrip("%")) > 98
        _, same_file, *_ = row(report, f"  {name}", "Near-duplicates: ")
        assert (10 < float(same_file.strip("(%)")) < 20) == name.endswith("negative")
    donor, acceptor, both = (row(report, f"  {site}  ", "parted by")[2] for site in ("donor", "acceptor", "both"))
    assert all(5 < float(share.rstrip("%")) < 15 for share in (donor, acceptor, both))
