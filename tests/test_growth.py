"""benchmarks/growth.py: that it measures what it says, at sizes that take seconds. Both are slow."""

import importlib.util

import numpy as np
import pytest
from conftest import ROOT

from utils.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def growth():
    spec = importlib.util.spec_from_file_location("growth", ROOT / "benchmarks/growth.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_report_is_timed_over_copied_folds_and_grows_no_faster_than_they_do(growth, finished, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in finished.run.rglob("*")}
    curve = growth.report_times(finished.run)
    assert {path: path.stat().st_mtime_ns for path in finished.run.rglob("*")} == before
    sizes, times = np.array(curve).T
    folds = len(list(finished.run.glob("finetune/*/*/seed0/fold*/summary.json")))
    assert sizes.tolist() == [folds * seeds for seeds in growth.SEEDS]
    assert (times > 0).all() and times[-1] / times[0] < 1.5 * sizes[-1] / sizes[0]
    with pytest.raises(InputError, match="holds no finished fold of seed 0"):
        growth.report_times(tmp_path)


def test_validation_is_timed_for_each_number_of_windows_and_all_is_drawn(growth, monkeypatch):
    monkeypatch.setattr(growth, "WINDOWS", (100, 400))
    curves = growth.validation_times()
    assert set(curves) == {"SCCS, all pairs", "SCCS, published pairs", "NMI"}
    assert all([size for size, _ in curve] == [100, 400] for curve in curves.values())
    assert growth.describe("report", [(10, 1.0), (20, 2.0), (40, 8.0)]).endswith("exponent 2.00 between the last two")
    flat = growth.describe("steps", [(i, 0.005) for i in range(2, 200)])
    assert flat == "median 5.00 ms in the first tenth, 5.00 ms in the last (ratio 1.000)"
    assert growth.slowing([(i, 0.005 if i < 150 else 0.006) for i in range(2, 200)]) == pytest.approx(1.2)
    figure = growth.draw({"steps": {"a step": [(i, 0.005) for i in range(200)]}, "validation": curves})
    assert [axis.get_title() for axis in figure.axes] == ["steps", "validation"]
