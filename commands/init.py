"""`pretrain.py --init NEW.yaml`: a commented config for data of your own, with sizes that suit this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from commands.arguments import load_config
from simcsp.training.template import FIELDS, Machine, Paths, template
from utils.config import flatten, to_dict
from utils.errors import InputError
from utils.files import write_text


def write_template(words: list[str]) -> Path:
    """Write the YAML that a command line names; returns its path. Flags say where the data are (FIELDS).

    Raises InputError for a file that is there already, other flags, and values that no config could have.
    """
    at = words.index("--init")
    if at + 1 == len(words) or words[at + 1].startswith("-"):
        raise InputError("--init needs the name of the file to write, for example configs/mine.yaml")
    path, flags = Path(words[at + 1]), words[:at] + words[at + 2 :]
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"--init {path}: give the config a name that ends in .yaml")
    if path.exists():
        raise InputError(f"--init {path}: it is there already; choose another name, or delete it")
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, path.name)
        trial.write_text(template(path, Machine.this(gpu=False), Paths()))
        given = [str(trial), "--data.motif_window", "126"]  # which the template says where there are motif sites
        config, plain = load_config([*given, *flags]), load_config(given)
    before, after = flatten(to_dict(plain)), flatten(to_dict(config))
    others = [key for key in after if after[key] != before.get(key) and key.removeprefix("data.") not in FIELDS]
    if others:
        raise InputError(f"--init takes {', '.join(f'--data.{name}' for name in FIELDS)}: set {others[0]} in the file")
    paths = Paths(**{name: getattr(config.data, name) for name in FIELDS})
    import torch  # now that nothing can be refused: it takes a second

    write_text(path, template(path, Machine.this(torch.cuda.is_available()), paths))
    return path
