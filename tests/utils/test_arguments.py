"""The experiment's YAML: what it takes, in which order of precedence, and what it refuses by name."""

import dataclasses

import pytest
import yaml
from conftest import ROOT

from simcsp.core import config_file as saved
from simcsp.core.config import Config, FinetuneConfig, PretrainConfig, flatten, to_dict, to_yaml
from simcsp.core.config_file import OF_CONTRAST
from simcsp.core.errors import InputError
from simcsp.core.run_folder import RunFolder
from simcsp.training.pretraining import stages
from simcsp.training.pretraining_run import stage_config
from utils.arguments import find_faults, load_config, refuse_faults

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
    assert config.mlm.steps == 0 and PretrainConfig().steps > 0  # defaults of one section are not those of another


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


def test_without_a_file_the_default_run_is_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert load_config([]).name == "chr19"
    assert load_config(["--seed", "3"]).seed == 3


def test_a_resolved_config_can_be_passed_back(write, tmp_path):
    changes = {"data": {"fasta": ["x.fa"], "records": ["1"], "max_n_share": 0.25}, "model": {"pooling": "mean"}}
    first = load_config([write(with_changes(**changes, finetune={"lr": 1e-5, "dropout": 0})), "--seed", "11"])
    saved = tmp_path / "resolved.yaml"
    saved.write_text(to_yaml(first))
    assert load_config([str(saved)]) == first
    assert to_yaml(load_config([str(saved)])) == to_yaml(first)


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
        ({"pretrain": {"lr": "fast"}}, "pretrain.lr.*fast"),
        ({"pretrain": {"batch_size": 2.5}}, "pretrain.batch_size.*2.5"),
        ({"pretrain": {"batch_size": True}}, "pretrain.batch_size"),
        ({"data": {"fasta": "a.fa"}}, "data.fasta.*a.fa"),
        ({"seed": "zero"}, "seed.*zero"),
        ({"pretrain": 5}, "pretrain"),
        ({"pretrain": None}, "pretrain"),
    ],
)
def test_unknown_keys_and_wrong_types_are_named_with_the_file(write, changes, message):
    assert "some.yaml" in refused([write(with_changes(**changes))], message)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pretrain": {"lr": 0}}, "pretrain.lr"),
        ({"pretrain": {"lr": float("nan")}}, "pretrain.lr"),
        ({"pretrain": {"temperature": float("inf")}}, "pretrain.temperature"),
        ({"pretrain": {"mlm_probability": 1}}, "pretrain.mlm_probability"),
        ({"pretrain": {"objective": "simclr"}}, "pretrain.objective.*simclr"),
        ({"pretrain": {"eval_steps": 0}}, "pretrain.eval_steps"),
        ({"model": {"hidden_dropout_prob": 1.0}}, "model.hidden_dropout_prob"),
        ({"model": {"hidden_size": 100}}, "model.num_attention_heads .16. must divide model.hidden_size .100."),
        ({"model": {"pooling": "max"}}, "model.pooling.*max"),
        (
            {"data": {"window": 511}, "pretrain": {"steps": 5}},
            "data.window .511 nt.*model.max_position_embeddings .512.",
        ),
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
        ({"finetune": {"folds": []}}, "finetune.folds .* is empty: .* null for all"),
        ({"finetune": {"arms": []}}, "finetune.arms .* is empty"),
        ({"finetune": {"arms": ["pwm", "pwm"]}}, r"finetune.arms \(\[pwm, pwm\]\) names pwm more than once"),
        ({"finetune": {"arms": ["a=x", "a=y"]}}, "finetune.arms .* names a more than once"),
        ({"finetune": {"folds": [2, 0, 2]}}, "finetune.folds .* names 2 more than once"),
        ({"finetune": {"select_epoch": "shared", "folds": [3]}}, r"finetune.folds \(\[3\]\).* all 10 folds"),
        ({"seed": 2**32}, "seed.*v<4294967296"),
        ({"finetune": {"seeds": [2**70]}}, "finetune.seeds"),
        ({"name": "a/b"}, "name ..a/b.. must be a plain folder name"),
        ({"mlm": {"steps": 10, "warmup_steps": 11}}, "mlm.warmup_steps .11. is more than mlm.steps .10."),
        ({"mlm": {"steps": 10, "min_window": 511}}, "mlm.min_window .511. is longer than data.window .510."),
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
    refused([path, "--seed", "1180591620717411303424"], "seed.*1180591620717411303424")
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
        ("pretrain:\n  steps: 3\n  lr: 1\n  steps: 4\n", "some.yaml, line 4: steps is given twice, first in line 2"),
        ("data: {}\npretrain: {}\ndata: {}\n", "some.yaml, line 3: data is given twice, first in line 1"),
        ("data: &data [*data]\n", "some.yaml holds a YAML anchor that contains itself"),
        ("? [a, b]\n: 3\n", "some.yaml, line 1"),
        ("data: !!python/object:os.system {}\n", "some.yaml, line 1"),
        ('seed: !!int ""\n', "some.yaml: a value does not match its tag"),
        ("seed: !!float much\n", "some.yaml: a value does not match its tag"),
        ("data: " + 1000 * "[", "some.yaml is nested too deeply"),
    ],
    ids="empty blank comment scalar list cut-in-a-list cut-in-a-key tab twice section-twice circle key".split()
    + ["tag", "int", "float", "deep"],
)
def test_an_empty_or_truncated_file_is_refused_by_name(write, text, message):
    refused([write(text)], message)


