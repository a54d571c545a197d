"""Comparing a learner's array with the right one, and naming the mistake that explains the difference."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cxrlib.course.exercise import Verdict, right, wrong


def as_array(value: Any) -> np.ndarray | None:
    """A numpy array of numbers from an array, a tensor, a list or a number; None if it is none of these."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def describe(array: np.ndarray) -> str:
    """An array in a few words: its value if it is one number, else its shape and its range."""
    if array.ndim == 0:
        return f"{array.item():.6g}" if array.dtype.kind == "f" else str(array.item())
    if array.size == 0:
        return f"an empty array of shape {array.shape}"
    if array.size <= 6:
        return f"{np.array2string(array, precision=4, separator=', ')} (shape {array.shape})"
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    span = f"values {finite.min():.4g} to {finite.max():.4g}" if finite.size else "no finite value"
    return f"shape {array.shape}, {span}"


def same(got: Any, expected: Any, *, rtol: float = 1e-4, atol: float = 1e-6) -> bool:
    """Whether two arrays have the same shape and, within the tolerances, the same values. NaN equals NaN."""
    got_a, expected_a = as_array(got), as_array(expected)
    if got_a is None or expected_a is None or got_a.shape != expected_a.shape:
        return False
    return bool(np.allclose(got_a.astype(float), expected_a.astype(float), rtol=rtol, atol=atol, equal_nan=True))


def compare(
    got: Any,
    expected: Any,
    *,
    what: str,
    causes: Mapping[str, Any] | None = None,
    note: str = "",
    otherwise: str = "work the example by hand on paper and compare number by number",
    rtol: float = 1e-4,
    atol: float = 1e-6,
) -> Verdict:
    """A verdict on an array: right, or the likeliest of the known mistakes.

    The trick is to compute what each common mistake *would* give on the same input. If the answer equals one of those
    values, the cause is known, not guessed.

    Args:
        got: The learner's result: array, tensor, list or number.
        expected: The right one.
        what: What it is, for example "the AUROC of four scores".
        causes: For each common mistake, the value it leads to. Give only mistakes whose value differs from `expected`.
        note: Said with a right answer.
        otherwise: The cause to name when no known mistake fits.
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Returns:
        The verdict.
    """
    expected_a = as_array(expected)
    assert expected_a is not None, "the checker's own expected value must be an array"
    wanted = f"{what}: {describe(expected_a)}"
    if got is None:
        return wrong(expected=wanted, got="None", cause="the function returns nothing: a `return` is missing")
    got_a = as_array(got)
    if got_a is None:
        return wrong(
            expected=wanted,
            got=f"a {type(got).__name__}",
            cause="the result is not an array of numbers; check what is returned",
        )
    if same(got_a, expected_a, rtol=rtol, atol=atol):
        return right(note)
    for cause, value in (causes or {}).items():
        assert not same(value, expected_a, rtol=rtol, atol=atol), f"the mistake {cause!r} gives the right value here"
        if same(got_a, value, rtol=rtol, atol=atol):
            return wrong(expected=wanted, got=describe(got_a), cause=cause)
    if got_a.shape != expected_a.shape:
        cause = f"the shape is {got_a.shape} where {expected_a.shape} was asked for"
        if got_a.ndim == expected_a.ndim and sorted(got_a.shape) == sorted(expected_a.shape):
            cause += ": two axes are swapped"
        elif got_a.size == expected_a.size:
            cause += ": the count is right, so an axis is missing, extra or merged"
        return wrong(expected=wanted, got=describe(got_a), cause=cause)
    if got_a.dtype.kind == "f" and np.isnan(got_a).any() and not np.isnan(expected_a.astype(float)).any():
        return wrong(expected=wanted, got=describe(got_a), cause="there are NaNs: a division 0/0 or a log of 0")
    return wrong(expected=wanted, got=describe(got_a), cause=otherwise)
