"""Work done one ahead: its order, what is under way when, and errors at their place; and work beside this process."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from simcsp.core.ahead import in_background, one_ahead


@pytest.mark.parametrize("thread", [False, True])
def test_results_come_in_order_and_an_error_comes_at_its_place(thread):
    came = []
    with pytest.raises(ZeroDivisionError):
        for value in one_ahead(lambda number: 6 // number, [1, 2, 3, 0, 6], thread):
            came.append(value)
    assert came == [6, 3, 2]
    assert list(one_ahead(str, [], thread)) == []


def test_the_next_one_is_made_while_this_one_is_used_and_no_more():
    begun = [threading.Event() for _ in range(4)]
    results = one_ahead(lambda number: begun[number].set() or number, range(4), thread=True)
    for number in results:
        assert number == 3 or begun[number + 1].wait(10)
        assert not any(event.is_set() for event in begun[number + 2 :])


def test_a_process_beside_this_one_leaves_signals_to_it_and_gives_back_errors():
    number = in_background(os.getpid).result(60)
    for stop in (signal.SIGINT, signal.SIGTERM):
        os.kill(number, stop)
    assert in_background(os.getpid).result(60) == number != os.getpid()
    with pytest.raises(ZeroDivisionError):
        in_background(divmod, 1, 0).result(60)


def test_a_process_beside_this_one_ends_with_it_however_that_ends():
    code = "import os; from simcsp.core.ahead import in_background as beside; print(beside(os.getpid).result(60)); "
    code += "import sys; sys.stdout.flush(); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == -9  # and nobody holds the other end of the pipe