@pytest.mark.parametrize("each", ["[{}]", "{{x: {}}}"], ids=["lists", "mappings"])
def test_a_few_lines_that_stand_for_a_thousand_million_values_are_refused_at_once(tmp_path, each):
    lines = ["a: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{i}: &a{i} [{', '.join([each.format(f'*a{i - 1}')] * 9)}]" for i in range(1, 10)]
    (tmp_path / "some.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match="some.yaml holds more than 100,000 values"):
        saved.read_values(tmp_path / "some.yaml")
    (tmp_path / "some.yaml").write_text("a: " + "[" * 500_001 + "]" * 500_001)
    with pytest.raises(InputError, match="some.yaml has 1,000,005 bytes"):
        saved.read_values(tmp_path / "some.yaml")


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path):
    (tmp_path / "some.yaml").write_bytes(b"\xff\xfe\x00\x01")
    refused([str(tmp_path / "some.yaml")], "some.yaml")


def test_a_missing_file_is_refused_by_name(tmp_path):
    refused([str(tmp_path / "none.yaml")], "none.yaml does not exist")
    refused(["--config", str(tmp_path)], "does not exist|is a folder")


def test_what_does_not_train_needs_no_data():
    refuse_faults(find_faults(dataclasses.replace(Config(name="x"), pretrain=PretrainConfig(steps=0))))
    with pytest.raises(InputError, match="data.fasta"):
        refuse_faults(find_faults(Config(name="x")))


def test_all_faults_of_a_config_are_told_at_once(write):
    changes = {"data": {"num_folds": 3, "context": 401, "windw": 5}, "seed": "zero"}
    text = refused([write(with_changes(**changes)), "--pretrain.lr", "fast", "--workerz", "2"], "^6 faults: ")
    for words in ("data.windw", '"seed"', '"pretrain.lr"', "workerz", "data.context", "data.num_folds"):
        assert words in text
    assert text.count("some.yaml") == 2  # flags are not in the file
    with pytest.raises(InputError, match=r"^2 faults: \(1\) data.context .*; \(2\) name "):
        config = Config(name="a/b", pretrain=PretrainConfig(steps=0))
        config.data.context = 401
        refuse_faults(find_faults(config))


def test_there_are_no_more_workers_than_folds(write):
    values = with_changes(workers=4)
    assert load_config([write(values)]).processes == 4
    assert load_config([write(values), "--data.folds", "simcsp", "--workers", "9"]).processes == 5
    assert load_config([write(values), "--finetune.folds", "[1,7]"]).processes == 2


def test_only_names_parts_that_the_pre_training_has(write):
    path = write(with_changes(pretrain={"steps": 500, "seeds": [3, 5]}, data={"fasta": ["genome.fa"]}))
    for part in ("data", "pretrain", "pretrain/seed5"):
        assert load_config([path, "--only", f"[{part}]"]).only == [part]
    assert load_config([path, "--pretrain.control", "true", "--only", "[control/seed3]"]).only == ["control/seed3"]
    for part in ("mlm", "control", "pretrain/seed4", "finetune"):
        refused([path, "--only", f"[{part}]"], f"only: '{part}' is none of the parts of this pre-training")
    refused([path, "--only", "[]"], "only: name at least one part")


@pytest.mark.parametrize(
    "key, nearest",
    [
        ("pretrain.stepz", "pretrain.steps"),
        ("pretrian.steps", "pretrain.steps"),
        ("data.spliceater", "data.spliceator"),
        ("finetune.temperature", "temperature"),
        ("nmae", "name"),
    ],
)
def test_a_misspelt_key_suggests_the_nearest_in_a_file_and_on_the_command_line(write, key, nearest):
    section, _, field = key.rpartition(".")
    values = MINIMAL | ({section: MINIMAL.get(section, {}) | {field: 3}} if section else {field: 3})
    asked = f"did you mean .*{nearest if section != 'pretrian' else 'pretrain'}"
    refused([write(values)], f"some.yaml: unknown key {key.replace('pretrian.steps', 'pretrian')}: {asked}")
    refused([write(MINIMAL), f"--{key}", "3"], f"^unknown key {key}: did you mean .*{nearest}")
    refused([write(MINIMAL), f"--{key}=3"], f"^unknown key {key}: did you mean .*{nearest}")


