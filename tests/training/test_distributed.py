"""Several processes share a batch: loss, gradients and weights are those of one process, and of plain code."""

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import ROOT, assert_same_run, random_bases, tiny_config
from test_gradcache import ALL, build_model
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

import finetune
import pretrain
from simcsp.core.config import PretrainConfig
from simcsp.core.device import dropout_seed, set_seed
from simcsp.core.run_folder import read_metrics
from simcsp.text.alphabet import add_special_tokens, encode
from simcsp.text.kmers import near_duplicates
from simcsp.training.masking import IGNORED, choose_random, corrupt
from simcsp.training.pretraining import Training, freeze_unused, share_gradients
from simcsp.training.processes import Processes, processes_of
from simcsp.training.step import Learner, MiniBatches, draw_batch, step_loss
from simcsp.training.views import shifted
from utils.script import run_script

ROWS, LENGTH = 8, 40
EQUAL = 1e-9  # of losses, and of a gradient's norm; in float64
CLASSES = np.array([0, 1, 2, 3, 0, 1, 2, 0])  # the fourth is alone in its class

RECIPES = {"simcse": {}, "mlm": {"objective": "mlm"}, "sum": {"mlm_weight": 0.3}, "all": ALL}
RECIPES |= {objective: {"objective": objective} for objective in ("supcon", "classify")}
SIZES = (None, 3)  # of mini-batches; a process of two has four windows
EVERY = [(name, size) for name in RECIPES for size in SIZES]


def stage_of(name, **changes):
    return PretrainConfig(temperature=0.2, **RECIPES[name], **changes)


