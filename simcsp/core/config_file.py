"""The YAML of an experiment as plain values: what is wrong with it is named; what an earlier version saved in a run
folder is read as today's fields have it.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import yaml

from simcsp.core.config import DEFAULT_CONFIG, SECTIONS, Config, MlmConfig, PretrainConfig, to_dict
from simcsp.core.errors import InputError
from simcsp.core.files import check_hash, read_json
from simcsp.core.run_layout import ENVIRONMENT

CONFIG_HASH = "config_sha256"  # in env.json
MOST_BYTES, MOST_VALUES = 1_000_000, 100_000
"""Of a YAML, its anchors written out: ten lines can stand for a thousand million values."""
_POWER_OF_TEN = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
OF_CONTRAST = set(PretrainConfig.__annotations__) - set(MlmConfig.__annotations__)
"""Fields of pretrain that mean nothing to masked bases."""
RETIRED = {
    "model.drop_from": "last",
    "data.dedup": False,
    "data.legacy_keep_n": False,
    "data.legacy_strand_offset": False,
    "data.max_repeat_share": 1.0,
    "data.max_windows": None,
    "data.mixing_temperature": 1.0,
    "data.species_weights": None,
    "mlm.max_grad_norm": 1.0,
    "mlm.mutation_rate": 0.0,
    "mlm.reverse_complement_negatives": False,
    "mlm.site_factor": 5.0,
    "pretrain.max_grad_norm": 1.0,
    "pretrain.mutation_rate": 0.0,
    "pretrain.reverse_complement_negatives": False,
    "pretrain.site_factor": 5.0,
    "finetune.head_lr": None,
    "finetune.layerwise_lr_decay": 1.0,
    "finetune.max_grad_norm": None,
    "finetune.max_shift": 0,
    "finetune.nmi_folds": 1,
    "finetune.supcon_epochs": 5,
    "finetune.supcon_lr": None,
    "finetune.supcon_temperature": 0.1,
    "bases.background": 0,
    "bases.coarse_kernel": 7,
    "bases.graft_share": 0.5,
    "bases.kernel": 11,
    "bases.weight_decay": 0.01,
    "bases.windows": 0,
    "evaluate.legacy_logit_threshold": False,
    "evaluate.mlm_places": 4000,
    "evaluate.nmi_clusters": 10,
    "evaluate.sccs_classes": "site",
    "evaluate.umap_sites": 400,
    "search.storage": None,
}
"""Fields of earlier versions, and the value under which they had no effect."""


def read_saved(path: Path) -> dict[str, Any]:
    """The values of a config saved in a run folder, upgraded to the present fields; not validated."""
    check_saved(path)
    return upgrade(read_values(path, ours=True))


def check_saved(path: Path) -> None:
    """Refuse a config that differs from the one recorded in the env.json beside it."""
    env = path.with_name(ENVIRONMENT)
    if path.is_file() and env.is_file():
        remedy = "restore it from a backup, or delete its folder and train again"
        check_hash(path, read_json(env, remedy).get(CONFIG_HASH), remedy)


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a config saved in a run folder, perhaps by an earlier version, as today's fields have them.

    Fields that are no more are dropped where they changed nothing; elsewhere they stay, and are refused as unknown.
    """
    values = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    for key, unused in RETIRED.items():
        section, name = key.split(".")
        if key not in known_fields() and values.get(section, {}).get(name, ...) == unused:
            del values[section][name]
    mlm = values.get("mlm", {})
    if mlm.get("objective") == "mlm":
        if "pretrain" not in values:  # how far views move decides which windows both stages read
            values["pretrain"] = {"steps": 0, "max_shift": mlm.get("max_shift", 0)}
        values["mlm"] = {name: value for name, value in mlm.items() if name not in OF_CONTRAST}
    pretrain = values.get("pretrain", {})
    if pretrain.get("objective") == "mlm":  # a control used to be saved with the settings of its contrast
        kept = {"objective", "max_shift", "seeds", "control"}
        values["pretrain"] = {name: value for name, value in pretrain.items() if name not in OF_CONTRAST - kept}
    return values