def test_a_key_that_is_like_no_other_is_named_alone(write):
    assert refused([write(MINIMAL | {"qqqqq": 1})], "unknown key qqqqq").endswith("qqqqq")


@pytest.mark.parametrize("name", sorted(OF_CONTRAST))
def test_what_the_contrast_alone_has_is_refused_of_the_masked_stage(write, name):
    value = dataclasses.asdict(PretrainConfig())[name]
    message = f"mlm.{name} does not apply to masked bases alone: there is pretrain.{name}"
    refused([write(with_changes(mlm={name: value}))], message)
    refused([write(MINIMAL), f"--mlm.{name}", str(value)], message)
    assert f"mlm.{name}" not in flatten(to_dict(Config()))


def test_a_window_that_nothing_reads_need_not_fit_the_encoder(write):
    model = {"max_position_embeddings": 64}  # data.window, context and motif_window are longer by default
    assert load_config([write(with_changes(model=model))]).data.motif_window > 64
    refused([write(with_changes(model=model, data={"spliceator": "folder"}))], "^data.context .400 nt")
    motifs = {"motif_bed": "a.bed", "motif_fasta": "a.fa"}
    refused([write(with_changes(model=model, data=motifs))], "^data.motif_window .510 nt")


def test_one_epoch_for_all_folds_takes_all_folds(write):
    shared = {"select_epoch": "shared"}
    for data, folds in (({}, None), ({"num_folds": 4}, [3, 2, 1, 0]), ({"folds": "simcsp"}, [0, 1, 2, 3, 4])):
        assert load_config([write(with_changes(data=data, finetune=shared | {"folds": folds}))])
    # of a fold that ran among the others, the saved config says which one it was
    path = write(to_yaml(Config(name="x", pretrain=PretrainConfig(steps=0), finetune=FinetuneConfig(folds=[3]))))
    refused([path, "--finetune.select_epoch", "shared"], "all 10 folds")


# -- one file that extends another -------------------------------------------------------------------------------------


def test_a_file_is_laid_over_its_base_and_flags_over_both(write):
    space = {"pretrain.lr": {"low": 1e-5, "high": 1e-3}, "pretrain.batch_size": {"choices": [2, 4]}}
    base = with_changes(pretrain={"lr": 2e-4, "batch_size": 7}, data={"fasta": ["a.fa", "b.fa"]}, seed=3)
    write(base | {"search": {"space": space}}, "base.yaml")
    changes = {"extends": "base.yaml", "pretrain": {"lr": 3e-4, "warmup_steps": 9}, "data": {"fasta": ["c.fa"]}}
    changes["search"] = {"space": {"pretrain.lr": {"choices": [1, 2]}}}
    config = load_config([write(changes, "mine.yaml"), "--pretrain.warmup_steps", "8"])
    assert (config.name, config.seed) == ("mine", 3)
    assert (config.pretrain.lr, config.pretrain.batch_size, config.pretrain.warmup_steps) == (3e-4, 7, 8)
    assert config.data.fasta == ["c.fa"]  # lists are replaced
    assert config.search.space == space | {"pretrain.lr": {"choices": [1, 2]}}  # a field's range is replaced whole
    assert "extends" not in to_yaml(config) and load_config([write(to_yaml(config), "saved.yaml")]) == config


