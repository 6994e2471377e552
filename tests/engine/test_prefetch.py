import threading

import pytest

from engine.prefetch import Prefetch, prefetched


def test_prefetch_makes_each_step_once_and_none_beyond_the_last():
    made = []
    steps = Prefetch(lambda step: made.append(step) or step * step, last=5)
    assert [steps(k) for k in range(6)] == [k * k for k in range(6)]
    assert sorted(made) == list(range(6))


def test_prefetched_items_keep_their_order_and_are_made_ahead():
    begun = threading.Event()

    def items():
        yield 0
        begun.set()
        yield from (1, 2)

    iterator = prefetched(items())
    assert next(iterator) == 0 and begun.wait(5)
    assert list(iterator) == [1, 2]


def test_an_error_while_prefetching_reaches_the_one_who_asks():
    def items():
        yield 0
        raise ValueError("bad file")

    with pytest.raises(ValueError, match="bad file"):
        list(prefetched(items()))
