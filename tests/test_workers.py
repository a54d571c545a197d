"""Tasks shared among processes: order, errors, and workers that die."""

import math
import os

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
def test_a_worker_that_dies_is_an_error_and_no_hang():
    with pytest.raises(CxrError, match="killed .*fewer workers"):
        list(in_order(os._exit, [0, 0, 0], workers=2))
