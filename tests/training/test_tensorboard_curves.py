"""What TensorBoard shows of a stage follows its metrics, through stops and resumes."""

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from simcsp.training.tensorboard import open_folder


def open_run(folder, shown=True):
    run = open_folder(folder / "stage", {"name": "x"}, {}, "cpu", shown)
    run.begin()
    return run


def scalars(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_rewinding_forgets_later_rows_here_and_in_tensorboard(tmp_path):
    run = open_run(tmp_path)
    for step in (1, 2, 3, 4):
        run.record(step, {"train/loss": step / 8})
    run.close()
    run = open_run(tmp_path)
    run.rewind(2)
    run.record(3, {"train/loss": 0.0})
    run.close()
    expected = [(1, 0.125), (2, 0.25), (3, 0.0)]
    assert [(row["step"], row["train/loss"]) for row in run.metrics()] == expected
    assert scalars(run.path) == {"train/loss": expected}
    run.rewind(-1)
    run.close()
    assert run.metrics() == [] and scalars(run.path) == {}


def test_pictures_stay_with_the_steps_that_are_kept_and_floors_are_no_curves(tmp_path):
    run = open_run(tmp_path)
    run.record(0, {"floor/sccs_gc": 0.1})
    for step in (0, 5, 10):
        run.record(step, {"val/sccs": step / 100, "train/loss": 1.0})
        run.view.picture(step, {"cosine": np.linspace(-1, 1, 50) * step / 10})
    run.close()
    run = open_run(tmp_path)
    run.rewind(5)
    run.close()
    events = EventAccumulator(str(run.path), size_guidance={"histograms": 0})
    events.Reload()
    assert [event.step for event in events.Histograms("cosine")] == [0, 5]
    assert set(scalars(run.path)) == {"val/sccs", "train/loss"}


def test_a_run_without_events_writes_the_rest(tmp_path):
    run = open_run(tmp_path, shown=False)
    run.record(1, {"train/loss": 0.5})
    run.view.picture(1, {"cosine": np.zeros(3)})
    run.rewind(1)
    run.finish({"metrics": {"train/loss": 0.5}}, {"lr": 1e-4})
    assert len(run.metrics()) == 1 and not list(run.path.glob("events*"))


def test_settings_of_a_finished_stage_add_no_points_of_their_own(tmp_path):
    run = open_run(tmp_path)
    run.finish({"metrics": {"val/sccs": 0.5, "p": None}}, {"lr": 1e-4, "arms": ["a"]})
    assert scalars(run.path) == {}  # HPARAMS reads the last point of the curves that it names
