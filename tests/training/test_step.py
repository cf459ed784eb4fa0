"""One step of pre-training: two dropout passes, views, negatives, the masked copy, and the projection head."""

import numpy as np
import pytest
import torch
from conftest import SMALL, assert_same_run, fresh, random_bases, refusal, summary_of, tiny_config, write_species
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM

import pretrain
from simcsp.core.config import PretrainConfig
from simcsp.core.device import build_accelerator
from simcsp.model.encoder import set_pooling, window_vectors
from simcsp.text.alphabet import CLS, SEP, add_special_tokens, encode
from simcsp.training.masking import IGNORED, choose_random, corrupt
from simcsp.training.objectives import info_nce
from simcsp.training.pretraining import Training, freeze_unused
from simcsp.training.step import Learner, MiniBatches, draw_batch, step_loss


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = SMALL | {"num_hidden_layers": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForMaskedLM(BertConfig(vocab_size=10, **sizes))


def bases(n=8, length=40):
    rng = np.random.default_rng(0)
    return np.stack([encode(random_bases(rng, length)) for _ in range(n)])


def loss_of(model, ids, seed=0, choose=None, **settings):
    stage = PretrainConfig(**settings)
    learner = MiniBatches(Learner(model, "mean", stage.objective, stage.projection_head))
    return float(step_loss(learner, stage, draw_batch(stage, ids, np.random.default_rng(seed), choose))[0].detach())


@pytest.mark.parametrize("objective", ["mlm", "simcse"])
def test_windows_of_varying_length_begin_at_varying_positions_within_those_of_the_encoder(model, objective):
    model.config.max_position_embeddings, ids, seen = 40, bases(6, 34), []
    model.bert.embeddings.register_forward_pre_hook(
        lambda module, args, given: seen.append((given["input_ids"], given["position_ids"])), with_kwargs=True
    )
    for seed in range(60):
        loss_of(model, ids, seed, objective=objective, min_window=20, max_shift=3, mlm_weight=0.1, mlm_probability=0.01)
    lengths, begins = set(), set()
    for tokens, positions in seen:
        shown = tokens[:, 1:-1].numpy()
        lengths.add(shown.shape[1])
        begins.add(int(positions[0, 0]))
        assert positions.tolist() == [list(range(positions[0, 0], positions[0, 0] + tokens.shape[1]))]
        assert positions.max() < 40
        if objective == "mlm":
            cut = (34 - shown.shape[1]) // 2
            assert (shown == ids[:, cut : 34 - cut]).mean() > 0.9
    assert lengths == {20, 22, 24, 26, 28} and {0, 1, 10} <= begins and max(begins) > 13


def test_shifted_views_are_text_about_the_window_and_mlm_reads_the_middle(model, monkeypatch):
    ids, seen = bases(6, 30), []
    monkeypatch.setattr(
        model, "forward", lambda input_ids, **at: seen.append(input_ids) or BertForMaskedLM.forward(model, input_ids)
    )
    monkeypatch.setattr(
        "simcsp.training.step.window_vectors",
        lambda bert, tokens, *rest: seen.append(tokens) or window_vectors(bert, tokens, *rest),
    )
    loss_of(model, ids, max_shift=3)
    assert seen[0].shape == (12, 24 + 2)
    starts = set()
    for row, window in zip(seen[0].numpy(), [*ids, *ids]):
        assert row[0] == CLS and row[-1] == SEP
        text, part = window.tobytes(), row[1:-1].astype(np.uint8).tobytes()
        assert part in text
        starts.add(text.index(part))
    assert starts <= set(range(7)) and len(starts) > 3
    seen.clear()
    loss_of(model, ids, objective="mlm", max_shift=3, mlm_probability=0.01)
    shown = seen[0][:, 1:-1].numpy()
    assert shown.shape == (6, 24) and (shown == ids[:, 3:-3]).mean() > 0.9


# -- an encoder as it is trained ---------------------------------------------------------------------------------------


def learner(objective, dropout=0.1):
    model, _, _ = fresh(num_hidden_layers=1, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    return Learner(model, "mean", objective).train()


def step_of(model, objective, ids, seed=0):
    torch.manual_seed(7)
    stage = PretrainConfig(objective=objective, temperature=0.1)
    return step_loss(MiniBatches(model), stage, draw_batch(stage, ids, np.random.default_rng(seed)))


def test_simcse_compares_two_dropout_passes_of_the_same_windows():
    model = learner("simcse")
    loss, _ = step_of(model, "simcse", bases())
    torch.manual_seed(7)
    tokens = torch.from_numpy(add_special_tokens(bases())).int()
    vectors = model(torch.cat([tokens, tokens]))
    assert not torch.allclose(vectors[:8], vectors[8:])
    assert float(loss.detach()) == pytest.approx(float(info_nce(vectors[:8], vectors[8:], 0.1).detach()), rel=1e-5)


def test_without_dropout_every_view_finds_its_partner():
    _, accuracy = step_of(learner("simcse", dropout=0.0), "simcse", bases())
    assert float(accuracy) == 1.0


def test_mlm_is_the_cross_entropy_of_the_asked_bases_alone():
    model = learner("mlm", dropout=0.0)
    loss, accuracy = step_of(model, "mlm", bases(), seed=5)
    rng, whole = np.random.default_rng(5), add_special_tokens(bases())
    tokens, targets = corrupt(whole, choose_random(whole, 0.15, rng), rng)
    logits = model(torch.from_numpy(tokens).int()).log_softmax(-1)
    rows, columns = np.nonzero(targets != IGNORED)
    wanted = targets[rows, columns]
    assert float(loss.detach()) == pytest.approx(-float(logits[rows, columns, wanted].detach().mean()), rel=1e-5)
    assert float(accuracy) == pytest.approx((logits.argmax(-1).numpy()[rows, columns] == wanted).mean())


def test_a_loss_that_is_no_number_is_told_with_its_step():
    stage = PretrainConfig(steps=9, lr=1e-3)
    training = Training(learner("simcse").model, "mean", stage, build_accelerator("cpu", "fp32"))
    for step in range(4):
        if step == 2:
            torch.nn.init.constant_(training.model.bert.embeddings.LayerNorm.weight, float("nan"))
        training.advance(training.draw(bases(), np.random.default_rng(step)))
    for read in (training.means, training.state):
        with pytest.raises(FloatingPointError, match="not finite at step 3"):
            read()


@pytest.mark.parametrize("pooling", ["cls", "mean@1", "mean@mix"])
@pytest.mark.parametrize("objective, mlm_weight", [("mlm", 0.0), ("simcse", 0.0), ("simcse", 0.1)])
def test_exactly_the_parameters_without_a_gradient_are_frozen(objective, mlm_weight, pooling):
    model = fresh()[0]
    set_pooling(model, pooling)
    stage, module = PretrainConfig(objective=objective, mlm_weight=mlm_weight), Learner(model, pooling, objective)
    batch = draw_batch(stage, bases(), np.random.default_rng(0))
    step_loss(MiniBatches(module), stage, batch)[0].backward()
    without = {name for name, parameter in module.named_parameters() if parameter.grad is None}
    freeze_unused(module, stage)
    assert {name for name, parameter in module.named_parameters() if not parameter.requires_grad} == without


# -- in a run ----------------------------------------------------------------------------------------------------------


def test_masking_about_sites_needs_annotation(tiny_data, tmp_path, call, capsys):
    line = refusal(call, capsys, pretrain, tiny_config(tmp_path, tiny_data, {"mlm.masking": "sites"}))
    assert "data.annotation" in line


def test_masking_about_sites_trains(tmp_path, tiny_data, call):
    write_species(tmp_path, "one", 1)
    changes = {"data.fasta": [str(tmp_path / "one.fa")], "data.records": ["chr1"], "mlm.masking": "sites"}
    changes |= {"data.annotation": [str(tmp_path / "one.gtf")], "pretrain.steps": 0, "mlm.steps": 3}
    call(pretrain, tiny_config(tmp_path, tiny_data, changes))
    assert summary_of(tmp_path / "runs/tiny/mlm")["steps"] == 3


def test_a_recipe_of_all_options_resumes_exactly_and_leaves_plain_checkpoints(tiny_data, tmp_path, call, monkeypatch):
    recipe = {"objective": "dcl", "projection_head": True, "mlm_weight": 0.1}
    recipe |= {"skip_near_duplicates": True, "max_shift": 2, "mini_batch_size": 3}
    changes = {f"pretrain.{name}": value for name, value in recipe.items()} | {"mlm.steps": 0}
    straight, halted = (tiny_config(tmp_path / name, tiny_data, changes) for name in ("straight", "halted"))
    call(pretrain, straight)
    advance = Training.advance

    def stop_at_five(training, *batch):
        if training.step == 5:
            raise RuntimeError("power cut")
        advance(training, *batch)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Training, "advance", stop_at_five)
        call(pretrain, halted)
    call(pretrain, halted)
    assert_same_run(tmp_path / "straight/runs/tiny/pretrain", tmp_path / "halted/runs/tiny/pretrain")
    checkpoints = tmp_path / "halted/runs/tiny/pretrain/checkpoints"
    start, last = (load_file(checkpoints / name / "model.safetensors") for name in ("start", "last"))
    assert start.keys() == last.keys() and not any(key.startswith("head") for key in last)
    assert any(not torch.equal(start[key], last[key]) for key in start)
