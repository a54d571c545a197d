"""Values that a notebook does not echo when a cell ends with them."""

from typing import Any


def silent(value: Any) -> Any:
    """The same value, of a class that IPython shows nothing for.

    A cell that ends with `course.check(...)` should show the verdict, not the verdict and a bare `True` below it.

    Args:
        value: A bool, int, float, str or dict. (A bool becomes an int of the same truth: bool cannot be subclassed.)
    """
    base = int if isinstance(value, bool) else type(value)
    if base not in (int, float, str, dict):
        return value

    def show_nothing(self) -> None:
        return None

    return type(base.__name__, (base,), {"_ipython_display_": show_nothing})(value)
