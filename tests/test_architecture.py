"""Imports run one way, core < text < labels, model < metrics < training, genome < report, and the library stands alone:
the scripts and evaluate.py's commands import it and utils/, never the other way round."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [["simcsp.core"], ["simcsp.text"], ["simcsp.labels", "simcsp.model"], ["simcsp.metrics"]]
FLOORS += [["simcsp.training", "simcsp.genome"], ["simcsp.report"], ["simcsp.api"], ["simcsp.__init__"]]
FLOORS += [["utils"], ["commands"], ["pretrain", "finetune", "evaluate"]]
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
FILES = [path for folder in ("simcsp", "utils", "commands") for path in sorted((ROOT / folder).rglob("*.py"))]


def package_of(module):
    return next((package for package in FLOOR_OF if f"{module}.".startswith(f"{package}.")), None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_its_own_package_and_lower_floors_and_nothing_private(path):
    own = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for node in ast.walk(ast.parse(path.read_text())):
        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert own in ("commands", "utils") or not {"argparse", "jsonargparse"} & set(found), (
            "flags are for utils/, commands/"
        )
        for package in {package_of(module) for module in found} - {own, None}:
            assert FLOOR_OF[package] < FLOOR_OF[own], f"{own} imports {package}"
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            assert not private, f"{private} of {package} is private"
