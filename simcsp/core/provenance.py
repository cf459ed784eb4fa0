"""What finished work came from, and whether it is what was written.

summary.json of a stage or fit says what it is of, holds a hash of what decided it (`identity`), and seals its files
(`sha256`). What is pooled, averaged or compared is held to that wherever it meets. What earlier versions finished has
no identity and no whole seal: its settings and inputs are compared one by one, and its files are taken as they are.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simcsp.core import run_layout as layout
from simcsp.core.config import Config, flatten, to_dict
from simcsp.core.config_file import read_saved
from simcsp.core.errors import InputError
from simcsp.core.files import check_hash, read_json, sha256_file, write_json

REMEDY = "restore it from a backup, or delete its folder and train again"
SEAL, IDENTITY = "sha256", "identity"  # keys of summary.json
BOOKKEEPING = ("name", "runs", "device", "workers", "only", "report", "data.cache", "search.", "pretrain.control")
BOOKKEEPING += ("evaluate.smallest_effect", "finetune.fold_events")
BOOKKEEPING += ("finetune.arms", "finetune.sites", "finetune.seeds", "finetune.folds")
"""Fields, or how they begin, that may differ without making another experiment."""
_OF_A_JOB = (*BOOKKEEPING, "finetune.train_windows", "finetune.draws")
_FILES = {
    "text": ("data.fasta", "data.dataset"),
    "intervals": ("data.fasta", "data.annotation"),
    "classes": ("data.annotation",),
    "annotation": ("data.annotation", "bases.annotation"),
    "genome": ("bases.fasta",),
    "spliceator": ("data.spliceator",),
    "windows": ("data.spliceator",),
    "motifs": ("data.motif_bed", "data.motif_fasta"),
    "start checkpoint": ("model.source",),
}
"""Fields of the files that an input is made of."""
_PATHS = (".fasta", ".annotation", ".spliceator", ".motif_bed", ".motif_fasta", ".source", ".benchmarks")
_PATHS += (".mlm_fasta", ".mlm_annotation")
"""Fields of files, which lie elsewhere on another machine."""


# -- what it came from -------------------------------------------------------------------------------------------------


def origin(config: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """{field: value} of the settings that are not as by default, {input: hash}: what decides a stage or fit, without
    what tells the jobs of one experiment apart."""
    defaults, kept = _defaults(), {}
    for key, value in flatten(dict(config)).items():
        if value != defaults.get(key) and not key.startswith(_OF_A_JOB):
            kept[key] = _file_names(value) if key.endswith(_PATHS) else value
    return kept | {f"the content of {name}": digest for name, digest in inputs.items()}


@functools.cache
def _defaults() -> dict[str, Any]:
    return flatten(to_dict(Config()))


def _file_names(value: Any) -> Any:
    if isinstance(value, list):
        return [_file_names(item) for item in value]
    return Path(value).name if isinstance(value, str) else value


def identity(config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Hash of an origin: equal ones need no look at the settings."""
    return hashlib.sha256(json.dumps(origin(config, inputs), sort_keys=True).encode()).hexdigest()


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two configs (nested dicts), in words."""
    before, now = flatten(dict(before)), flatten(dict(now))
    changed = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    return [f"{key} was {before.get(key)}, now {now.get(key)}" for key in changed]


def changed_inputs(
    before: Mapping[str, str], now: Mapping[str, str], config: Mapping[str, Any], start: str | None = None
) -> list[str]:
    """What inputs {name: hash} have changed, in words with their files; what a version before did not hash is not
    compared. start: the folder of the start checkpoint, where it is not model.source of the config."""
    values, words = flatten(dict(config)), []
    for name, digest in before.items():
        if now.get(name) != digest:
            files = [f"{field} {values[field]}" for field in _FILES.get(name, ()) if values.get(field)]
            files = [start] if start and name == "start checkpoint" else files
            words.append(f"{name} has changed" + (f": {', '.join(files)}" if files else ""))
    return words


def origin_of(folder: Path) -> dict[str, Any]:
    """The origin of a finished stage or fit, from its files."""
    check_sealed(folder, layout.CONFIG, layout.ENVIRONMENT)
    return origin(read_saved(folder / layout.CONFIG), inputs_of(folder))


def inputs_of(folder: Path) -> dict[str, str]:
    """{input: hash} of a stage or fit; {} of a model that is handed on without its env.json."""
    path = folder / layout.ENVIRONMENT
    return read_json(path, REMEDY)["inputs"] if path.is_file() else {}


def read_fit(folder: Path) -> dict[str, Any]:
    """summary.json of a finished fit. Raises InputError where it is of another fit than its folder is named for."""
    summary, key = read_json(folder / layout.SUMMARY, REMEDY), layout.fit_key(folder)
    named = {"arm": key.arm, "site": key.site, "seed": key.seed, "fold": key.fold}
    named |= {} if key.pretrain_seed is None else {"pretrain_seed": key.pretrain_seed}
    named |= {} if key.train_windows is None else {"train_windows": key.train_windows, "draw": key.draw}
    for name, value in named.items():
        if summary.get(name, value) != value:
            raise InputError(
                f"{folder / layout.SUMMARY} is of {name} {summary.get(name)}, and its folder is named for {value}: "
                "folders were moved or exchanged; put them back, or train that fit again"
            )
    return summary


def read_stage(folder: Path, stage: str, seed: int | None) -> dict[str, Any]:
    """summary.json of a finished stage of pre-training; refused like a fit's. seed: None where the run has one."""
    summary = read_json(folder / layout.SUMMARY, REMEDY)
    found = [summary.get("stage", stage)] + ([] if seed is None else [read_saved(folder / layout.CONFIG)["seed"]])
    if found != [stage] + ([] if seed is None else [seed]):
        raise InputError(
            f"{folder / layout.SUMMARY} is of {' seed '.join(map(str, found))}: folders were moved or exchanged; put "
            "them back, or train that stage again"
        )
    return summary