@functools.cache
def known_fields() -> tuple[str, ...]:
    """name, ..., model, model.source, ...: fields and sections."""
    defaults = to_dict(Config())
    return (*defaults, *(f"{section}.{name}" for section in SECTIONS for name in defaults[section]))


class _Once:
    """YAML whose numbers may be written 1e-4 (YAML 1.2), whose dates stay text, and that refuses a repeated key."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:timestamp"]
        + [("tag:yaml.org,2002:float", _POWER_OF_TEN)] * (first in list("-+0123456789"))
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and lines.setdefault((key.tag, key.value), line) != line:
                first = lines[key.tag, key.value]
                raise InputError(f"config {self.name}, line {line}: {key.value} is given twice, first in line {first}")
        return super().construct_mapping(node, deep)


class _Loader(_Once, yaml.SafeLoader):
    """In Python, for what people write: the better messages."""


class _FastLoader(_Once, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """libyaml's, ten times as fast, for what we have written: a report reads the config of every fold."""


def _count(node: yaml.Node, known: dict[yaml.Node, int], path: Path) -> int:
    """How many values a YAML node has when its anchors are written out. known: of nodes seen before."""
    if node in known:
        if not known[node]:
            raise InputError(f"config {path} holds a YAML anchor that contains itself")
        return known[node]
    known[node] = 0
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    pairs = (part if isinstance(part, tuple) else (part,) for part in parts)
    known[node] = 1 + sum(_count(part, known, path) for pair in pairs for part in pair)
    return known[node]


def read_values(path: Path, ours: bool = False) -> dict[str, Any]:
    """Of one YAML file. ours: it was written by `to_yaml`.

    Raises InputError for one that is missing, empty, or no mapping with sections of fields.
    """
    if not path.is_file():
        raise InputError(f"config {path} does not exist: give the path of a YAML file, for example {DEFAULT_CONFIG}")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"config {path} has {path.stat().st_size:,} bytes, expected {MOST_BYTES:,} at most: no YAML")
    values = _parse(path, ours)
    if values is None:
        raise InputError(f"config {path} is empty: it needs at least a data section (see {DEFAULT_CONFIG})")
    if not isinstance(values, dict):
        raise InputError(
            f"config {path} holds {str(values)[:40]!r}, expected sections of fields (see {DEFAULT_CONFIG})"
        )
    for name in SECTIONS:
        if name in values and not isinstance(values[name], dict):
            raise InputError(f"config {path}: {name} is {values[name]!r}, expected a section of fields")
    return values


def _parse(path: Path, ours: bool) -> Any:
    """What a YAML file holds. Raises InputError with the line where YAML's grammar is broken."""
    try:
        loader = (_FastLoader if ours else _Loader)(path.read_text(encoding="utf-8"))
        loader.name = str(path)
        node = loader.get_single_node()
        if node is not None and _count(node, {}, path) > MOST_VALUES:
            raise InputError(f"config {path} holds more than {MOST_VALUES:,} values with its anchors: expected a YAML")
        return None if node is None else loader.construct_document(node)
    except UnicodeDecodeError:
        raise InputError(f"config {path} is not a text file: expected YAML") from None
    except yaml.MarkedYAMLError as error:
        if ours:
            return _parse(path, False)  # whose message is the better one
        raise InputError(f"config {path}, line {error.problem_mark.line + 1}: {error.problem}") from None
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise InputError(f"config {path}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"config {path} is nested too deeply: expected sections of fields") from None
    except InputError:
        raise
    except (ValueError, LookupError):  # of PyYAML's constructors
        raise InputError(f"config {path}: a value does not match its tag (!!int, !!float): omit the tag") from None
