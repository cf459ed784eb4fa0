"""What a newcomer or a tool looks for first: the package and its commands, licence, citation, conda environment."""

import shutil
import subprocess
import sys
import sysconfig
import tomllib

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from setuptools import find_packages

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(name):
    return [Requirement(line) for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]


def test_dependencies_are_read_from_the_pins():
    """setuptools takes these files line by line, and knows none of pip's own options (`-r FILE`)."""
    dynamic = PROJECT["tool"]["setuptools"]["dynamic"]
    assert set(PROJECT["project"]["dynamic"]) == {"dependencies", "optional-dependencies"}
    for files in (dynamic["dependencies"]["file"], dynamic["optional-dependencies"]["dev"]["file"]):
        assert all(pin.specifier for name in files for pin in pins(name))


def test_every_package_of_ours_is_found():
    settings = PROJECT["tool"]["setuptools"]
    found = set(find_packages(ROOT, include=settings["packages"]["find"]["include"]))
    folders = {path.parent for top in ("utils", "simcsp", "commands") for path in (ROOT / top).rglob("*.py")}
    assert found == {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert settings["py-modules"] == [target.split(":")[0] for target in PROJECT["project"]["scripts"].values()]


@pytest.mark.slow
def test_an_editable_install_gives_the_commands(tmp_path):
    """In a fresh environment that sees the packages of this one, from a copy, which pip writes to."""
    copy, venv = tmp_path / "simcsp", tmp_path / "venv"
    hidden = shutil.ignore_patterns(".*", "runs", "data", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=hidden)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "around.pth").write_text(sysconfig.get_paths()["purelib"])
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", copy]
    subprocess.run([venv / "bin/python", "-m", "pip", *install], check=True)
    code = "import importlib.metadata as m; print(*m.requires('simcsp'), sep='\\n')"
    listed = subprocess.run([venv / "bin/python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    required = [Requirement(line) for line in listed.stdout.splitlines()]
    assert {pin.name for pin in required if not pin.marker} == {pin.name for pin in pins("requirements.txt")}
    assert {pin.name for pin in required if pin.marker} == {pin.name for pin in pins("requirements-dev.txt")}
    for stage in ("pretrain", "finetune", "evaluate"):
        command = [venv / f"bin/simcsp-{stage}", "--help"]
        shown = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=True).stdout
        assert "CONFIG.yaml" in shown or "--finetune.lr" in shown
    wrong = subprocess.run([venv / "bin/simcsp-evaluate", "scss"], cwd=copy, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "'scss' is no command" in wrong.stderr


def test_the_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"] == "MIT"
    for work in citation["references"]:
        assert {"type", "title", "authors", "year", "doi"} <= set(work)


def test_the_licence_is_the_one_that_is_named():
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith("MIT License\n") and "the SimCSP authors" in licence


def test_conda_installs_the_pins_on_a_supported_python():
    packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert packages[-1] == {"pip": ["-r requirements.txt"]} and "pip" in packages
    python = next(item for item in packages if str(item).startswith("python="))
    assert f">={python.split('=')[1]}" == PROJECT["project"]["requires-python"]


def test_contributing_is_short_and_names_folders_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 30
    assert (ROOT / "results/record.py").is_file() and "results/record.py" in text
