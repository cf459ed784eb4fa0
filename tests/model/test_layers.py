"""Which layers an encoder has and which of them is pooled: by hand, through a checkpoint, and through both scripts."""

import json

import conftest
import numpy as np
import pytest
import torch
from conftest import tiny_config
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from standins import windows

import finetune
import pretrain
from simcsp.core.config import ModelConfig
from simcsp.core.errors import InputError
from simcsp.metrics.proxies import probe_auc
from simcsp.model.checkpoint import load_backbone, save_checkpoint
from simcsp.model.checksums import CHECKSUMS, write_checksums
from simcsp.model.classifier import Classifier, load_classifier, predict, save_classifier
from simcsp.model.embedding import Encoder
from simcsp.model.encoder import POOLING_KINDS, fresh_like, mix_weights, pool, read_pooling, window_vectors
from simcsp.text.alphabet import add_special_tokens
from simcsp.training.objectives import info_nce
from simcsp.training.step import Learner

BLOCKS, HIDDEN = 4, 16
POOLINGS = ["cls", "mean", "centre", "cls@2", "mean@0", "centre@1", f"mean@{BLOCKS}", "mean@mix", "centre@mix"]


def embedded(bert, pooling):
    return Encoder(bert, pooling, 4).embed(windows())


def fresh(seed=0, **changes):
    """An encoder whose layers differ more than BERT's fresh ones do."""
    return conftest.fresh(seed, num_hidden_layers=BLOCKS, initializer_range=0.3, **changes)


def of_word(word):
    """The two config fields of a pooling's word."""
    kind, layer = read_pooling(word)
    return {"pooling": kind, "pooling_layer": layer}


def tokens(length=40):
    return torch.from_numpy(add_special_tokens(windows(length=length))).int()


def hooked_states(bert, length=40):
    """Hidden states of every layer, as the modules themselves hand them on, embeddings first."""
    seen = []
    modules = [bert.embeddings, *bert.encoder.layer]
    handles = [module.register_forward_hook(lambda module, given, out: seen.append(out)) for module in modules]
    with torch.no_grad():
        bert.eval()(input_ids=tokens(length))
    for handle in handles:
        handle.remove()
    assert len(seen) == len(modules)
    return seen


BY_HAND = {
    "cls": lambda states: states[:, 0],
    "mean": lambda states: states[:, 1:41].sum(dim=1) / 40,
    "centre": lambda states: (states[:, 20] + states[:, 21]) / 2,  # bases 19 and 20 of 40, behind [CLS]
}


# -- which layer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POOLING_KINDS)
def test_each_layer_is_the_one_that_hooks_see(kind):
    bert = fresh()[0].bert
    states = hooked_states(bert)
    with torch.no_grad():
        for layer, hidden in enumerate(states):
            torch.testing.assert_close(window_vectors(bert, tokens(), f"{kind}@{layer}"), BY_HAND[kind](hidden))
        torch.testing.assert_close(window_vectors(bert, tokens(), kind), BY_HAND[kind](states[-1]))
    others = [BY_HAND[kind](hidden) for hidden in states]
    assert not any(torch.allclose(a, b) for i, a in enumerate(others) for b in others[:i])  # or the above shows nothing


@pytest.mark.parametrize("length", [2, 7, 40])
def test_the_centre_is_half_way_and_for_odd_lengths_just_before(length):
    states = torch.arange(length + 2.0)[None, :, None]  # each token's state is its place; base i is token i + 1
    assert pool(states, "centre").item() == (length // 2 - 1 + length // 2) / 2 + 1


def test_a_fresh_mix_is_the_mean_of_all_layers_and_weights_are_their_softmax():
    model, pooling, _ = fresh(pooling="mean", pooling_layer="mix")
    assert pooling == "mean@mix"
    by_hand = torch.stack([BY_HAND["mean"](states) for states in hooked_states(model.bert)])
    with torch.no_grad():
        torch.testing.assert_close(window_vectors(model.bert, tokens(), pooling), by_hand.mean(dim=0))
        model.bert.layer_mix.copy_(torch.log(torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0])))
        shares = torch.tensor([0.05, 0.10, 0.15, 0.20, 0.50])
        torch.testing.assert_close(mix_weights(model.bert), shares)
        expected = (shares[:, None, None] * by_hand).sum(dim=0)
        torch.testing.assert_close(window_vectors(model.bert, tokens(), pooling), expected)


