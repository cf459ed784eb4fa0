"""Flags of the commands that have some of their own."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import islice
from typing import NoReturn

from simcsp.core.errors import InputError


class FlagParser(argparse.ArgumentParser):
    """argparse for a command of evaluate.py, whose errors are InputErrors."""

    def __init__(self, command: str, about: str, notes: str = "") -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(f"evaluate.py {command}", None, about, notes, formatter_class=layout)
        self.command = command

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.command}: {message} (see {self.command} --help)")

    def read(self, words: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """The values of the flags, and the words for the config: any other --name with its value."""
        names = {name for action in self._actions for name in action.option_strings}
        own, others, left = [], [], iter(words)
        for word in left:
            if word.startswith("--") and word.partition("=")[0] not in names:
                others += [word] if "=" in word else [word, *islice(left, 1)]
            else:
                own.append(word)
        return self.parse_args(own), others


def number_between(kind: type[float] | type[int], low: float, high: float) -> Callable[[str], float]:
    """What argparse reads such a number with."""

    def read(word: str) -> float:
        value = kind(word)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{word} is not between {low} and {high}")
        return value

    read.__name__ = kind.__name__  # argparse names it where the word is no number
    return read
