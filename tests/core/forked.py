"""Scripts in forks of a process that has imported what they need: what a test kills is work, not seconds of imports.

As a program it is a server: for each JSON line {"folder", "script", "words", "environment"} on stdin it runs a script
in a fork and answers with its exit status. test_faults.py starts it under faults.c.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

IMPORTED = ("pretrain", "finetune", "evaluate", "optuna", "simcsp.training.pretraining", "simcsp.training.finetuning")
IMPORTED += ("simcsp.report.write", "commands.classifiers", "commands.encoders", "commands.genome", "commands.runs")


def import_all():
    for name in IMPORTED:
        importlib.import_module(name)


def run_forked(folder, script, words):
    """Run a script in this process, a fork, from `folder`, its output in script.log there; returns its exit status."""
    from utils.script import run_script

    try:
        os.setsid()
        os.chdir(folder)
        log = os.open("script.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        main = importlib.import_module(Path(script).stem)
        sys.modules["__main__"], sys.argv = main, [script, *map(str, words)]  # the workers import it
        run_script(main.main)
        return 0
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        return exit.code if isinstance(exit.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


def serve():
    import_all()
    for line in sys.stdin:
        asked = json.loads(line)
        if (pid := os.fork()) == 0:
            os.environ.update(asked["environment"])
            os._exit(run_forked(asked["folder"], asked["script"], asked["words"]))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    serve()
