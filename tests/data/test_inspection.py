"""Tests that functions run on all cores and give their results in order."""

import threading
import time

import pytest

from danet_jax.data.inspection import map_in_order


def test_results_come_in_order(rng):
    delays = rng.uniform(0, 0.01, 50)

    def work(index):
        time.sleep(delays[index])
        return index

    assert list(map_in_order(work, range(50))) == list(range(50))


def test_the_number_of_results_ahead_is_bounded():
    begun = []
    results = map_in_order(begun.append, range(10**6))
    next(results)
    results.close()
    assert 1 < len(begun) < 100


def test_an_exception_is_raised_when_its_turn_comes():
    def work(index):
        if index == 3:
            raise KeyError(index)
        return index

    results = map_in_order(work, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)
    assert threading.active_count() < 50
