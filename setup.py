"""What pyproject.toml cannot say: the commands, which read configs/ and models/ of a clone, come with an editable
install alone; `pip install .` installs the library simcsp and nothing else."""

from pathlib import Path

from setuptools import setup
from setuptools.command.editable_wheel import editable_wheel

COMMANDS = [f"simcsp-{script} = {script}:cli" for script in ("pretrain", "finetune", "evaluate")]


class EditableWheel(editable_wheel):
    """Adds the commands to an editable build, whose metadata pip has had made before."""

    def run(self) -> None:
        self.distribution.entry_points = {"console_scripts": COMMANDS}
        if self.dist_info_dir is not None:
            text = "\n".join(["[console_scripts]", *COMMANDS, ""])
            Path(self.dist_info_dir, "entry_points.txt").write_text(text, encoding="utf-8")
        super().run()


setup(cmdclass={"editable_wheel": EditableWheel})
