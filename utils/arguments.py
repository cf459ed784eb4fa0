"""From a YAML file and a command line to a checked Config.

Order of precedence: dataclass defaults, the files that `extends` names, the YAML file, `--section.field value`. An
unknown key, a wrong type or an impossible value is an InputError that names the field; all come in one message.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonargparse

from simcsp.core.config import DEFAULT_CONFIG, PLAIN, SECTIONS, Config, flatten, is_plain_name, to_dict
from simcsp.core.config_file import OF_CONTRAST, check_saved, known_fields, read_values, upgrade
from simcsp.core.errors import InputError
from simcsp.core.run_layout import ENVIRONMENT
from utils.config_checks import data_faults, missing_files, model_faults, training_faults

REFUSED = (jsonargparse.ArgumentError, TypeError, ValueError)
"""What jsonargparse raises for values that it does not take."""


@functools.cache
def build_parser(hidden: tuple[str, ...] = (), described: bool = False) -> jsonargparse.ArgumentParser:
    """A parser of flags (`--section.field value`) whose errors are exceptions.

    hidden: sections that --help leaves out. described: read the fields' docstrings, which --help alone needs and which
    takes as long as all the rest.
    """
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=described)
    about = {name: type(getattr(Config(), name)).__doc__ for name in SECTIONS if name not in hidden}
    usage = [
        "%(prog)s [CONFIG.yaml] [--section.field value ...]",
        "",
        f"CONFIG.yaml is the experiment (default: {DEFAULT_CONFIG}); flags override it, and --name gives the",
        "changed experiment a run folder of its own. The fields of each section, with their defaults, are below:",
        "",
        *(f"  {name:<9} {text}" for name, text in about.items()),
    ]
    parser = jsonargparse.ArgumentParser(exit_on_error=False, usage="\n".join(usage))
    parser.add_argument("--config", action="config", help=f"YAML of the experiment (default: {DEFAULT_CONFIG})")
    parser.add_class_arguments(Config, skip=set(hidden) if described else None)
    return parser


_NO_TEXT = re.compile(r"Expected a <class 'str'>\. Got value: (\S+);")


def load_config(argv: Sequence[str], hidden: tuple[str, ...] = (), with_files: bool = False) -> Config:
    """Read the command line of a script into a checked Config.

    argv: arguments after the script's name; the first may be a YAML file, else configs/demo.yaml is read. hidden:
    sections that the script does not use, which --help leaves out; they are taken all the same. with_files: the files
    that pre-training reads must be there.
    Raises InputError for a missing file, unknown keys, wrong types and impossible values, all of them in one message.
    """
    if "-h" in argv or "--help" in argv:
        build_parser(hidden, described=True).parse_args(["--help"])
    parser = build_parser(hidden)
    path, flags = _split_words(argv)
    one_job = (path.parent / ENVIRONMENT).is_file()
    values, faults = _read_layers(parser, path, one_job)
    of_flags = _flag_faults(parser, flags)
    faults |= {_field_of(flag): reason for flag, reason in of_flags.items()}
    taken = [word for group in flags if group[0] not in of_flags for word in group]
    whole = any(word.startswith("--print_config") for word in taken)  # the rest has its defaults from Config
    given = parser.parse_args(taken, namespace=parser.parse_object(values, defaults=False), defaults=whole)
    config = _from_given(given.as_dict())
    config.name = path.stem if config.name is None else config.name
    faults |= _without_nulls(config)
    of_files = missing_files(config.data) if with_files else []
    refuse_faults([*faults.values(), *_new_faults(config, one_job, faults), *of_files])
    return config


def _read_layers(
    parser: jsonargparse.ArgumentParser, path: Path, one_job: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a YAML over those that it extends, less the faulty ones, and {field: what is wrong}."""
    files = read_files(path)
    if one_job:
        check_saved(path)
        files = [(name, upgrade(values)) for name, values in files]
    faults: dict[str, str] = {}
    for name, values in files:
        faults |= {key: f"config {name}: {reason}" for key, reason in _value_faults(parser, values).items()}
    sound = (_in_sections(field for field in _fields(values) if field[0] not in faults) for _, values in files)
    return functools.reduce(merge, sound), faults