def windows(shift=0, seed=0):
    """Windows of which those of even number share half with the next one, and so do the last and the first."""
    bases = encode(random_bases(np.random.default_rng(seed), (ROWS + 2) * LENGTH))
    rows = [bases[i * LENGTH + (i % 2 == 0) * LENGTH // 2 :][: LENGTH + 2 * shift] for i in range(ROWS)]
    rows[-1] = np.concatenate([rows[0][10:], rows[-1][:10]])
    return np.stack(rows)


def build_learner(stage, dropout=0.0):
    return Learner(build_model(dropout), "mean", stage.objective, stage.projection_head).double().train()


def gradients_of(module):
    names = ((name.split("learner.")[-1], p.grad) for name, p in module.named_parameters())
    return {name: gradient.clone() for name, gradient in names if gradient is not None}


def one_step(accelerator, name, size=None, wrap=share_gradients):
    """{'loss', 'accuracy', 'gradients'} of one step from fixed seeds, of the whole batch."""
    stage, processes = stage_of(name, mini_batch_size=size), processes_of(accelerator)
    learner = build_learner(stage)
    freeze_unused(learner, stage)
    module = wrap(MiniBatches(learner, size), accelerator)
    rng, ids = np.random.default_rng(5), windows(stage.max_shift)
    loss, accuracy = step_loss(module, stage, draw_batch(stage, ids, rng, None, CLASSES, processes), processes)
    loss.backward()
    of_all = float(processes.average(loss.detach())), float(processes.average(accuracy))
    return dict(zip(("loss", "accuracy"), of_all)) | {"gradients": gradients_of(module)}


def difference(found, wanted):
    """The larger of the losses' difference and that of any parameter's gradient relative to all of them."""
    assert found["gradients"].keys() == wanted["gradients"].keys() and wanted["gradients"]
    whole = torch.cat([gradient.flatten() for gradient in wanted["gradients"].values()]).norm()
    worst = max((found["gradients"][name] - g).norm() / whole for name, g in wanted["gradients"].items())
    return max(float(worst), abs(found["loss"] - wanted["loss"]))


# -- the same in plain code --------------------------------------------------------------------------------------------


def plain_step(name):
    """{'loss', 'gradients'} of a whole batch, by loops over windows and no line of the step's own code."""
    stage = stage_of(name)
    learner, rng, ids = build_learner(stage), np.random.default_rng(5), windows(stage.max_shift)
    loss = 0.0
    if stage.objective == "mlm" or stage.mlm_weight:  # its bases are drawn first
        tokens = add_special_tokens(ids[:, stage.max_shift : ids.shape[1] - stage.max_shift])
        shown, targets = corrupt(tokens, choose_random(tokens, 0.15, rng), rng)
        terms = []
        for row, asked in zip(shown, targets):
            scores = learner.model(input_ids=torch.from_numpy(row[None]).int()).logits[0].log_softmax(dim=-1)
            terms += [-scores[i, base] for i, base in enumerate(asked) if base != IGNORED]
        loss = (stage.mlm_weight or 1.0) * sum(terms) / len(terms)
    if stage.objective in ("supcon", "classify"):
        loss = loss + plain_of_classes(learner, shifted(ids, stage.max_shift, rng)[0], stage)
    elif stage.objective != "mlm":
        loss = loss + plain_contrast(learner, ids, stage, rng)
    loss.backward()
    gradients = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    return {"loss": float(loss.detach()), "gradients": gradients}


def plain_vector(learner, row):
    states = learner.model.bert(input_ids=torch.from_numpy(add_special_tokens(row[None])).int()).last_hidden_state
    return learner.head(states[0, 1:-1].mean(dim=0))


def cosine(left, right):
    return (left @ right) / (left.norm() * right.norm())


def plain_contrast(learner, ids, stage, rng):
    """InfoNCE or its decoupled form: each window's first view against the second ones."""
    middle = ids[:, stage.max_shift : ids.shape[1] - stage.max_shift]
    views = [[plain_vector(learner, row) for row in shifted(ids, stage.max_shift, rng)[0]] for _ in range(2)]
    alike, terms = near_duplicates(middle), []
    for i in range(ROWS):
        scores, positive = [], cosine(views[0][i], views[1][i]) / stage.temperature
        for j in range(ROWS):
            if i != j and stage.skip_near_duplicates and alike[i, j]:
                continue
            if i != j or stage.objective == "simcse":
                scores.append(cosine(views[0][i], views[1][j]) / stage.temperature)
        terms.append(torch.stack(scores).exp().sum().log() - positive)
    return sum(terms) / len(terms)


def plain_of_classes(learner, rows, stage):
    vectors, terms = [plain_vector(learner, row) for row in rows], []
    if stage.objective == "classify":
        return sum(-vector.log_softmax(dim=0)[kind] for vector, kind in zip(vectors, CLASSES)) / ROWS
    for i in range(ROWS):
        scores = {j: cosine(vectors[i], vectors[j]) / stage.temperature for j in range(ROWS) if j != i}
        total = torch.stack(list(scores.values())).exp().sum().log()
        of_class = [total - score for j, score in scores.items() if CLASSES[j] == CLASSES[i]]
        terms += [sum(of_class) / len(of_class)] if of_class else []
    return sum(terms) / len(terms)


# -- fifty steps, and a state in the middle ----------------------------------------------------------------------------


def begin(accelerator):
    stage = stage_of("sum", batch_size=ROWS, steps=50, warmup_steps=5, lr=1e-2)
    return Training(build_model(0.0), "mean", stage, accelerator)


def go_on(training, until):
    """To a step; returns the weights and the losses since the last call."""
    while training.step < until:
        if training.processes.count > 1:
            set_seed(dropout_seed(1, training.step, training.processes.rank))
        training.advance(training.draw(windows(seed=training.step), np.random.default_rng([0, 3, training.step])))
    weights = {name: value.detach().clone() for name, value in training.model.state_dict().items()}
    return {"weights": weights, "loss": training.means()["train/loss"]}


def farthest(found, wanted):
    assert found["weights"].keys() == wanted["weights"].keys()
    return max(float((found["weights"][name] - value).abs().max()) for name, value in wanted["weights"].items())


# -- what two processes compute ----------------------------------------------------------------------------------------


def counted(module, accelerator, sizes):
    """Module whose reductions leave their number of elements in `sizes`."""

    def hook(state, bucket):
        sizes.append(bucket.buffer().numel())
        return allreduce_hook(state, bucket)

    shared = share_gradients(module, accelerator)
    shared.register_comm_hook(None, hook)
    return shared


def of_two(rank, port, folder):
    """All that one of two processes has to say, in folder/RANK.pt."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    AcceleratorState._reset_state(reset_partial_state=True)  # of the process that this one is a copy of
    accelerator = Accelerator(cpu=True)
    assert (accelerator.num_processes, accelerator.process_index) == (2, rank)
    said = {"steps": {case: one_step(accelerator, *case) for case in EVERY}, "sizes": {}}
    for size in (None, 1):
        said["sizes"][size] = []
        one_step(accelerator, "sum", size, functools.partial(counted, sizes=said["sizes"][size]))
    said["masks"] = [masks(rank), masks(0)]
    training = begin(accelerator)
    said["half"] = go_on(training, 25)
    if rank == 0:
        torch.save(training.state(), folder / "half of two.pt")
    said["whole"] = go_on(training, 50)
    training = begin(accelerator)
    training.load(torch.load(folder / "half.pt", weights_only=True))
    said["from one"] = go_on(training, 50)
    torch.save(said, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def masks(rank):
    """Vectors of one window under the dropout of a process."""
    learner = build_learner(stage_of("simcse"), dropout=0.2)
    set_seed(dropout_seed(1, 0, rank))
    return learner(torch.from_numpy(add_special_tokens(windows()[:1])).int()).detach()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of the same, with its state in the middle."""
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_default_dtype(torch.float64)
    accelerator = Accelerator(cpu=True)
    said = {"steps": {case: one_step(accelerator, *case) for case in EVERY}}
    training = begin(accelerator)
    said["half"] = go_on(training, 25)
    said["folder"] = tmp_path_factory.mktemp("processes")
    torch.save(training.state(), said["folder"] / "half.pt")
    said["whole"] = go_on(training, 50)
    yield said
    torch.set_default_dtype(torch.float32)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def two(alone):
    """What each of two processes has to say: started once, as copies of this one, which has imported all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = alone["folder"]
    torch.multiprocessing.start_processes(of_two, (port, folder), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_loss_accuracy_and_gradients_are_those_of_one_process_and_of_plain_code(alone, two, case):
    wanted, by_loops = alone["steps"][case], plain_step(case[0])
    for found in (said["steps"][case] for said in two):
        assert difference(found, wanted) < EQUAL and difference(found, by_loops) < EQUAL
        assert found["accuracy"] == pytest.approx(wanted["accuracy"], abs=1e-12)


def test_every_process_has_dropout_masks_of_its_own(two):
    """Each says what it makes of one window, and what it would make of it were all seeded as the first."""
    (first, _), (second, as_first) = (said["masks"] for said in two)
    assert not torch.allclose(first, second, rtol=1e-3)
    assert torch.equal(first, as_first)


def test_gradients_travel_once_a_step_whatever_the_mini_batches(two):
    for said in two:
        parameters = sum(p.numel() for p in build_learner(stage_of("sum")).parameters())
        assert sum(said["sizes"][None]) == sum(said["sizes"][1]) == parameters


def test_fifty_steps_lead_to_the_same_weights(alone, two):
    assert farthest(alone["half"], alone["whole"]) > 0.01
    for said in two:
        for part in ("half", "whole"):
            assert farthest(said[part], alone[part]) < 1e-6
            assert said[part]["loss"] == pytest.approx(alone[part]["loss"], abs=1e-6)


def test_two_go_on_from_the_state_of_one_and_one_from_that_of_two(alone, two):
    for said in two:
        assert farthest(said["from one"], alone["whole"]) < 1e-6
    training = begin(Accelerator(cpu=True))
    training.load(torch.load(alone["folder"] / "half of two.pt", weights_only=True))
    assert training.step == 25
    assert farthest(go_on(training, 50), alone["whole"]) < 1e-6


@pytest.mark.parametrize("rank", range(4))
def test_a_process_draws_for_its_rows_what_one_alone_draws_for_all(rank):
    """Floats, bases and numbers of which some are drawn again (of 3 and of 7), one after the other."""
    alone, shared, own = np.random.default_rng(7), np.random.default_rng(7), slice(3 * rank, 3 * rank + 3)
    draws = Processes(rank, 4).draws(shared, 12)
    for _ in range(3):
        assert (draws.random((3, 7)) == alone.random((12, 7))[own]).all()
        for low, high in ((2, 6), (1, 4)):
            found = draws.integers(low, high, size=(3, 7), dtype=np.uint8)
            assert (found == alone.integers(low, high, size=(12, 7), dtype=np.uint8)[own]).all()
        assert (draws.integers(0, 6, size=3, endpoint=True) == alone.integers(0, 6, size=12, endpoint=True)[own]).all()
    assert shared.bit_generator.state == alone.bit_generator.state


# -- the scripts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script, flags, words",
    [
        (pretrain, ["--pretrain.batch_size", 9], ["pretrain.batch_size (9)", "2 processes", "multiple"]),
        (pretrain, ["--mlm.batch_size", 5], ["mlm.batch_size (5)", "2 processes", "multiple"]),
        (pretrain, ["--search.trials", 3], ["search.trials", "CUDA_VISIBLE_DEVICES"]),
        (pretrain, ["--dry-run"], ["--dry-run", "with python"]),
        (finetune, [], ["one of 2 processes", "--workers", "--finetune.folds"]),
    ],
)
def test_what_processes_cannot_share_is_refused_in_one_line(
    tiny_data, tmp_path, call, capsys, monkeypatch, script, flags, words
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    config, together = tiny_config(tmp_path, tiny_data), script is pretrain
    with pytest.raises(SystemExit) as exit:
        run_script(lambda: call(script, config, *flags), together)
    line = capsys.readouterr().err
    assert exit.value.code == 2 and line.count("\n") == 1 and all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node")
ACCELERATE = ("accelerate.commands.launch", "--cpu", "--num_machines", "1", "--num_processes")


def launch(config, launcher=TORCHRUN):
    """pretrain.py in two processes, in a session of their own; its output goes to launch.log beside the config."""
    command = [sys.executable, "-m", *launcher, "2", str(ROOT / "pretrain.py"), str(config)]
    log = open(config.parent / "launch.log", "w", encoding="utf-8")
    return subprocess.Popen(command, cwd=config.parent, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def lines_of(config):
    return (config.parent / "launch.log").read_text().splitlines()


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


NO_DROPOUT = {"model.hidden_dropout_prob": 0.0, "model.attention_probs_dropout_prob": 0.0, "pretrain.control": True}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_a_run_of_two_processes_is_that_of_one(tiny_data, tmp_path, call, launcher):
    stages = ("mlm", "pretrain", "control")
    call(pretrain, tiny_config(tmp_path / "one", tiny_data, NO_DROPOUT))
    config = tiny_config(tmp_path / "two", tiny_data, NO_DROPOUT)
    assert launch(config, launcher).wait(300) == 0, lines_of(config)
    for stage in stages:
        one, two = (tmp_path / name / "runs/tiny" / stage for name in ("one", "two"))
        files, of_two = (sorted(path.name.split(".")[0] for path in run.rglob("*")) for run in (one, two))
        assert files == of_two
        for row, wanted in zip(read_metrics(two), read_metrics(one), strict=True):
            scores = {key: value for key, value in wanted.items() if key.startswith(("train/loss", "val/"))}
            assert {key: row[key] for key in scores} == pytest.approx(scores, abs=1e-3)
    assert len([line for line in lines_of(config) if line.startswith("pretrain: simcse")]) == 1  # one speaks for both


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_going_on_is_exact(tiny_data, tmp_path):
    changes = {"mlm.steps": 0, "pretrain.steps": 100, "pretrain.eval_steps": 50}
    straight, config = (tiny_config(tmp_path / name, tiny_data, changes) for name in ("straight", "stopped"))
    assert launch(straight).wait(300) == 0
    stage = config.parent / "runs/tiny/pretrain"
    started = launch(config)
    until(lambda: read_metrics(stage) and read_metrics(stage)[-1]["step"] >= 10)
    ranks = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text(encoding="utf-8").split()
    assert len(ranks) == 2
    os.kill(int(ranks[1]), signal.SIGTERM)
    assert started.wait(60) != 0
    said = [line for line in lines_of(config) if "rerun the same command to resume" in line]
    assert len(said) == 1 and "stopped at step" in said[0]
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    assert launch(config).wait(300) == 0
    assert any("resumed at step" in line for line in lines_of(config))
    assert_same_run(stage, straight.parent / "runs/tiny/pretrain")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_all_end_when_one_is_killed(tiny_data, tmp_path, rank):
    config = tiny_config(tmp_path, tiny_data, {"mlm.steps": 0, "pretrain.steps": 3000, "pretrain.eval_steps": 1000})
    started = launch(config)
    stage = tmp_path / "runs/tiny/pretrain"
    until(lambda: read_metrics(stage) and read_metrics(stage)[-1]["step"] >= 4)
    ranks = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text(encoding="utf-8").split()
    os.kill(int(ranks[rank]), signal.SIGKILL)
    assert started.wait(60) != 0
    assert not any(Path(f"/proc/{number}").exists() for number in ranks)
    assert not any("Traceback" in line for line in lines_of(config)[: first_of_torchrun(lines_of(config))])


def first_of_torchrun(lines):
    return next(i for i, line in enumerate(lines) if "torch/distributed/elastic" in line)


@pytest.mark.slow
def test_an_error_of_the_first_ends_all_with_its_line(tiny_data, tmp_path):
    config = tiny_config(tmp_path, tiny_data, {"mlm.steps": 0})
    (tmp_path / "runs/tiny/pretrain/metrics.jsonl").mkdir(parents=True)
    assert launch(config).wait(120) != 0
    said = [line for line in lines_of(config) if "pretrain.py: error: " in line]
    assert len(said) == 1 and "a folder is where a file is needed" in said[0]