def test_all_layers_in_one_pass_are_those_of_single_passes():
    bert = fresh()[0].bert
    ids = windows()
    kinds = lambda states: torch.stack([pool(states, kind) for kind in POOLING_KINDS], dim=1)  # noqa: E731
    found = Encoder(bert, "mean", 4).embed_layers(ids, kinds)
    assert found.shape == (len(ids), 1 + BLOCKS, len(POOLING_KINDS), HIDDEN)
    for layer in range(1 + BLOCKS):
        for j, kind in enumerate(POOLING_KINDS):
            # of cls and centre, its last block at their tokens alone
            single = Encoder(bert, f"{kind}@{layer}", 4).embed(ids)
            assert np.allclose(found[:, layer, j], single, rtol=0, atol=2e-6)


def test_two_views_are_of_the_layer_that_is_pooled():
    # dropout changes everything above the embeddings' own layer norm, so without it the views are that layer
    bert = fresh(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)[0].bert
    encoder = Encoder(bert, "mean@1", 6)
    assert np.array_equal(encoder.embed_twice(windows(), 0)[0], encoder.embed(windows()))


@given(st.sampled_from(POOLING_KINDS), st.one_of(st.none(), st.integers(0, 99), st.just("mix")))
def test_the_word_of_a_pooling_is_read_back(kind, layer):
    assert read_pooling(kind if layer is None else f"{kind}@{layer}") == (kind, layer)


@pytest.mark.parametrize("word", ["", "max", "mean@", "mean@-1", "mean@last", "@3", "mean@3@4", "mean3", "mean@ 3"])
def test_a_word_that_is_no_pooling_is_refused(word):
    with pytest.raises(InputError, match="model.pooling .* is unknown"):
        read_pooling(word)


# -- the pooling in the checkpoint -------------------------------------------------------------------------------------


def saved(folder, seed=0, **changes):
    """A checkpoint of which every parameter has been moved, a mix too."""
    model, pooling, _ = fresh(seed, **changes)
    if "mix" in pooling:
        torch.nn.init.normal_(model.bert.layer_mix)
    save_checkpoint(model, folder, pooling)
    return model, pooling


@pytest.mark.parametrize("word", POOLINGS)
def test_whoever_loads_a_checkpoint_gets_the_same_vectors(tmp_path, word):
    model, pooling = saved(tmp_path, **of_word(word))
    assert pooling == word
    torch.manual_seed(999)
    again, recorded, remarks = load_backbone(ModelConfig(source=str(tmp_path)))
    assert recorded == word and remarks == [f"weights from {tmp_path}"]
    assert np.array_equal(embedded(model.bert, word), embedded(again.bert, recorded))
    for (name, weight), (other_name, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other_name and torch.equal(weight, other)


@pytest.mark.parametrize("word", ["centre@2", "mean@mix"])
def test_whoever_loads_a_classifier_gets_the_same_probabilities(tmp_path, word):
    model, pooling = saved(tmp_path / "encoder", **of_word(word))
    classifier = Classifier(model.bert, pooling, 0.1)
    tmp_path.joinpath("best").mkdir()
    save_classifier(classifier, tmp_path / "best")
    torch.manual_seed(999)
    again = load_classifier(tmp_path / "best", ModelConfig(), 0.1)
    assert again.pooling == word
    assert np.array_equal(predict(classifier, windows(), 4), predict(again, windows(), 4))
    encoder = load_backbone(ModelConfig(source=str(tmp_path / "best")))  # the folder is an encoder's, too
    assert np.array_equal(embedded(model.bert, word), embedded(encoder[0].bert, encoder[1]))


@pytest.mark.parametrize("recorded, expected", [("mean", "mean"), ("cls", "cls"), (None, "cls")])
def test_checkpoints_from_before_layers_were_chosen_still_load(tmp_path, recorded, expected):
    model, _ = saved(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["pooling"]
    path.write_text(json.dumps(values | ({"pooling": recorded} if recorded else {})))
    (tmp_path / CHECKSUMS).unlink()  # which they did not have
    again, pooling, _ = load_backbone(ModelConfig(source=str(tmp_path)))
    assert pooling == expected
    by_hand = BY_HAND[expected](hooked_states(model.bert)[-1]).numpy()
    np.testing.assert_allclose(Encoder(again.bert, pooling, 6).embed(windows()), by_hand, atol=1e-5)


@pytest.mark.parametrize(
    "recorded, asked, expected",
    [
        ("mean@1", {"pooling": "cls"}, "cls@1"),
        ("mean@1", {"pooling_layer": 3}, "mean@3"),
        ("mean", {"pooling_layer": "mix"}, "mean@mix"),
        ("mean@mix", {"pooling_layer": 2}, "mean@2"),
        ("mean@2", {"pooling": "mean"}, "mean@2"),
        ("mean", {"pooling": "cls"}, "cls"),
    ],
)
def test_kind_and_layer_of_the_config_each_override_the_checkpoint_and_that_is_said(
    tmp_path, recorded, asked, expected
):
    saved(tmp_path, **of_word(recorded))
    model, pooling, remarks = load_backbone(ModelConfig(source=str(tmp_path), **asked))
    assert pooling == model.config.pooling == expected
    said = f"pooling changed from the checkpoint's {recorded} to {expected}"
    assert (said in remarks) == (recorded != expected)
    assert hasattr(model.bert, "layer_mix") == expected.endswith("mix")


def test_fresh_weights_like_those_of_a_mix_have_an_equal_one():
    model = fresh(pooling_layer="mix")[0]
    torch.nn.init.normal_(model.bert.layer_mix)
    other = fresh_like(model.config)
    assert list(other.state_dict()) == list(model.state_dict())
    assert mix_weights(other.bert).tolist() == pytest.approx([1 / (1 + BLOCKS)] * (1 + BLOCKS))
    assert mix_weights(fresh_like(fresh()[0].config).bert) is None


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    write_checksums(folder)


@pytest.mark.parametrize(
    "recorded, damage, message",
    [
        ("mean@mix", lambda w: w.pop("bert.layer_mix"), "no weight for each layer .* records a learned mix"),
        ("mean@mix", lambda w: w.update({"bert.layer_mix": torch.zeros(3)}), "no weight for each layer"),
        ("mean@1", lambda w: w.update({"bert.layer_mix": torch.zeros(1 + BLOCKS)}), "1 unexpected .*layer_mix"),
    ],
    ids=["missing", "of other layers", "not recorded"],
)
def test_a_mix_and_its_weights_belong_together(tmp_path, recorded, damage, message):
    saved(tmp_path, **of_word(recorded))
    change_weights(tmp_path, damage)
    with pytest.raises(InputError, match=message):
        load_backbone(ModelConfig(source=str(tmp_path)))


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"pooling_layer": BLOCKS + 1}, f"model.pooling_layer: layer {BLOCKS + 1} does not exist: .* {BLOCKS} blocks"),
        ({"pooling_layer": BLOCKS, "drop_layers": 1}, f"layer {BLOCKS} does not exist: .* {BLOCKS - 1} blocks"),
        ({"pooling": "cls", "pooling_layer": 0}, "same vector for every window"),
    ],
)
def test_a_layer_that_cannot_be_pooled_is_refused(asked, message):
    with pytest.raises(InputError, match=message):
        fresh(**asked)