def _new_faults(config: Config, one_job: bool, faults: dict[str, str]) -> list[str]:
    """Combinations that cannot work, but for those about a field of `faults`: what was meant there is not known."""
    about = {*faults, *filter(None, map(nearest_field, faults))}
    return [fault for fault in find_faults(config, one_job) if not any(key in fault for key in about)]


def find_faults(config: Config, one_job: bool = False) -> list[str]:
    """A line for each invalid combination of settings. one_job: the config was saved by one fit."""
    return [
        *model_faults(config),
        *data_faults(config.data),
        *_name_and_number_faults(config),
        *training_faults(config, one_job),
    ]


def _name_and_number_faults(config: Config) -> Iterator[str]:
    for key, value in flatten(to_dict(config)).items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{key} is {value}: it must be a finite number"
    if not is_plain_name(config.name or ""):
        yield f"name ({config.name!r}) must be a plain folder name: {PLAIN}"


def _without_nulls(config: Config) -> dict[str, str]:
    """{field: what is wrong} of those that are null and need a value, which then have their defaults again.

    jsonargparse takes null for any field, as not given.
    """
    faults, default = {}, Config()
    for prefix, section in (("", config), *((f"{name}.", getattr(config, name)) for name in SECTIONS)):
        of_defaults = getattr(default, prefix[:-1]) if prefix else default
        for name, hint in typing.get_type_hints(type(section)).items():
            if getattr(section, name) is None and type(None) not in typing.get_args(hint):
                value = getattr(of_defaults, name)
                faults[f"{prefix}{name}"] = f"{prefix}{name} is null: give it a value (its default is {value})"
                setattr(section, name, value)
    return faults


def nearest_field(key: str) -> str | None:
    section, _, name = key.rpartition(".")
    if section == "mlm" and name in OF_CONTRAST:
        return f"pretrain.{name}"
    alike = [known for known in known_fields() if known.rpartition(".")[2] == name]
    return next(iter(difflib.get_close_matches(key, known_fields(), 1, 0.75) or alike), None)


def unknown_field(key: str) -> str:
    nearest = nearest_field(key)
    if key.startswith("mlm.") and nearest == f"pretrain.{key.removeprefix('mlm.')}":
        return f"{key} does not apply to masked bases alone: there is {nearest}"
    return f"unknown key {key}" + (f": did you mean {nearest}?" if nearest else "")


def refuse_faults(faults: list[str]) -> None:
    if len(faults) == 1:
        raise InputError(faults[0])
    if faults:
        numbered = "; ".join(f"({number}) {fault}" for number, fault in enumerate(faults, 1))
        raise InputError(f"{len(faults)} faults: {numbered}")


