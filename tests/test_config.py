"""The experiment's YAML: what it takes, in which order of precedence, and what it refuses by name."""

import dataclasses

import pytest
import yaml
from conftest import ROOT

from utils.config import Config, PretrainConfig, check, flatten, load_config, read_config, to_dict, to_yaml
from utils.errors import InputError

MINIMAL = {"mlm": {"steps": 0}, "pretrain": {"steps": 0}}  # nothing to train needs no data


@pytest.fixture
def write(tmp_path):
    """write({...}) or write('text') makes a config file and returns its path."""

    def write(values, name="some.yaml"):
        path = tmp_path / name
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        return str(path)

    return write


def with_changes(**changes):
    """MINIMAL with {section: {field: value}} laid over it."""
    values = {key: dict(value) for key, value in MINIMAL.items()}
    for section, value in changes.items():
        values[section] = values.get(section, {}) | value if isinstance(value, dict) else value
    return values


# -- what it takes -----------------------------------------------------------------------------------------------------


def test_defaults_then_yaml_then_flags(write):
    path = write(with_changes(pretrain={"lr": 2e-4, "batch_size": 7}))
    config = load_config([path, "--pretrain.batch_size", "9"])
    assert config.pretrain.temperature == PretrainConfig().temperature  # default
    assert config.pretrain.lr == 2e-4  # YAML
    assert config.pretrain.batch_size == 9  # flag
    assert config.mlm.objective == "mlm"  # defaults of one section are not those of another


def test_the_place_of_a_flag_does_not_matter(write):
    path = write(MINIMAL)
    assert load_config(["--seed", "4", "--config", path]).seed == 4
    assert load_config([f"--config={path}", "--seed=4"]).seed == 4
    assert load_config([path, "--seed", "4"]).seed == 4


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "1.e-4"])
def test_scientific_notation_is_a_number(write, text):
    config = load_config([write(f"mlm:\n  steps: 0\npretrain:\n  steps: 0\n  lr: {text}\n")])
    assert config.pretrain.lr == 1e-4 and isinstance(config.pretrain.lr, float)
    assert load_config([write(MINIMAL), "--pretrain.lr", text]).pretrain.lr == 1e-4


def test_lists_and_nulls_come_from_yaml_and_flags(write):
    path = write(with_changes(data={"fasta": ["a.fa", "b.fa"], "records": None}, finetune={"folds": [0, 3]}))
    config = load_config([path, "--data.records", "[chr1, chr2]", "--finetune.folds", "null"])
    assert config.data.fasta == ["a.fa", "b.fa"]
    assert config.data.records == ["chr1", "chr2"]
    assert config.finetune.folds is None


def test_the_name_is_the_stem_of_the_file_unless_given(write):
    assert load_config([write(MINIMAL, "splice.yaml")]).name == "splice"
    assert load_config([write(MINIMAL), "--name", "other"]).name == "other"
    config = load_config([write(MINIMAL, "splice.yaml"), "--runs", "elsewhere"])
    assert config.folder.as_posix() == "elsewhere/splice"


def test_without_a_file_the_demo_is_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert load_config([]).name == "demo"
    assert load_config(["--seed", "3"]).seed == 3


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_the_repository_is_valid(path):
    assert load_config([str(path)]).name == path.stem


def test_a_resolved_config_can_be_passed_back(write, tmp_path):
    changes = {"data": {"fasta": ["x.fa"], "records": ["1"], "max_n_share": 0.25}, "model": {"pooling": "mean"}}
    first = load_config([write(with_changes(**changes, finetune={"lr": 1e-5, "max_grad_norm": 2})), "--seed", "11"])
    saved = tmp_path / "resolved.yaml"
    saved.write_text(to_yaml(first))
    assert read_config(saved) == first
    assert to_yaml(read_config(saved)) == to_yaml(first)


def test_defaults_themselves_can_be_passed_back(write):
    config = Config(name="some")
    config.pretrain.steps = 0
    assert load_config([write(to_yaml(config))]) == config


def test_flatten_names_fields_as_flags_do():
    flat = flatten(to_dict(Config()))
    assert flat["pretrain.lr"] == 1e-4 and flat["seed"] == 0
    assert len(flat) == sum(
        len(dataclasses.fields(value)) if dataclasses.is_dataclass(value) else 1 for value in vars(Config()).values()
    )


def test_every_field_says_what_it_is(capsys):
    with pytest.raises(SystemExit) as exit:
        load_config(["--help"])
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for key in flatten(to_dict(Config())):
        assert f"--{key}" in text
    for words in ("Windows a step", "cosine similarities are divided by this", "Seed of subset, selection share"):
        assert words in text


# -- what it refuses ---------------------------------------------------------------------------------------------------