# -- dropping layers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_folder", [True, False])
def test_the_right_blocks_are_left_with_their_weights(tmp_path, from_folder):
    whole, _ = saved(tmp_path, pooling="mean")
    if from_folder:
        chopped = load_backbone(ModelConfig(source=str(tmp_path), drop_layers=1))
        assert "the last 1 blocks dropped" in chopped[2]
    else:
        chopped = fresh(pooling="mean", drop_layers=1)
    bert = chopped[0].bert
    assert chopped[0].config.num_hidden_layers == bert.config.num_hidden_layers == len(bert.encoder.layer) == 3
    for i, mine in enumerate(bert.encoder.layer):
        for name, weight in whole.bert.encoder.layer[i].state_dict().items():
            assert torch.equal(mine.state_dict()[name], weight), (i, name)
    for part in ("bert.embeddings", "cls"):
        expected, found = (model.get_submodule(part).state_dict() for model in (whole, chopped[0]))
        assert all(torch.equal(value, expected[key]) for key, value in found.items())
    with torch.no_grad():
        states = whole.bert.eval().embeddings(input_ids=tokens())
        for i in range(3):
            states = whole.bert.encoder.layer[i](states)
    np.testing.assert_allclose(Encoder(bert, "mean", 6).embed(windows()), BY_HAND["mean"](states).numpy(), atol=1e-5)


def test_a_mix_keeps_the_weights_of_the_layers_that_are_left(tmp_path):
    whole, _ = saved(tmp_path, pooling_layer="mix")
    chopped = load_backbone(ModelConfig(source=str(tmp_path), drop_layers=2))[0]
    assert torch.equal(chopped.bert.layer_mix, whole.bert.layer_mix[:3])
    assert isinstance(chopped.bert.layer_mix, torch.nn.Parameter) and chopped.bert.layer_mix.is_leaf


@pytest.mark.parametrize("count", [BLOCKS, BLOCKS + 3])
def test_at_least_one_block_must_be_left(tmp_path, count):
    message = rf"model.drop_layers \({count}\) leaves none of the encoder's 4 blocks: give at most 3"
    with pytest.raises(InputError, match=message):
        fresh(drop_layers=count)
    saved(tmp_path)
    with pytest.raises(InputError, match=message):
        load_backbone(ModelConfig(source=str(tmp_path), drop_layers=count))