def check_pooled(folders: Sequence[Path], but: Iterable[str] = ()) -> None:
    """Refuse finished stages or fits that were not made from the same settings and inputs: no mean of them has a
    meaning. but: what may differ. Raises InputError with the two folders and the difference."""
    if len(folders) < 2:
        return
    known = {read_json(folder / layout.SUMMARY, REMEDY).get(IDENTITY) for folder in folders}
    if len(known) == 1 and None not in known:
        return
    first = origin_of(folders[0])
    for folder in folders[1:]:
        if found := differences(first, origin_of(folder), but):
            raise InputError(
                f"{folders[0]} and {folder} were not made from the same settings and inputs ({'; '.join(found[:4])}) "
                "and cannot be pooled: delete one of them and train it again with the other's"
            )


def differences(one: Mapping[str, Any], other: Mapping[str, Any], but: Iterable[str] = ()) -> list[str]:
    """What differs between two origins, in words. but: fields that may."""
    skipped, defaults = set(but), _defaults()
    changed = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key) and key not in skipped]
    # an input that one of them lacks was not hashed by the version that made it
    changed = [key for key in changed if not key.startswith("the ") or (key in one and key in other)]
    values = [(key, one.get(key, defaults.get(key)), other.get(key, defaults.get(key))) for key in changed]
    return [f"{key} differs" if key.startswith("the ") else f"{key} {a} and {b}" for key, a, b in values]


# -- whether it is what was written ------------------------------------------------------------------------------------


def seal(folder: Path, summary: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Write summary.json, the last act of a piece of work, with the hashes of its files."""
    hashes = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files if path.is_file()}
    write_json(folder / layout.SUMMARY, {**summary, SEAL: hashes})


def sealed_files(folder: Path) -> list[Path]:
    """What a stage or fit leaves for good: its log and what TensorBoard shows are not among it."""
    names = (layout.CONFIG, layout.ENVIRONMENT, layout.METRICS, layout.PREDICTIONS, layout.VALIDATION)
    return [*(folder / name for name in names), *sorted((folder / layout.CHECKPOINTS).rglob("*"))]


def check_sealed(folder: Path, *names: str, remedy: str = REMEDY) -> None:
    """Refuse files of finished work that are not what was sealed."""
    hashes = read_json(folder / layout.SUMMARY, remedy).get(SEAL, {})
    for name in names:
        check_hash(folder / name, hashes.get(name), remedy)


def check_sealed_checkpoint(checkpoint: Path) -> bool:
    """Refuse a checkpoint that is not the one with which its stage or fit ended; whether there is a seal on it."""
    folder = layout.stage_of(checkpoint.resolve())
    if checkpoint.resolve().parent.name != layout.CHECKPOINTS or not layout.is_finished(folder):
        return False
    prefix = f"{layout.CHECKPOINTS}/{checkpoint.resolve().name}/"
    names = [name for name in read_json(folder / layout.SUMMARY, REMEDY).get(SEAL, {}) if name.startswith(prefix)]
    check_sealed(folder, *names)
    return bool(names)