def read_files(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """[(file, its values)] of a YAML and all that it extends, the outermost base first.

    `extends` is the path of the base, relative to the file that names it. Raises InputError for a file that is missing,
    empty, no YAML mapping, or that extends itself by way of others.
    """
    files: list[tuple[Path, dict[str, Any]]] = []
    while True:
        values = read_values(path)
        base = values.pop("extends", None)
        files.insert(0, (path, values))
        if base is None:
            return files
        if not isinstance(base, str):
            raise InputError(f"config {path}: extends is {base!r}, expected the path of one YAML file")
        named_by, path = path, path.parent / base
        if not path.is_file():
            raise InputError(f"config {named_by}: extends {base}, but {path} does not exist")
        if path.resolve() in [file.resolve() for file, _ in files]:
            chain = " -> ".join(str(file) for file in (*(file for file, _ in reversed(files)), path))
            raise InputError(f"config {named_by}: extends goes in a circle, {chain}")


def merge(base: dict[str, Any], values: dict[str, Any], depth: int = 3) -> dict[str, Any]:
    """`values` laid over `base`: mappings are merged, all else is replaced, lists too.

    depth: of mappings that are merged. Three are sections, fields, and the fields of search.space, whose ranges are
    replaced whole: {choices: ...} laid over {low: ..., high: ...} must not leave both.
    """
    merged = base | values
    for key in base.keys() & values.keys():
        if depth > 1 and isinstance(base[key], dict) and isinstance(values[key], dict):
            merged[key] = merge(base[key], values[key], depth - 1)
    return merged


def _split_words(argv: Sequence[str]) -> tuple[Path, list[list[str]]]:
    """(YAML file, [[flag, its words ...], ...]) of a command line."""
    words = list(argv)
    if words and not words[0].startswith("-"):
        words = ["--config", *words]
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    given = [group for group in groups if _field_of(group[0]) == "config"]
    flags = [group for group in groups if group not in given]
    if not given:
        return Path(DEFAULT_CONFIG), flags
    paths = [word for group in given for word in (*group[0].split("=", 1)[1:], *group[1:])]
    if len(paths) != 1:
        raise InputError(
            f"expected one YAML file, got {' '.join(paths) or 'none'}: a YAML names its base by `extends:`"
        )
    return Path(paths[0]), flags


def _field_of(flag: str) -> str:
    """--pretrain.lr=1e-4 -> pretrain.lr; --data.fasta+ (one more) -> data.fasta."""
    return flag.partition("=")[0].removeprefix("--").removesuffix("+")


def _value_faults(parser: jsonargparse.ArgumentParser, values: dict[str, Any]) -> dict[str, str]:
    """{field: what is wrong with it} of one file's values, in their order."""
    fields = list(_fields(values))
    faults = {key: unknown_field(key) for key, _ in fields if key not in known_fields()}
    faults |= _type_faults(parser, [field for field in fields if field[0] not in faults])
    return {key: faults[key] for key, _ in fields if key in faults}


def _type_faults(parser: jsonargparse.ArgumentParser, fields: list[tuple[str, Any]]) -> dict[str, str]:
    """{field: what is wrong with its value} of known fields. The parser names one fault alone, so halves are tried."""
    try:
        parser.parse_object(_in_sections(fields), defaults=False)
        return {}
    except REFUSED as error:
        if len(fields) == 1:
            return {fields[0][0]: _first_reason(str(error))}
    half = len(fields) // 2
    return _type_faults(parser, fields[:half]) | _type_faults(parser, fields[half:])


def _flag_faults(parser: jsonargparse.ArgumentParser, groups: list[list[str]]) -> dict[str, str]:
    """{flag: what is wrong with it} of a command line."""
    faults = {}
    for flag, *words in groups:
        key = _field_of(flag)
        known = not flag.startswith("--") or key in (*known_fields(), "print_config") or key.startswith("search.space.")
        try:
            if not known:
                faults[flag] = unknown_field(key)
            elif key != "print_config":
                parser.parse_args([flag, *words], defaults=False)
        except REFUSED as error:
            faults[flag] = _first_reason(str(error))
    return faults


def _fields(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if name in SECTIONS:
            yield from ((f"{name}.{key}", part) for key, part in value.items())
        else:
            yield str(name), value


def _in_sections(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The values of a file again, from its `_fields`."""
    values: dict[str, Any] = {}
    for key, value in fields:
        section, _, name = key.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = value
    return values


def _from_given(values: dict[str, Any]) -> Config:
    """The Config of parsed values, all else at its default.

    jsonargparse's restricted numbers are classes of their own, which YAML cannot write: back to int and float.
    """
    values = json.loads(json.dumps(values))
    given = {item.name: values[item.name] for item in dataclasses.fields(Config) if item.name in values}
    return Config(**given | {name: type(getattr(Config(), name))(**given[name]) for name in SECTIONS if name in given})


def _first_reason(message: str) -> str:
    """jsonargparse explains over many lines; the reader wants the key and the reason."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    reason = "; ".join(lines).replace(":; ", ": ")[:400]
    if unquoted := _NO_TEXT.search(reason):
        return f"{reason.partition(': ')[0]}: {unquoted[1]} is not text in YAML: quote it, '{unquoted[1]}'"
    return reason