def test_a_numbered_layer_of_the_checkpoint_is_not_renumbered_in_silence(tmp_path):
    saved(tmp_path, pooling="mean", pooling_layer=2)
    with pytest.raises(InputError, match="pools layer 2, which model.drop_layers renumbers"):
        load_backbone(ModelConfig(source=str(tmp_path), drop_layers=1))
    assert load_backbone(ModelConfig(source=str(tmp_path), drop_layers=1, pooling_layer=1))[1] == "mean@1"


# -- training ----------------------------------------------------------------------------------------------------------


def test_contrast_and_classifier_train_the_mix():
    model, pooling, _ = fresh(pooling="mean", pooling_layer="mix")
    learner = Learner(model, pooling, "simcse").train()
    info_nce(*learner(tokens().repeat(2, 1)).chunk(2), 0.05).backward()
    of_contrast = model.bert.layer_mix.grad.clone()
    assert of_contrast.isfinite().all() and (of_contrast != 0).all()
    model.bert.layer_mix.grad = None
    Classifier(model.bert, pooling, 0.0)(tokens()).square().sum().backward()
    assert (model.bert.layer_mix.grad != 0).all()


def test_both_scripts_with_a_mix_of_chopped_layers(tiny_data, tmp_path, call):
    changes = {
        "model.num_hidden_layers": 3,
        "model.drop_layers": 1,
        "model.pooling_layer": "mix",
        "finetune.arms": ["fresh", "baseline", "last"],
        "finetune.folds": [0],
        "finetune.max_epochs": 1,
    }
    config = tiny_config(tmp_path, tiny_data, changes)
    call(pretrain, config)
    call(finetune, config)
    run = tmp_path / "runs/tiny"
    checkpoints = [*run.glob("*/checkpoints/*"), *run.glob("finetune/*/*/*/*/checkpoints/best")]
    assert len(checkpoints) > 8
    for folder in checkpoints:  # chopped once: neither the second stage nor fine-tuning chops again
        model, pooling, _ = load_backbone(ModelConfig(source=str(folder)))
        assert pooling == "mean@mix" and model.config.num_hidden_layers == 2 and len(model.bert.layer_mix) == 3
    start, last = (load_file(run / f"pretrain/checkpoints/{name}/model.safetensors") for name in ("start", "last"))
    assert start["bert.layer_mix"].tolist() == [0, 0, 0]  # of the MLM stage, which does not pool
    assert (last["bert.layer_mix"] != 0).all()
    tuned = load_file(run / "finetune/last/both/seed0/fold00/checkpoints/best/model.safetensors")
    assert not torch.equal(tuned["layer_mix"], last["bert.layer_mix"])


def test_without_pretraining_the_arms_are_of_the_chopped_source(tiny_data, tmp_path, call):
    saved(tmp_path / "source", pooling="mean")
    changes = {
        "model.source": str(tmp_path / "source"),
        "model.drop_layers": 3,
        "mlm.steps": 0,
        "pretrain.steps": 0,
        "finetune.arms": ["baseline", f"other={tmp_path / 'source'}"],
        "finetune.folds": [0],
        "finetune.max_epochs": 1,
    }
    call(finetune, tiny_config(tmp_path, tiny_data, changes))
    for arm, layers in (("baseline", 1), ("other", BLOCKS)):  # a named checkpoint is taken as it is
        best = tmp_path / f"runs/tiny/finetune/{arm}/both/seed0/fold00/checkpoints/best"
        assert json.loads((best / "config.json").read_text())["num_hidden_layers"] == layers


# -- the linear probe --------------------------------------------------------------------------------------------------


def test_the_probe_reads_what_is_linear_and_nothing_else():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    noise = rng.normal(size=(200, 8))
    assert probe_auc(noise + 4 * labels[:, None], labels, 0) > 0.99
    assert 0.35 < probe_auc(noise, labels, 0) < 0.65
    small = noise.copy()
    small[:, 0] = 1e-6 * (small[:, 0] + 4 * labels)
    assert probe_auc(small, labels, 0) > 0.95  # one column tells, and standardised it counts as much as the others
    assert probe_auc(noise, labels, 3) == probe_auc(noise, labels, 3)


def test_a_probe_on_too_few_windows_is_refused():
    with pytest.raises(InputError, match="both classes in each of its 5 parts: raise data.selection_share"):
        probe_auc(np.zeros((12, 2)), np.array([1] * 3 + [0] * 9), 0)
