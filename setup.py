"""What pyproject.toml cannot say: the commands, which read configs/ and models/ of a clone, come with an editable
install alone; `pip install .` installs the library simcsp and nothing else."""

import sys

from setuptools import setup

COMMANDS = [f"simcsp-{script} = {script}:cli" for script in ("pretrain", "finetune", "evaluate")]

setup(entry_points={"console_scripts": COMMANDS} if "editable_wheel" in sys.argv else {})
