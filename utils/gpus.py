"""python -m utils.gpus [CONFIG.yaml] [--section.field value ...]: on how many GPUs bash pretrain.sh trains."""

from __future__ import annotations

import sys

from simcsp.core.config import Config
from utils.arguments import load_config
from utils.script import run_script


def processes_for(config: Config, gpus: int) -> tuple[int, str]:
    """(the most processes on `gpus` that can share the work, why no more): their number divides every batch."""
    if config.search.trials:
        return (
            1,
            "a trial of a search is the work of one process; give the command once for each (CUDA_VISIBLE_DEVICES)",
        )
    sizes = {stage.batch_size for stage in (config.mlm, config.pretrain) if stage.steps}
    count = next(count for count in range(max(gpus, 1), 0, -1) if all(size % count == 0 for size in sizes))
    return count, f"more cannot share a batch of {' or '.join(map(str, sorted(sizes)))} windows evenly (batch_size)"


def main() -> None:
    config = load_config(sys.argv[1:])
    import torch  # takes seconds

    gpus = torch.cuda.device_count()
    count, why = processes_for(config, gpus)
    if count < gpus:
        print(f"{count} of {gpus} GPUs used: {why}", file=sys.stderr)
    print(count)


if __name__ == "__main__":
    sys.argv[0] = "pretrain.sh"  # who speaks, if the config is wrong
    run_script(main)
