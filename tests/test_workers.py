"""Tasks shared among processes: order, errors, and workers that die."""

import math
import os
import time

import pytest

from cxrlib.errors import CxrError
from cxrlib.workers import in_order


@pytest.mark.timeout(60)
def test_results_come_in_order_and_errors_as_they_were_raised():
    numbers = [50_001, 3, 20_000]  # the first takes far longer than the others
    for workers in (1, 2, 4):
        assert list(in_order(math.factorial, numbers, workers=workers)) == [math.factorial(n) for n in numbers]
    with pytest.raises(ValueError, match="negative"):
        list(in_order(math.factorial, [3, -1, 4], workers=2))


@pytest.mark.timeout(60)
def test_memory_stays_flat():
    begun = []

    def tasks():
        for number in range(40):
            begun.append(number)
            yield -number

    for done, result in enumerate(in_order(abs, tasks(), workers=2)):
        assert result == done and len(begun) <= done + 5  # two a worker, however slowly the results are taken, and one asked for
    assert done == 39


@pytest.mark.timeout(60)
def test_one_slow_task_does_not_pile_up_the_others():
    begun = []

    def tasks():
        for seconds in [1.5] + [0.0] * 30:
            begun.append(seconds)
            yield seconds

    results = in_order(time.sleep, tasks(), workers=3)
    next(results)
    assert len(begun) <= 7
    assert len(list(results)) == 30


@pytest.mark.timeout(60)
def test_a_worker_that_dies_is_an_error_and_no_hang():
    with pytest.raises(CxrError, match="killed .*fewer workers"):
        list(in_order(os._exit, [0, 0, 0], workers=2))
