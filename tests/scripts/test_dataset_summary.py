"""The report on training files: every fault planted in a copy is counted."""

import re

import numpy as np
from conftest import NEGATIVE, POSITIVE, put, random_bases

from data.summary import check_training


def test_every_fault_planted_in_a_copy_is_counted_in_its_report(tmp_path):
    rng, motif = np.random.default_rng(0), {"donor": "GT", "acceptor": "AG"}
    files = {
        f"{site} {label}": [put(random_bases(rng, 160), 80 if site == "donor" else 78, motif[site]) for _ in range(20)]
        for label in ("positive", "negative")
        for site in motif
    }
    files["donor positive"][0] = put(files["donor positive"][0], 80, "GC")
    files["donor positive"][3] = files["donor positive"][4]  # a repeat
    files["donor negative"][0] = files["donor positive"][9]  # the same bases under both labels
    centre = files["acceptor positive"][7][20:140]  # the central 120 nt alone
    files["acceptor negative"][8] = put(files["acceptor negative"][8], 20, centre)
    files["acceptor negative"][9] = files["donor negative"][5]  # of another site type: no conflict, yet alike
    for name, windows in files.items():
        site, label = name.split()
        path = tmp_path / (POSITIVE if label == "positive" else NEGATIVE).format(site)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{site}_{i}_X;{bases};x\n" for i, bases in enumerate(windows)))
    report = check_training(tmp_path / "spliceator", 120)
    rows = {line[:17].strip(): line.split()[2:] for line in report.splitlines() if line.startswith(tuple(files))}
    assert rows["donor positive"] == ["20", "10973", "19", "1", "1", "3"]  # GT, repeats, conflicts, near-duplicates
    assert rows["donor negative"] == ["20", "11000", "20", "0", "1", "2"]
    assert rows["acceptor positive"] == ["20", "11179", "20", "0", "1", "1"]
    assert rows["acceptor negative"] == ["20", "11000", "19", "0", "1", "2"]
    assert "NOT those published" in report
    assert 0 < float(re.search(r"both ([\d.]+)%", report)[1]) < 10 * 100 / 80  # at most the eight alike
