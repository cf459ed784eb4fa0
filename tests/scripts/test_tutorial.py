"""docs/tutorial.md, run as it stands: every bash block, in order, in a folder of its own."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", TUTORIAL, re.M | re.S)


@pytest.mark.slow
def test_the_tutorial_ends_with_a_verdict_in_ten_minutes_of_processor_time(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "data").mkdir()
    for name in ("pretrain.py", "finetune.py", "evaluate.py", "models", "data/demo.py", "data/motifs.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    before, said = resource.getrusage(resource.RUSAGE_CHILDREN), []
    for block in BLOCKS:
        command = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(*said, sep="\n")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"processor time: {seconds / 60:.1f} minutes")
    assert seconds < 600
    plan, trained, status = said[-3:]
    printed = next(block for block in TUTORIAL.split("```") if block.startswith("\nlabels"))
    for line in printed.strip().splitlines():
        parts = [re.escape(part) for part in line.split("...")]
        assert re.search("(?m)^" + ".*".join(parts), plan), line
    report = tmp_path / "runs/tutorial/report"
    verdict = re.search(r"> \*\*(.*)\*\*", (report / "report.md").read_text())[1]
    assert "last - control_last = " in verdict and verdict in trained
    assert {path.name for path in report.glob("*.png")} >= {"f1.png", "curves.png", "proxies.png", "umap.png"}
    assert re.search(r"^tutorial +finetune +fits done: 50 +done ", status, re.M)
