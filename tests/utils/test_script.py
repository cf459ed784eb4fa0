"""How a script speaks to whoever started it."""

import os
import select
import subprocess
import sys

from conftest import ROOT


def test_a_line_reaches_a_pipe_at_once():
    """As `bash pretrain.sh | tee log`, or a job whose output is a file, shows what a training does while it does it."""
    code = "import time; from utils.script import run_script; run_script(lambda: (print('now'), time.sleep(40)))"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, stdout=subprocess.PIPE) as process:
        assert select.select([process.stdout], [], [], 20)[0]
        assert process.stdout.readline() == b"now\n"
        process.kill()
