"""Tensors that say they are on cuda:0 and keep their numbers on the host, where there is no GPU.

What CUDA would refuse (tensors of two devices in one operation), where the host would wait for the device, what is
copied to it, and the bytes that are alive on it, are counted; the first three by line of the project. It shows neither
speed nor kernels' own rounding, and one device alone.

    LD_PRELOAD=guard.so python emulation.py OUT.json FORMAT SCRIPT ARGUMENT ...   FORMAT: bf16, fp16
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import sys
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

ROOT = Path(__file__).resolve().parents[2]
CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
SIZE_DEPENDS_ON_NUMBERS = (aten.nonzero.default, aten.masked_select.default, aten._unique2.default)
NO_KERNEL = ("empty", "detach", "_unsafe_view", "alias", "lift_fresh")  # besides views
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class Counts:
    """refused, waits, copies: Counter of lines; operations: of their names, and moved: bytes that those of them that
    are kernels read and write; alive, peak: bytes."""

    def __init__(self) -> None:
        self.refused, self.waits, self.copies, self.operations = Counter(), Counter(), Counter(), Counter()
        self.moved: Counter[str] = Counter()
        self.alive = self.peak = self.kernels = 0
        self.storages: Counter[int] = Counter()
        self.generator = torch.Generator().manual_seed(1).get_state()
        self.like = "cpu"


counts = Counts()


class Held:
    """A tensor's share in a storage, while the tensor lives. No weak reference: such tensors modules cannot swap."""

    def __init__(self, host: torch.Tensor) -> None:
        storage = host.untyped_storage()
        self.key, self.size = storage._cdata, storage.nbytes()
        if not counts.storages[self.key]:
            counts.alive += self.size
            counts.peak = max(counts.peak, counts.alive)
        counts.storages[self.key] += 1

    def __del__(self) -> None:
        counts.storages[self.key] -= 1
        if not counts.storages[self.key]:
            counts.alive -= self.size


