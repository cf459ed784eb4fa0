"""Paths of a run folder: built and parsed in one module, and spelled out in no other."""

import ast
import re
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from simcsp.core import locks, run_layout
from simcsp.core.errors import InputError
from simcsp.core.run_layout import FitKey, begun_stages, fit_key, run_of_stage, stage_folders, stage_name

ARM = st.text("abz019_-. ", min_size=1).filter(lambda name: name.strip(". ") == name)
NUMBER = st.integers(0, 10**6)
KEYS = st.builds(
    FitKey,
    arm=ARM | st.sampled_from(["windows50", "pretrain3", "draw1", "both", "seed0"]),
    site=st.sampled_from(["donor", "acceptor", "both", "bases"]),
    seed=NUMBER,
    fold=NUMBER,
    pretrain_seed=st.none() | NUMBER,
    train_windows=st.none() | NUMBER,
)


@given(KEYS, NUMBER)
def test_the_folder_of_a_fit_is_read_back_as_the_fit(key, draw):
    key = key if key.train_windows is None else FitKey(**{**vars(key), "draw": draw})
    assert fit_key(key.folder(Path("/somewhere/runs/a"))) == key


@pytest.mark.parametrize(
    "path", ["runs/a", "runs/a/pretrain/seed3", "runs/a/finetune/last/both/seed0", "both/seed0/fold00"]
)
def test_any_other_folder_is_refused(path):
    with pytest.raises(InputError, match=re.escape(path)):
        fit_key(Path("/") / path)


def test_stages_are_listed_by_seed_and_know_their_run(tmp_path):
    for stage, seeds in (("mlm", [None]), ("pretrain", [10, 2]), ("control", [2])):
        for seed in seeds:
            (tmp_path / stage_name(stage, seed)).mkdir(parents=True)
            (tmp_path / stage_name(stage, seed) / run_layout.ENVIRONMENT).touch()
    assert list(stage_folders(tmp_path, "pretrain")) == [2, 10] and list(stage_folders(tmp_path, "mlm")) == [None]
    stages = begun_stages(tmp_path)
    names = [str(path.relative_to(tmp_path)) for path in stages]
    assert names == ["mlm", "pretrain/seed2", "pretrain/seed10", "control/seed2"]
    assert {run_of_stage(path) for path in stages} == {tmp_path}


# -- no other module spells them out -----------------------------------------------------------------------------------

NAMES = {
    part
    for name, value in vars(run_layout).items()
    if name.isupper() and not name.startswith("_") and isinstance(value, str)
    for part in value.split("/")
} - {"bases", "config.json"} | {locks.LOCK}
LEVEL = re.compile(r"(seed|fold|windows|draw|pretrain|trial|step-)(\d+|\*|\[.*)?$")
FILES = [name for name in NAMES if "." in name]
FOLDERS = ("simcsp", "utils", "commands", "workflow")
READ = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
READ += [ROOT / name for name in ("pretrain.py", "finetune.py", "evaluate.py", "results/record.py")]


def parts_of(node):
    """Levels of a path that a string literal, or the constant parts of an f-string, spells out."""
    pieces = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [piece.value for piece in pieces if isinstance(piece, ast.Constant) and isinstance(piece.value, str)]
    return [level for text in texts for level in text.split("/")]


def literals(tree):
    """(line, level) of what is joined to a path, looked for in one or compared with a name in it; and of every literal
    that is the name of a file of a run folder."""
    for node in ast.walk(tree):
        operands = [node.left, node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("glob", "rglob", "joinpath", "with_name"):
                operands += node.args
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == "name":
            operands += [one for one in node.comparators if isinstance(one, ast.Constant)]
        for operand in operands:
            if isinstance(operand, (ast.Constant, ast.JoinedStr)):
                yield from ((node.lineno, level) for level in parts_of(operand) if level in NAMES or LEVEL.match(level))
        if isinstance(node, ast.Constant) and node.value in FILES:
            yield node.lineno, node.value


def test_no_other_module_holds_a_path_of_a_run_folder():
    others = [path for path in READ if path.name not in ("run_layout.py", "locks.py")]
    assert len(others) > 100
    for path in others:
        assert not list(literals(ast.parse(path.read_text(encoding="utf-8")))), path


@pytest.mark.parametrize(
    "line",
    [
        'run / "splits/splits.json"',
        'run / f"seed{n}"',
        'run.glob("finetune/*/*/**/seed*/fold*")',
        'names = ["env.json"]',
        'path.with_name("config.yaml")',
        'stage.name == "mlm"',
        'f"{run}" / "checkpoints"',
    ],
)
def test_the_reader_of_literals_sees_each_way_to_spell_one(line):
    assert list(literals(ast.parse(line)))
