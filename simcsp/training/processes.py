"""The processes of one training, as torchrun or `accelerate launch` starts them: their shares, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed._functional_collectives import all_gather_single

from simcsp.core.errors import InputError, started_together


@dataclass(frozen=True)
class Processes:
    """By default this process alone, to which all of it is free. The first one validates, writes and prints."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """The rows of a batch that this process computes: equal parts in the order of ranks."""
        part = rows // self.count
        return slice(self.rank * part, (self.rank + 1) * part)

    def draws(self, rng: np.random.Generator, rows: int) -> np.random.Generator | DrawsOfRows:
        """What draws for this process's rows of a batch what `rng` draws for all of them."""
        return rng if self.count == 1 else DrawsOfRows(rng, self.share(rows), rows)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """[n, ...] of each process -> [count n, ...] in the order of ranks, the same in all of them.

        The gradient of a process's rows is the sum of what the losses of all processes give it.
        """
        return rows if self.count == 1 else all_gather_single(rows.contiguous(), 0, dist.group.WORLD)

    def average(self, value: torch.Tensor) -> torch.Tensor:
        """Mean over the processes, without a gradient."""
        if self.count == 1:
            return value
        total = value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
        dist.all_reduce(total)
        return total / self.count

    def most(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if self.count == 1:
            return number
        largest = torch.tensor(number, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def told(self, value: Any) -> Any:
        """What the first process has (numbers, strings, tensors on the CPU); the others wait for it."""
        if self.count == 1:
            return value
        box = [value if self.first else None]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def wait(self) -> None:
        self.most(0)


@dataclass(frozen=True)
class DrawsOfRows:
    """The rows `own` of the arrays [count, ...] that a generator draws, which it moves as one process alone would."""

    rng: np.random.Generator
    own: slice
    count: int

    def random(self, size: tuple[int, ...]) -> np.ndarray:
        """float64 [own, ...]."""
        return self.rng.random((self.count, *size[1:]))[self.own]

    def integers(self, low: int, high: int, size: int | tuple[int, ...], **options: Any) -> np.ndarray:
        """int64 [own, ...]."""
        row = size[1:] if isinstance(size, tuple) else ()
        return self.rng.integers(low, high, size=(self.count, *row), **options)[self.own]


def processes_of(accelerator: Accelerator) -> Processes:
    return Processes(accelerator.process_index, accelerator.num_processes, accelerator.device)


@contextmanager
def one_for_all() -> Iterator[None]:
    """Where another process has ended, the connection to it breaks in this one: say that."""
    try:
        yield
    except RuntimeError as error:
        if started_together() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise InputError(
                "another process of this training has ended, and so has this one; the message of that one says why"
            ) from error
        raise
