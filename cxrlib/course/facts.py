"""Numbers that a cell computes and the prose repeats."""

import re
from typing import Any

from cxrlib.course.silent import silent

FACT_LINE = re.compile(r"^([a-z][a-z0-9_]*) = (\S+)$", re.MULTILINE)
"""What `fact` prints. `cxrlib.course.remake` reads the printed line, so that prose can only repeat what was stored."""


def fact(name: str, value: Any, fmt: str = ".2f") -> Any:
    """Prints a number under a name, so that the prose can be bound to it.

    Prose says `0.81<!-- =auroc_blind -->`; remaking the notebook puts the printed number there, and a test compares
    the two. A comment is invisible in Jupyter, in Colab and in the book.

    Args:
        name: Lower case, digits and underscores; unique in the notebook.
        value: A number (or a word without spaces).
        fmt: A format as in `format(value, fmt)`: ".2f", ",d", ".0%". Use "" for a word.

    Returns:
        The value, unrounded. A cell that ends with this call shows only the printed line.
    """
    item = value.item() if hasattr(value, "item") and not isinstance(value, str) else value
    text = format(item, fmt)
    line = f"{name} = {text}"
    if not FACT_LINE.fullmatch(line):
        raise ValueError(f"{line!r}: a fact needs a lower-case name and a value without spaces")
    print(line)
    return silent(item)
