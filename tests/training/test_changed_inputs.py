"""What a stopped command has read is changed before it goes on: refused in one line that names the file, and nothing on
disk moves; put back, the work goes on to what a run never stopped gives."""

import contextlib
import shutil

import pytest
from conftest import POSITIVE, Crash, assert_same_run, crash, motif_settings, refusal, tiny_config, write_species
from safetensors.torch import load_file, save_file
from test_bases import annotated, config_file  # noqa: F401

import evaluate
import finetune
import pretrain
from simcsp.model.checksums import write_checksums
from simcsp.training import bases, finetuning, pretraining_run, search


@pytest.fixture
def data(own_data, start):
    """A folder that a test may change: the tiny data, an annotated genome sp.fa, sp.gtf, and a checkpoint."""
    write_species(own_data, "sp", 3)
    shutil.copytree(start, own_data / "start")
    return own_data


def of_species(data, **changes):
    """Changes for `tiny_config`: pre-training, or floors, on the annotated genome, from the checkpoint."""
    own = {"data.fasta": [str(data / "sp.fa")], "data.annotation": [str(data / "sp.gtf")], "data.records": None}
    return own | {"model.source": str(data / "start"), "mlm.steps": 0} | changes


def swapped(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new))


def without_last_lines(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-4]))


def other_weights(folder):
    weights = {name: values + 0.01 for name, values in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    write_checksums(folder)


TEXT = {"sp.fa": swapped("GTAAGT", "GTAAGA"), "sp.gtf": without_last_lines}
WINDOWS, START = {POSITIVE.format("donor"): swapped("CAGGTAAGT", "CAGGTAAGA")}, {"start": other_weights}


@contextlib.contextmanager
def changed(path, how):
    kept = path.with_name(f"{path.name}.kept")
    (shutil.copytree if path.is_dir() else shutil.copyfile)(path, kept)
    how(path)
    try:
        yield
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        kept.rename(path)


def contents(folder):
    """{file: bytes}, but for a search's journal, to which every start adds a line."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".journal"}


@pytest.fixture
def assert_refused(call, capsys):
    """assert_refused(run, script, words, {file: how it is changed}): each is refused by name, and the run stays."""

    def check(run, script, words, changes):
        before = contents(run)
        for path, how in changes.items():
            with changed(path, how):
                line = refusal(call, capsys, script, *words)
            named = str(path).partition("/Training_data")[0] if path.suffix != ".yaml" else "lr was 0.00"
            assert named in line and contents(run) == before, (path, line)

    return check


def below(folder, changes):
    return {folder / name: how for name, how in changes.items()}


def stopped(call, monkeypatch, place, script, words):
    with monkeypatch.context() as patch:
        patch.setattr(*place, crash)
        with pytest.raises(Crash):
            call(script, *words)


@pytest.mark.parametrize("objective", ["supcon", "simcse"])
def test_pre_training(data, call, monkeypatch, assert_refused, objective):
    """supcon: of the annotated sites; simcse: masked about sites."""
    own = {"pretrain.objective": objective, "pretrain.steps": 4, "data.corpus": "annotated"} | motif_settings(data)
    changes = TEXT | WINDOWS | START | {"motifs.bed": without_last_lines}
    changes["tiny.yaml"] = swapped("lr: 0.001", "lr: 0.002")
    if objective == "simcse":
        own |= {"data.corpus": "fasta", "pretrain.mlm_weight": 0.1, "pretrain.masking": "sites"}
        changes = {"sp.gtf": without_last_lines}
    config = tiny_config(data, data, of_species(data, **own))
    call(pretrain, config, "--name", "whole")
    stopped(call, monkeypatch, (pretraining_run.PretrainingRun, "finish"), pretrain, [config])
    assert_refused(data / "runs", pretrain, [config], below(data, changes))
    call(pretrain, config)
    assert_same_run(data / "runs/tiny/pretrain", data / "runs/whole/pretrain")


def test_fine_tuning(data, call, monkeypatch, assert_refused):
    own = {"pretrain.steps": 0, "finetune.arms": ["annotation", "baseline"], "finetune.folds": [0], "report": False}
    config = tiny_config(data, data, of_species(data, **own, **{"finetune.max_epochs": 2}))
    call(finetune, config, "--name", "whole")
    stopped(call, monkeypatch, (finetuning, "score_fold"), finetune, [config])
    changes = TEXT | WINDOWS | START | {"tiny.yaml": swapped("lr: 0.003", "lr: 0.002")}
    assert_refused(data / "runs", finetune, [config], below(data, changes))
    call(finetune, config)
    fold = "finetune/{}/both/seed0/fold00"
    for arm in ("annotation", "baseline"):
        one, other = (data / "runs" / name / fold.format(arm) / "predictions.csv" for name in ("tiny", "whole"))
        assert one.read_bytes() == other.read_bytes()


def test_models_of_bases(annotated, call, tmp_path, monkeypatch, assert_refused):  # noqa: F811
    fasta, table = (shutil.copy(path, tmp_path) for path in annotated[:2])
    config = config_file(tmp_path, (fasta, table), steps=4, eval_steps=2)
    call(finetune, config, "--name", "whole")
    stopped(call, monkeypatch, (bases, "finish"), finetune, [config])
    changes = {"genome.fa": swapped("GTAAGT", "GTAAGA"), "introns.tsv": without_last_lines}
    changes["bases.yaml"] = swapped("steps: 4", "lr: 0.002\n  steps: 4")
    assert_refused(tmp_path / "runs", finetune, [config], below(tmp_path, changes))
    call(finetune, config)
    fold = "finetune/cnn/bases/seed0/fold00"
    assert_same_run(tmp_path / "runs/bases" / fold, tmp_path / "runs/whole" / fold)


def test_relating_checkpoints_to_fine_tuning(finished, data, tmp_path, call, monkeypatch, assert_refused):
    run = shutil.copytree(finished.run, tmp_path / "runs/tiny")
    own = motif_settings(data) | {"finetune.folds": [0], "finetune.max_epochs": 1}
    words = ["relate", run, tiny_config(tmp_path, data, own)]
    stopped(call, monkeypatch, (finetuning, "score_fold"), evaluate, words)
    changes = below(data, WINDOWS | {"motifs.bed": without_last_lines})
    changes[tmp_path / "tiny.yaml"] = swapped("lr: 0.003", "lr: 0.002")
    changes[run / "pretrain/checkpoints/last"] = other_weights
    assert_refused(run, evaluate, words, changes)


@pytest.mark.parametrize("script", [pretrain, finetune])
def test_a_search(data, call, monkeypatch, assert_refused, script):
    stage = script.__name__
    own = {"search.trials": 2, "search.space": {f"{stage}.batch_size": {"choices": [4, 8]}}, "pretrain.steps": 3}
    if stage == "finetune":
        own |= {"pretrain.steps": 0, "finetune.arms": ["baseline"], "finetune.folds": [0], "finetune.max_epochs": 1}
    config = tiny_config(data, data, of_species(data, **own))
    with monkeypatch.context() as patch:
        patch.setattr(search, "take_over", lambda study, config: len(study.trials) and crash())
        with pytest.raises(Crash):
            call(script, config)
    changes = WINDOWS | START | {"tiny.yaml": swapped("lr: 0.00", "lr: 0.000")}
    changes |= {"sp.fa": TEXT["sp.fa"]} if stage == "pretrain" else {}
    assert_refused(data / "runs", script, [config], below(data, changes))
    call(script, config)
    assert (data / "runs/tiny/search/best.yaml").is_file()
    call(script, config, "--search.trials", "3")
    assert (data / "runs/tiny/search/trial0002").is_dir()
