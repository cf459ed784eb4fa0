"""Runs that are killed again and again, for the tests of resuming."""

import os
from types import SimpleNamespace

from conftest import Crash


def start_until_done(patch, runs, places, action):
    """Call `action` until it comes to its end, the n-th start killed at its n-th event; returns the number of starts.

    An event is a call of one of `places`, (module or class, name), or a rename below the folder `runs`.
    """
    state = SimpleNamespace(left=0)

    def counted(real, is_ours=lambda args: True):
        def wrapper(*args, **kwargs):
            state.left -= is_ours(args)
            if state.left < 0:
                raise Crash
            return real(*args, **kwargs)

        return wrapper

    for owner, name in places:
        patch.setattr(owner, name, counted(getattr(owner, name)))
    for name in ("rename", "replace"):
        patch.setattr(os, name, counted(getattr(os, name), lambda args: str(runs) in str(args[0])))
    for starts in range(1, 60):
        state.left = starts
        try:
            action()
        except Crash:
            continue
        return starts
    raise AssertionError("it never came to its end")
