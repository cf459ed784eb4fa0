"""What a newcomer or a tool looks for first: the package and its commands, licence, citation, conda environment."""

import re
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


def test_every_package_of_the_library_is_built():
    found = set(find_packages(ROOT, include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]))
    folders = {path.parent for path in (ROOT / "simcsp").rglob("*.py")}
    assert found == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def installed(folder, *options):
    """(its site-packages, its interpreter, the copy of the project) of a fresh environment with the project in it. It
    sees the packages of this one; pip writes to the copy."""
    copy, venv = folder / "simcsp", folder / "venv"
    hidden = shutil.ignore_patterns(".*", "runs", "data", "tests", "results", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=hidden)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "around.pth").write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", *options, copy]
    subprocess.run([venv / "bin/python", "-m", "pip", *install], check=True)
    return site, venv / "bin/python", copy


@pytest.mark.slow
def test_an_install_is_of_the_library_alone(tmp_path):
    site, python, copy = installed(tmp_path)
    assert {path.name for path in site.iterdir()} == {"around.pth", "simcsp", "simcsp-1.0.0.dist-info"}
    assert not list(python.parent.glob("simcsp*"))
    code = "import simcsp; print(simcsp.load('models/simcsp-small').embed(['ACGT' * 30]).shape)"
    shown = subprocess.run([python, "-P", "-c", code], cwd=copy, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("(1, ")


@pytest.mark.slow
def test_an_editable_install_gives_the_commands(tmp_path):
    _, python, copy = installed(tmp_path, "--editable")
    code = "import importlib.metadata as m; print(*m.requires('simcsp'), sep='\\n')"
    listed = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    required = [Requirement(line) for line in listed.stdout.splitlines()]
    assert {pin.name for pin in required if not pin.marker} == {pin.name for pin in pins("requirements.txt")}
    assert {pin.name for pin in required if pin.marker} == {pin.name for pin in pins("requirements-dev.txt")}
    for stage in ("pretrain", "finetune", "evaluate"):
        command = [python.with_name(f"simcsp-{stage}"), "--help"]
        shown = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=True).stdout
        assert "CONFIG.yaml" in shown or "--finetune.lr" in shown
    wrong = subprocess.run([python.with_name("simcsp-evaluate"), "scss"], cwd=copy, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "scss" in wrong.stderr


def test_the_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"] == "MIT"
    for work in citation["references"]:
        assert {"type", "title", "authors", "year", "doi"} <= set(work)


def test_conda_installs_the_pins_on_a_supported_python():
    packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert packages[-1] == {"pip": ["-r requirements.txt"]} and "pip" in packages
    python = next(item for item in packages if str(item).startswith("python="))
    assert f">={python.split('=')[1]}" == PROJECT["project"]["requires-python"]


def test_no_placeholder_is_left_in_a_document():
    """Such as a line DEMO_TABLE where a table was to be."""
    patterns = [f"{folder}/*.md" for folder in (".", "configs", "data", "docs", "results", "benchmarks", "models/*")]
    texts = [path for pattern in (*patterns, "configs/*.yaml") for path in ROOT.glob(pattern)]
    placeholder = re.compile(r"^\W*[A-Z]+(_[A-Z]+)+\W*$|\b(TO-?DO|FIX-?ME|T\.?B\.?D|X{3})\b", re.M)
    assert placeholder.search("\n```\nDEMO_TABLE\n```\n") and len(texts) > 20
    left = {str(path.relative_to(ROOT)): placeholder.findall(path.read_text(encoding="utf-8")) for path in texts}
    assert {path: words for path, words in left.items() if words} == {}
