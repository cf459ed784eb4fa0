"""Peak bytes of a step of pre-training, counted on tensors of the device that have no numbers, and as estimated; its
kernels, and the bytes that they move, matrix products and attention apart.

LD_PRELOAD=guard.so python memory.py     one JSON line a case: the numbers and what it is
"""

from __future__ import annotations

import gc
import json
import sys

import emulation
import numpy as np

sys.path.insert(0, str(emulation.ROOT))
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
SPLICEBERT, MINIATURE, TINY = (512, 6, 16, 2048, 512), (128, 4, 4, 256, 256), (64, 3, 4, 128, 256)
CASES = [
    (SPLICEBERT, 510, "cls", "bf16", {"batch_size": 512}),
    (SPLICEBERT, 510, "cls", "fp32", {"batch_size": 512}),
    (SPLICEBERT, 510, "cls", "fp16", {"batch_size": 512, "objective": "mlm"}),
    (SPLICEBERT, 510, "cls", "bf16", {"batch_size": 64, "mini_batch_size": 16}),
    (SPLICEBERT, 510, "cls@3", "bf16", {"batch_size": 128}),
    (SPLICEBERT, 510, "mean", "bf16", {"batch_size": 64, "mlm_weight": 0.1}),
    (MINIATURE, 254, "centre", "bf16", {"batch_size": 64, "objective": "mlm"}),
    (TINY, 126, "centre", "fp32", {"batch_size": 64, "objective": "supcon", "max_shift": 45}),
    (SPLICEBERT, 400, "cls", "bf16", {"batch_size": 16, "objective": "classify"}),  # fine-tuning
]
PRODUCTS = ("aten.mm.", "aten.addmm.", "aten.bmm.", "_attention")


def main() -> None:
    emulation.install(like="meta")
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from simcsp.core.config import ModelConfig, PretrainConfig
    from simcsp.model.checkpoint import load_backbone
    from simcsp.training.cost import Step
    from simcsp.training.pretraining import Training

    counts = emulation.counts
    for sizes, window, pooling, precision, settings in CASES:
        AcceleratorState._reset_state(reset_partial_state=True)
        assert not counts.alive  # of the case before
        accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision))
        model = load_backbone(ModelConfig(**dict(zip(SIZES, sizes))))[0].to("cuda")
        stage = PretrainConfig(**{"steps": 10} | settings)
        training = Training(model, pooling, stage, accelerator)
        ids = np.full((stage.batch_size, window + 2 * stage.max_shift), 6, dtype=np.uint8)
        for _ in range(2):  # the second one has AdamW's moments from the start
            counts.peak, counts.kernels = counts.alive, 0
            counts.moved.clear()
            training.advance(training.draw(ids, np.random.default_rng(0), np.arange(len(ids)) % 4))
        step = Step(model.config, stage, window, pooling, precision)
        moved = sum(count for name, count in counts.moved.items() if not any(word in name for word in PRODUCTS))
        numbers = {"counted": counts.peak, "estimated": step.memory(stage.mini_batch_size), "kernels": counts.kernels}
        numbers |= {"moved": moved, "moved_estimated": step.moved()}
        print(json.dumps(numbers | {"case": [sizes, pooling, precision, settings]}), flush=True)
        accelerator.free_memory()
        del model, training, accelerator
        gc.collect()


if __name__ == "__main__":
    main()
