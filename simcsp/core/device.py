"""Device, numeric precision, seeds, and glibc's handling of freed memory."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import time
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from simcsp.core.errors import InputError

CPU = torch.device("cpu")


def fit_seed(seed: int, fold: int) -> int:
    """The seed of torch's generators in one fit: every arm's weights of the head and dropout come from it."""
    return int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """The seed of torch's generators in a step of one of several processes: dropout masks are its own, and a run that
    goes on makes them again, whichever processes saved its state."""
    return int(np.random.SeedSequence([seed, 4, step, rank]).generate_state(1)[0])


def forked_rng(device: torch.device) -> AbstractContextManager:
    """A block whose draws leave torch's generators, of the CPU and of this device, as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def set_seed(seed: int) -> None:
    """Seed torch's generators (weights, dropout). Everything else that is random takes a generator of its own."""
    torch.manual_seed(seed)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next step, instead of giving it back to the system.

    A training step on a CPU frees and asks for the same large blocks again and again, and each time the system clears
    their pages: a tenth of the step and more. Nothing happens under another C library, or where the environment sets
    glibc's allocator.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if _is_glibc() and not chosen:
        trim_threshold, mmap_max = -1, -4  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, -1)  # never
        libc.mallopt(mmap_max, 0)


def give_back_freed_memory() -> None:
    """Have glibc give back what is free now, for work that has to stay small: holes between blocks add up otherwise."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def number_format(device: str, precision: str) -> tuple[bool, str]:
    """(whether to train on a GPU, fp32, bf16 or fp16) of the fields device and precision.

    device: auto, cpu or cuda. precision: auto is bf16 where the hardware multiplies it fast (recent GPUs, CPUs with
    AMX), fp16 with loss scaling on older GPUs, else fp32. Raises InputError for what is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device ({device}) must be auto, cpu or cuda; a GPU's name is for pretrain.py --dry-run")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device (cuda): torch sees no CUDA GPU; use --device cpu")
    gpu = torch.cuda.is_available() and device != "cpu"
    if precision == "fp16" and not gpu:
        raise InputError("precision (fp16) needs a GPU; use bf16 or fp32")
    return gpu, _fastest_precision(gpu) if precision == "auto" else precision


def build_accelerator(device: str, precision: str, worker: int = 0, minutes: float = 60.0) -> Accelerator:
    """The device and number format to train in, as of `number_format`.

    worker: one of several processes that share no work; GPUs are dealt to them in turn. minutes: for how long one of
    several that do share work waits for another.
    """
    gpu, precision = number_format(device, precision)
    if gpu and worker:
        torch.cuda.set_device(worker % torch.cuda.device_count())
    if not gpu:
        keep_freed_memory()
    started = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    if gpu and started > torch.cuda.device_count():
        raise InputError(
            f"{started} processes on this machine, and torch sees {torch.cuda.device_count()} GPUs: one process a GPU "
            "(--nproc_per_node), or --device cpu"
        )
    patience = InitProcessGroupKwargs(timeout=timedelta(minutes=minutes))
    return Accelerator(
        mixed_precision={"fp32": "no"}.get(precision, precision), cpu=not gpu, kwargs_handlers=[patience]
    )


def _fastest_precision(gpu: bool) -> str:
    if gpu:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


@functools.cache
def product_rate(device: str, precision: str) -> float:
    """Floating-point operations a second of a matrix product here, measured: the fastest of some."""
    size = 8192 if device == "cuda" else 1024
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left = torch.ones(size, size, dtype=dtype, device=device)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        product = left @ left
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * len(product) ** 3 / min(seconds)


def total_memory(device: torch.device) -> int:
    """Bytes of a device: a GPU's own, else what the machine has or the control group allows."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        limits += [int(text)] if text.isdecimal() else []
    return min(limits)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had: of a GPU, else of this machine within what the control group allows."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines() if Path("/proc/meminfo").is_file() else []
    available = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return min([total_memory(device), *available])


def check_memory(needed: float, what: str, device: torch.device | None = None) -> None:
    """Refuse work that needs more memory than the device has. needed: lower bound in bytes."""
    total = total_memory(device or torch.device("cpu"))
    if needed > total:
        raise InputError(f"{what}: needs at least {needed / 1e9:,.0f} GB of memory, there are {total / 1e9:,.0f} GB")
