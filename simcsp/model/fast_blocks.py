"""Residual blocks of a model of bases on a CPU, in float32: half of the multiplications, equal within rounding.

Four outputs of a convolution of four taps are sixteen products, or seven by Toom and Cook's algorithm: text and taps
are polynomials, whose values at seven points are multiplied (Winograd, Arithmetic complexity of computations, 1980; for
networks Lavin and Gray, CVPR 2016). Wider convolutions are sums of such, four taps each. The products are one grouped
convolution of oneDNN; the way to the points and back is numba's, together with batch norm, ReLU and the shortcut.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from simcsp.model.bases import BaseClassifier, Block

TAPS = 4
"""Taps, and outputs, of one convolution at points."""
_VALUES = 2 * TAPS - 1
_TAPS_TO_VALUES = np.array(  # at 0, 1, -1, 2, -2, 1/2 and infinity, divided so that _to_points has few factors
    [
        [1 / 4, 0, 0, 0],
        [1 / 6, 1 / 6, 1 / 6, 1 / 6],
        [1 / 9, -1 / 9, 1 / 9, -1 / 9],
        [1 / 36, 2 / 36, 4 / 36, 8 / 36],
        [1 / 60, -2 / 60, 4 / 60, -8 / 60],
        [32 / 45, 16 / 45, 8 / 45, 4 / 45],
        [0, 0, 0, 1 / 2],
    ]
)
_ROWS = 1024
"""Rows of values at once, a thread: they stay in the second cache of a core, or nearly."""
f4 = np.float32


def _activate(states, scale, shift, start, active):
    """active [n, channels] = ReLU of states [length, channels], scaled and shifted, from row `start` on; 0 beyond."""
    for row in range(len(active)):
        if 0 <= start + row < len(states):
            for c in range(active.shape[1]):
                active[row, c] = max(states[start + row, c] * scale[c] + shift[c], f4(0))
        else:
            active[row] = 0


def _to_points(active, dilation, values):
    """values [rows, _VALUES, channels], each of seven rows of active, `dilation` apart; a next four on."""
    for row in range(len(values)):
        at = row // dilation * TAPS * dilation + row % dilation
        for c in range(active.shape[1]):
            x0, x1 = active[at, c], active[at + dilation, c]
            x2, x3 = active[at + 2 * dilation, c], active[at + 3 * dilation, c]
            x4, x5 = active[at + 4 * dilation, c], active[at + 5 * dilation, c]
            x6 = active[at + 6 * dilation, c]
            odd = f4(4) * x1 - f4(5) * x3 + x5
            values[row, 0, c] = f4(4) * x0 - f4(5) * x2 + x4 - f4(2) * odd
            values[row, 1, c] = f4(4) * (x2 - x1) + f4(9) * x3 - x4 - f4(2) * x5
            values[row, 2, c] = f4(6) * x2 - f4(2) * x1 - f4(3.5) * x3 - f4(1.5) * x4 + x5
            values[row, 3, c] = x1 - f4(2) * x3 + x5 + f4(1.5) * (x4 - x2)
            values[row, 4, c] = x1 - x5 + f4(2.5) * (x4 - x2)
            values[row, 5, c] = odd
            values[row, 6, c] = f4(8) * x2 - f4(10) * x4 + f4(2) * x6 - odd


def _from_points(values, bias, start, dilation, added, outputs):
    """outputs [length, channels] from row `start` on: four of each row of values, and bias.

    added: to what stands there; else in its place.
    """
    length, channels = outputs.shape
    results = np.empty((TAPS, channels), dtype=f4)
    for row in range(len(values)):
        for c in range(channels):
            even, odd = values[row, 1, c] + values[row, 2, c], values[row, 1, c] - values[row, 2, c]
            even_of_two, odd_of_two = values[row, 3, c] + values[row, 4, c], values[row, 3, c] - values[row, 4, c]
            half = values[row, 5, c]
            results[0, c] = bias[c] + even + even_of_two + half + values[row, 0, c]
            results[1, c] = bias[c] + odd + f4(2) * odd_of_two + f4(0.5) * half
            results[2, c] = bias[c] + even + f4(4) * even_of_two + f4(0.25) * half
            results[3, c] = bias[c] + odd + f4(8) * odd_of_two + f4(0.125) * half + values[row, 6, c]
        at = start + row // dilation * TAPS * dilation + row % dilation
        for k in range(TAPS):
            if at + k * dilation < length:
                for c in range(channels):
                    before = outputs[at + k * dilation, c] if added else f4(0)
                    outputs[at + k * dilation, c] = before + results[k, c]


_LOOPS = {
    _activate: "void(f4[:, ::1], f4[::1], f4[::1], i8, f4[:, ::1])",
    _to_points: "void(f4[:, ::1], i8, f4[:, :, ::1])",
    _from_points: "void(f4[:, :, ::1], f4[::1], i8, i8, b1, f4[:, ::1])",
}


@cache
def _compiled() -> tuple[Callable, ...]:
    """The three loops, compiled, which takes some seconds: kept for the next process where that can be written."""
    from numba import njit  # half a second, for whoever predicts

    def compile_all(kept: bool) -> tuple[Callable, ...]:
        options = {"nogil": True, "fastmath": {"contract"}, "cache": kept}
        return tuple(njit(types, **options)(loop) for loop, types in _LOOPS.items())

    try:
        return compile_all(True)
    except (RuntimeError, OSError):
        return compile_all(False)


class FastConvolution:
    """Batch norm, ReLU and convolution of a `Block` in evaluation mode."""

    def __init__(self, norm: nn.BatchNorm2d, convolution: nn.Conv2d) -> None:
        (_, self.width), (_, self.dilation) = convolution.kernel_size, convolution.dilation
        self.parts = -(-self.width // TAPS)
        with torch.no_grad():
            scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
            shift = norm.bias.double() - norm.running_mean.double() * scale
            taps = F.pad(convolution.weight.double()[:, :, 0], (0, self.parts * TAPS - self.width))
            taps = taps.unflatten(-1, (self.parts, TAPS))
            values = torch.einsum("vt,oipt->voip", torch.from_numpy(_TAPS_TO_VALUES), taps)
            self.weights = values.flatten(0, 1)[:, :, None].float().contiguous(memory_format=torch.channels_last)
            self.scale, self.shift, self.bias = (v.float().numpy().copy() for v in (scale, shift, convolution.bias))

    def __call__(self, states: np.ndarray, outputs: np.ndarray, added: bool, over: Callable[..., Iterable]) -> None:
        """Of states [length, channels] into outputs alike, or added to what stands there. over: `map` or a pool's."""
        tiles = -(-len(states) // (TAPS * self.dilation))
        step = max(1, _ROWS // self.dilation)

        def convolve(first: int) -> None:
            self._convolve(states, outputs, added, first, min(step, tiles - first))

        for _ in over(convolve, range(0, tiles, step)):
            pass  # whatever a thread raises is raised here

    def _convolve(self, states: np.ndarray, outputs: np.ndarray, added: bool, first: int, tiles: int) -> None:
        activate, to_points, from_points = _compiled()
        channels, dilation = states.shape[1], self.dilation
        read = tiles + self.parts - 1
        start = first * TAPS * dilation
        active = np.empty(((read * TAPS + TAPS - 1) * dilation, channels), dtype=f4)
        activate(states, self.scale, self.shift, start - self.width // 2 * dilation, active)
        values = torch.empty(read * dilation, _VALUES, channels)
        to_points(active, dilation, values.numpy())
        image = values.view(1, 1, len(values), -1).permute(0, 3, 1, 2)
        products = F.conv2d(image, self.weights, dilation=(1, dilation), groups=_VALUES)
        products = products.permute(0, 2, 3, 1).reshape(-1, _VALUES, channels)
        from_points(products.numpy(), self.bias, start, dilation, added, outputs)


class FastBlock(nn.Module):
    """A `Block` in evaluation mode: states [batch, channels, 1, length], channels-last, are changed in place."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.first, self.second = (FastConvolution(*pair) for pair in zip(block.norms, block.convolutions))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        with _parallel_map() as over:
            for text in states.permute(0, 2, 3, 1)[:, 0].numpy():
                hidden = np.empty_like(text)
                self.first(text, hidden, False, over)
                self.second(hidden, text, True, over)
        return states


@contextmanager
def _parallel_map() -> Iterator[Callable[..., Iterable]]:
    """A `map` on as many threads as torch has, of which each calls torch with one."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool.map
        finally:
            torch.set_num_threads(threads)  # what the others set holds for MKL here as well


def with_fast_blocks(model: BaseClassifier) -> BaseClassifier:
    """A model for evaluation that shares the weights of this one but for its blocks, made from those of this moment."""
    fast = copy.copy(model)
    fast._modules = dict(model._modules)
    for name in {"blocks", "coarse", "final"} & set(fast._modules):
        fast._modules[name] = nn.Sequential(*map(FastBlock, fast._modules[name]))
    return fast


def for_prediction(model: BaseClassifier, accelerator: Accelerator) -> BaseClassifier:
    """The model on its device in the form that predicts fastest there."""
    in_place = model.to(accelerator.device)
    float32_on_cpu = accelerator.device.type == "cpu" and accelerator.mixed_precision == "no"
    return with_fast_blocks(in_place) if float32_on_cpu else in_place
