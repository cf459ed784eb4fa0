"""Signals that ask training to stop."""

import os
import signal

import pytest

from simcsp.training.stopping import StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_and_a_second_one_insists(call, number):
    stop = StopSignal()
    assert not stop.asked
    os.kill(os.getpid(), number)
    assert stop.asked
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
