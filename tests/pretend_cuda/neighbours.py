"""LD_PRELOAD=guard.so python neighbours.py     fails where neighbours found on the device are others than a CPU's."""

import sys

import emulation
import numpy as np
import torch

sys.path.insert(0, str(emulation.ROOT))
emulation.install()

from simcsp.metrics.clustering import find_neighbours  # noqa: E402

rng = np.random.default_rng(0)
states = (rng.normal(size=(3000, 200)) * np.geomspace(1, 0.01, 200) + 3).astype(np.float32)
indices, distances = find_neighbours(states)
found, lengths = find_neighbours(states, torch.device("cuda"))
assert (found == indices).mean() > 0.9999, (found == indices).mean()  # but for some that are equally far
np.testing.assert_allclose(lengths, distances, atol=1e-5)
assert emulation.counts.operations["aten.topk.default"] and not emulation.counts.refused, emulation.counts.refused