def refused(argv, message):
    with pytest.raises(InputError, match=message) as error:
        load_config(argv)
    return str(error.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"bogus": 1}, "'?bogus'?"),
        ({"pretrain": {"lrr": 1e-3}}, "pretrain.*lrr"),
        ({"model": {"layers": 2}}, "model.*layers"),
        ({"pretrain": {"lr": "fast"}}, "pretrain.lr.*fast"),
        ({"pretrain": {"batch_size": 2.5}}, "pretrain.batch_size.*2.5"),
        ({"pretrain": {"batch_size": True}}, "pretrain.batch_size"),
        ({"data": {"fasta": "a.fa"}}, "data.fasta.*a.fa"),
        ({"data": {"fasta": [1]}}, "data.fasta"),
        ({"seed": "zero"}, "seed.*zero"),
        ({"pretrain": 5}, "pretrain"),
        ({"pretrain": None}, "pretrain"),
    ],
)
def test_unknown_keys_and_wrong_types_are_named_with_the_file(write, changes, message):
    values = (
        {**MINIMAL, **changes} if not all(isinstance(v, dict) for v in changes.values()) else with_changes(**changes)
    )
    assert "some.yaml" in refused([write(values)], message)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pretrain": {"lr": 0}}, "pretrain.lr"),
        ({"pretrain": {"lr": -1e-4}}, "pretrain.lr"),
        ({"pretrain": {"lr": float("nan")}}, "pretrain.lr"),
        ({"pretrain": {"lr": float("inf")}}, "pretrain.lr"),
        ({"pretrain": {"temperature": float("inf")}}, "pretrain.temperature"),
        ({"pretrain": {"mlm_probability": 1}}, "pretrain.mlm_probability"),
        ({"pretrain": {"objective": "simclr"}}, "pretrain.objective.*simclr"),
        ({"pretrain": {"eval_steps": 0}}, "pretrain.eval_steps"),
        ({"model": {"hidden_dropout_prob": 1.0}}, "model.hidden_dropout_prob"),
        ({"model": {"hidden_size": 100}}, "model.num_attention_heads .16. must divide model.hidden_size .100."),
        ({"model": {"pooling": "max"}}, "model.pooling.*max"),
        ({"data": {"window": 511}}, "data.window .511 nt.*model.max_position_embeddings .512."),
        ({"data": {"context": 401}}, "data.context .401. must be even"),
        ({"data": {"motif_window": 99}}, "data.motif_window .99. must be even"),
        ({"data": {"motif_bed": "a.bed"}}, "data.motif_bed and data.motif_fasta go together"),
        ({"data": {"num_folds": 3}}, "data.num_folds .3. must be at least 4"),
        ({"data": {"selection_share": 1.0}}, "data.selection_share"),
        ({"data": {"max_n_share": 1.5}}, "data.max_n_share"),
        ({"data": {"folds": "random"}}, "data.folds.*random"),
        ({"finetune": {"sites": ["donors"]}}, "finetune.sites.*donors"),
        ({"finetune": {"seeds": [-1]}}, "finetune.seeds"),
        ({"finetune": {"patience": 0}}, "finetune.patience"),
        ({"name": "a/b"}, "name .a/b. must be a plain folder name"),
        ({"name": ".."}, "name .... must be a plain folder name"),
        ({"name": ""}, "name"),
        ({"mlm": {"steps": 10, "warmup_steps": 11}}, "mlm.warmup_steps .11. is more than mlm.steps .10."),
        ({"pretrain": {"steps": 5, "batch_size": 1, "warmup_steps": 0}}, "pretrain.batch_size must be at least 2"),
        ({"pretrain": {"steps": 5, "warmup_steps": 0}}, "data.fasta is empty: pretrain needs genome text"),
    ],
)
def test_impossible_values_are_named(write, changes, message):
    refused([write(with_changes(**changes))], message)


def test_flags_are_held_to_the_same_rules(write):
    path = write(MINIMAL)
    refused([path, "--pretrain.lrr", "3"], "pretrain.lrr")
    refused([path, "--pretrain.lr", "fast"], "pretrain.lr.*fast")
    refused([path, "--data.num_folds", "2"], "data.num_folds")
    refused([path, "stray"], "stray")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "some.yaml is empty"),
        ("\n  \n", "some.yaml is empty"),
        ("# nothing but a comment\n", "some.yaml"),
        ("hello\n", "some.yaml.*hello"),
        ("- a\n- b\n", "some.yaml"),
        ("data:\n  fasta: [a.fa,\n", "some.yaml.*line 2|some.yaml.*line 3"),
        ("data:\n  fas", "some.yaml.*fas"),
        ("data:\n\twindow: 5\n", "some.yaml.*line 2"),
    ],
    ids=["empty", "blank", "comment", "scalar", "list", "cut in a list", "cut in a key", "tab"],
)
def test_an_empty_or_truncated_file_is_refused_by_name(write, text, message):
    refused([write(text)], message)


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path):
    (tmp_path / "some.yaml").write_bytes(b"\xff\xfe\x00\x01")
    refused([str(tmp_path / "some.yaml")], "some.yaml")


def test_a_missing_file_is_refused_by_name(tmp_path):
    refused([str(tmp_path / "none.yaml")], "none.yaml does not exist")
    refused(["--config", str(tmp_path)], "does not exist|is a folder")


def test_what_does_not_train_needs_no_data():
    check(dataclasses.replace(Config(name="x"), pretrain=PretrainConfig(steps=0)))
    with pytest.raises(InputError, match="data.fasta"):
        check(Config(name="x"))