def test_bases_are_found_from_the_file_that_names_them_and_chains_go_on(write, tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    write(with_changes(seed=1, pretrain={"lr": 1e-2}, finetune={"patience": 3}), "first.yaml")
    write("extends: ../first.yaml\npretrain: {lr: 1e-3}\nseed: 2\n", "deep/second.yaml")
    path = write("extends: deep/second.yaml\nseed: 5\n", "third.yaml")
    monkeypatch.chdir(ROOT)
    config = load_config([path])
    assert (config.name, config.seed, config.pretrain.lr, config.finetune.patience) == ("third", 5, 1e-3, 3)


@pytest.mark.parametrize(
    "files, message",
    [
        ({"a": "extends: none.yaml\n"}, "config .*a.yaml: extends none.yaml, but .*none.yaml does not exist"),
        ({"a": "extends: a.yaml\n"}, "config .*a.yaml: extends goes in a circle, .*a.yaml -> .*a.yaml"),
        ({"a": "extends: b.yaml\n", "b": "extends: a.yaml\n"}, "config .*b.yaml: extends goes in a circle"),
        ({"a": "extends: [b.yaml]\n"}, "config .*a.yaml: extends is .'b.yaml'., expected the path of one YAML"),
        ({"a": "extends: b.yaml\n", "b": "pretrain: {lr: fast}\n"}, "config .*b.yaml: .*pretrain.lr.*fast"),
        ({"a": "extends: b.yaml\n", "b": "pretrain: {stepz: 3}\n"}, "config .*b.yaml: .*pretrain.stepz.*steps"),
        ({"a": "extends: b.yaml\n", "b": "data:\n"}, "config .*b.yaml: data is None, expected a section"),
    ],
    ids=["missing", "itself", "circle", "two", "type in base", "key in base", "section in base"],
)
def test_a_base_that_does_not_work_is_named(write, files, message):
    for name, text in files.items():
        write(text, f"{name}.yaml")
    refused([write(files["a"], "a.yaml")], message)


# -- configs saved by earlier versions ---------------------------------------------------------------------------------

EARLIER = (ROOT / "tests/data/config-of-all-fields.yaml").read_text(encoding="utf-8")


def test_a_run_folder_of_an_earlier_version_is_read_and_continued(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text(EARLIER)
    (tmp_path / "env.json").write_text('{"inputs": {}}')
    config = load_config([str(tmp_path / "config.yaml")])
    assert (config.mlm.steps, config.mlm.warmup_steps, config.pretrain.steps) == (4, 1, 0)
    resumed = dataclasses.replace(config, pretrain=PretrainConfig(max_shift=3))
    (stage,) = (stage for name, stage in stages(resumed).items() if name == "mlm")
    assert stage == PretrainConfig(objective="mlm", steps=4, warmup_steps=1, max_shift=3)
    RunFolder(tmp_path, stage_config(resumed, "mlm", stage, resumed.model), {}, "cpu")
    other = dataclasses.replace(stage, max_shift=2)
    with pytest.raises(InputError, match="pretrain.max_shift was 3, now 2"):
        RunFolder(tmp_path, stage_config(resumed, "mlm", other, resumed.model), {}, "cpu")


def test_a_control_that_was_saved_with_the_settings_of_its_contrast_is_continued(tmp_path):
    contrast = PretrainConfig(steps=4, temperature=0.1, max_shift=3, projection_head=True, control=True)
    config = Config(name="old", pretrain=contrast)
    now = stages(config)["control"]
    assert (now.temperature, now.max_shift, now.projection_head) == (0.05, 3, False)
    before = dataclasses.replace(now, temperature=0.1, projection_head=True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stage_config(config, "control", before, config.model)))
    (tmp_path / "env.json").write_text('{"inputs": {}}')
    RunFolder(tmp_path, stage_config(config, "control", now, config.model), {}, "cpu")
    with pytest.raises(InputError, match="pretrain.max_shift was 3, now 2"):
        other = dataclasses.replace(now, max_shift=2)
        RunFolder(tmp_path, stage_config(config, "control", other, config.model), {}, "cpu")


def test_only_what_changed_nothing_is_dropped_and_only_in_a_run_folder(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text(EARLIER)
    refused([str(path)], "mlm.objective does not apply to masked bases alone")
    (tmp_path / "env.json").write_text("{}")
    path.write_text(EARLIER.replace("objective: mlm", "objective: simcse"))
    refused([str(path)], "mlm.objective")
    monkeypatch.setitem(saved.RETIRED, "data.gone", False)
    for value, taken in (("false", True), ("true", False)):
        path.write_text(EARLIER.replace("corpus: fasta", f"corpus: fasta, gone: {value}"))
        load_config([str(path)]) if taken else refused([str(path)], "unknown key data.gone")


def test_the_config_that_a_fold_saved_under_a_shared_epoch_is_read(tmp_path):
    config = Config(name="x", pretrain=PretrainConfig(steps=0))
    config.finetune = FinetuneConfig(folds=[3], select_epoch="shared")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    (tmp_path / "env.json").write_text("{}")
    assert load_config([str(tmp_path / "config.yaml")]) == config


# -- help --------------------------------------------------------------------------------------------------------------


def test_help_begins_with_a_short_usage_and_has_the_sections_of_its_script(capsys):
    with pytest.raises(SystemExit):
        load_config(["configs/none.yaml", "--help"], hidden=("finetune",))
    text = capsys.readouterr().out
    usage = text.split("options:")[0]
    assert len(usage.strip().splitlines()) <= 12 and "[CONFIG.yaml] [--section.field value ...]" in usage
    assert "--pretrain.temperature" in text and "--finetune." not in text and "  finetune " not in usage


def test_null_is_refused_where_a_value_is_needed_with_all_other_faults(write):
    path = write({"seed": None, "data": {"context": None, "spliceator": None}, "finetune": {"arms": None, "lr": "x"}})
    with pytest.raises(InputError) as error:
        load_config([path])
    said = str(error.value)
    for part in ("seed is null: give it a value (its default is 0)", "data.context is null", "finetune.lr"):
        assert part in said
    assert "finetune.arms is null" in said and "spliceator" not in said
