"""Processes that share imports: a server imports once, and every worker is a fork of it."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

HEAVY = "simcsp.training.finetuning"
"""What a worker imports, which takes seconds."""


def worker_context(count: int) -> ForkServerContext:
    """Where `count` workers come from, each with an equal part of the cores that this process may use.

    Starts the server at the first call and returns at once: called early, it imports while its parent does so too.
    """
    cores = len(os.sched_getaffinity(0))
    # Read when numpy, torch and OpenMP are loaded; the server does not take over sys.path.
    own = {"OMP_NUM_THREADS": str(max(1, cores // count)), "PYTHONPATH": os.pathsep.join(sys.path)}
    # to see whether there is a GPU must not begin work on it before the fork
    own["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    before = {name: os.environ[name] for name in own if name in os.environ}
    os.environ.update(own)
    try:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([HEAVY])
        forkserver.ensure_running()
    finally:
        for name in own:
            del os.environ[name]
        os.environ.update(before)
    return context