class OnCuda(torch.Tensor):
    """host: the tensor that has the numbers, or, on the device meta, nothing but a size."""

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> OnCuda:
        layout = {"strides": host.stride(), "storage_offset": host.storage_offset(), "layout": host.layout}
        return torch.Tensor._make_wrapper_subclass(cls, host.size(), dtype=host.dtype, device=CUDA, **layout)

    def __init__(self, host: torch.Tensor) -> None:
        self.host, self.held = host, Held(host)

    def __repr__(self, **_) -> str:
        return f"OnCuda({self.host!r})"

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        copy = OnCuda(self.host.clone())
        memo[id(self)] = torch.nn.Parameter(copy, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copy
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            return dispatch(func, args, kwargs or {})


class Watch(TorchDispatchMode):
    """For what makes a tensor on the device from none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            return dispatch(func, args, kwargs or {})


def on_host(values):
    return tree_map_only(OnCuda, lambda tensor: tensor.host, values)


def line_of_project() -> str:
    """The innermost line of the project, else of the libraries that it calls for a step."""
    frames = traceback.extract_stack()
    for inside in (f"{ROOT}/simcsp/", f"{ROOT}/", "site-packages/accelerate/", "site-packages/transformers/"):
        for frame in reversed(frames):
            if inside in frame.filename and frame.filename != __file__:
                return f"{frame.filename.removeprefix(f'{ROOT}/')}:{frame.lineno} {frame.line}"
    return "backward"


def dispatch(func, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if not any(isinstance(tensor, OnCuda) for tensor in tensors) and (device is None or device.type != "cuda"):
        return func(*args, **kwargs)
    counts.operations[str(func)] += 1
    _note(func, args, tensors, device)
    if func is aten.copy_.default:
        func(*on_host(args), **on_host(kwargs))
        return _kernel(func, tensors[1:], args[0])
    to_host = device is not None and device.type != "cuda"
    host_args, host_kwargs = on_host((args, kwargs))
    if func is aten._local_scalar_dense.default:
        return func(*host_args) if counts.like == "cpu" else 0.0
    if device is not None:  # what is on the device stays where its numbers are, also when it is copied to the host
        from_device = isinstance(tensors[0], OnCuda) if tensors else False
        host_kwargs["device"] = tensors[0].host.device if from_device else counts.like
    out = _with_own_generator(func, host_args, host_kwargs)
    if to_host:
        return out
    if func is aten._to_copy.default and out is host_args[0]:
        out = out.clone()
    out = tree_map_only(torch.Tensor, lambda tensor: tensor if isinstance(tensor, OnCuda) else OnCuda(tensor), out)
    if not func.is_view and not any(word in str(func) for word in NO_KERNEL):
        changed = args[2:4] if func is aten._fused_adamw_.default else ()  # moments
        _kernel(func, tensors, (args[0], *changed) if func._schema.is_mutable else out)
    return return_and_correct_aliasing(func, args, kwargs, out)


def _kernel(func, read, written):
    """Count a kernel, which reads and writes these tensors; returns what it writes."""
    moved = [*read, *(leaf for leaf in tree_leaves(written) if isinstance(leaf, torch.Tensor))]
    if func is aten.native_layer_norm_backward.default:  # gradients of the states, and of scale and shift
        counts.kernels += 1
        moved += read[:2]
    if func is aten.addmm_.default:  # besides a product: what it is added to
        moved = read[:1]
    if func is aten.bernoulli_.float:  # written alone
        moved = read[:1]
    counts.kernels += 1
    counts.moved[str(func)] += sum(tensor.numel() * tensor.element_size() for tensor in moved)
    return written


def _note(func, args, tensors, device) -> None:
    """Count what this operation would cost or be refused for."""
    if func in (aten._to_copy.default, aten.copy_.default):
        onto, source = (args[0], args[1]) if func is aten.copy_.default else (device, args[0])
        onto_device = isinstance(onto, OnCuda) if func is aten.copy_.default else onto is None or onto.type == "cuda"
        if onto_device != isinstance(source, OnCuda):
            (counts.copies if onto_device else counts.waits)[line_of_project()] += 1
        return
    others = [tensor for tensor in tensors if not isinstance(tensor, OnCuda)]
    mask = func in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1])
    if func in (aten._local_scalar_dense.default, aten.equal.default, *SIZE_DEPENDS_ON_NUMBERS) or mask:
        counts.waits[line_of_project()] += 1
    if func in INDEXING and isinstance(args[0], OnCuda):
        others = []  # CUDA copies an index to the device
    if len(others) < len(tensors) and any(
        tensor.ndim or "fused_adam" in str(func) or "_amp_" in str(func) for tensor in others
    ):
        counts.refused[f"{func}: {line_of_project()}"] += 1


def _with_own_generator(func, args, kwargs):
    """The device has a generator of its own."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return func(*args, **kwargs)
    before = torch.random.default_generator.get_state()
    torch.random.default_generator.set_state(counts.generator)
    try:
        return func(*args, **kwargs)
    finally:
        counts.generator = torch.random.default_generator.get_state()
        torch.random.default_generator.set_state(before)


def install(bf16: bool = True, like: str = "cpu") -> None:
    """From here on torch has a GPU. like: where its tensors' numbers are; meta: nowhere, sizes alone are counted."""
    counts.like = like
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.backends.cudnn.enabled = False
    cuda, memory = torch.cuda, 80 * 2**30
    properties = SimpleNamespace(total_memory=memory, name="emulated", major=9, minor=0, multi_processor_count=132)
    answers = {
        "is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0, "set_device": None,
        "get_device_properties": properties, "get_device_name": "emulated", "get_device_capability": (9, 0),
        "is_bf16_supported": bf16, "mem_get_info": (memory, memory), "empty_cache": None, "_lazy_init": None,
        "reset_peak_memory_stats": None, "_is_in_bad_fork": False,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(cuda, name, lambda *_, answer=answer, **__: answer)

    def seed(number: int) -> None:
        counts.generator = torch.Generator().manual_seed(int(number) + 12345).get_state()

    def wait(*_) -> None:
        counts.waits[line_of_project()] += 1

    def set_state(state: torch.Tensor, *_) -> None:
        counts.generator = state.clone()

    cuda.manual_seed = cuda.manual_seed_all = cuda.random.manual_seed_all = seed
    cuda.get_rng_state, cuda.set_rng_state = lambda *_: counts.generator.clone(), set_state
    cuda.synchronize, cuda.max_memory_allocated = wait, lambda *_: counts.peak
    cuda.device = lambda *_: contextlib.nullcontext()
    cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.utils._foreach_utils._foreach_supported_types.append(OnCuda)  # as plain tensors are
    torch.Tensor.pin_memory = lambda tensor, *_: tensor.clone()
    if like == "meta":  # the kernels that CUDA takes; the host can compute the plain one alone
        torch.nn.functional.scaled_dot_product_attention = fused_attention
    _read_and_write_host_tensors()
    Watch().__enter__()


def fused_attention(query, key, value, mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
    """Flash attention in half precision, the memory-efficient one in float32."""
    if query.dtype == torch.float32:
        options = {"compute_log_sumexp": True, "dropout_p": dropout_p, "scale": scale}
        return aten._scaled_dot_product_efficient_attention(query, key, value, None, **options)[0]
    return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, scale=scale)[0]


def _read_and_write_host_tensors() -> None:
    """Files hold plain tensors, as they do with a GPU. Before the project is imported."""
    import safetensors.torch
    from transformers import PreTrainedModel

    def plain(values):
        return tree_map_only(OnCuda, lambda tensor: tensor.detach().host.clone(), values)

    save, load, save_file, save_pretrained = torch.save, torch.load, safetensors.torch.save_file, None
    save_pretrained = PreTrainedModel.save_pretrained

    def load_to(path, map_location=None, **options):
        values = load(path, map_location="cpu", **options)
        if map_location is None or torch.device(map_location).type == "cpu":
            return values
        return tree_map_only(torch.Tensor, OnCuda, values)

    torch.save = lambda values, *more, **options: save(plain(values), *more, **options)
    torch.load = load_to
    safetensors.torch.save_file = lambda values, *more, **options: save_file(plain(dict(values)), *more, **options)
    PreTrainedModel.save_pretrained = lambda model, *more, **options: save_pretrained(
        model, *more, **options | {"state_dict": plain(dict(model.state_dict()))}
    )


def main() -> None:
    out, number_format, script, *words = sys.argv[1:]
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    install(number_format == "bf16")
    import simcsp.core.device

    simcsp.core.device.product_rate = lambda *_: 1e12  # sized for a GPU
    sys.argv = [f"{script}.py", *words, "--device", "cuda", "--precision", number_format]
    try:
        runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
    finally:
        told = {name: getattr(counts, name) for name in ("refused", "waits", "copies", "operations", "kernels", "peak")}
        Path(out).write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
