"""Work done one ahead: its order, what is under way when, and errors at their place."""

import threading

import pytest

from simcsp.core.ahead import one_ahead


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
