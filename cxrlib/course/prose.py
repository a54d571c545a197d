"""Reading a chapter's Markdown: what is prose, which numbers stand in it, which syntax only the book understands."""

import re
from typing import Any

_FENCE = re.compile(r"^([ \t>]*)(`{3,}|~{3,})([^\n]*)\n.*?^[ \t>]*\2[`~]*[ \t]*$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_MATH = re.compile(r"\$\$.*?\$\$|(?<![\\$])\$(?!\s)[^$]+?(?<![\s\\])\$", re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\([^)]*\)|<https?://[^>]*>|https?://\S+")
_HEADING = re.compile(r"^\s{0,3}#{1,6}\s.*$", re.MULTILINE)
_MARKED = re.compile(r"[\w.,+\-−%?]+<!-- (?:=[a-z][a-z0-9_]*|given) -->")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TAG = re.compile(r"</?[a-zA-Z][^>]*>")
_NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?![\w])")
_YEAR = re.compile(r"(?:19|20)\d\d")

_RAW = {
    "a directive (```{...})": re.compile(r"^[ \t>]*(?:`{3,}|~{3,})\{", re.MULTILINE),
    "a directive (:::)": re.compile(r"^[ \t>]*:{3,}", re.MULTILINE),
    "a role ({name}`...`)": re.compile(r"(?<!`)\{[a-zA-Z][\w:+.-]*\}`"),
    "a target ((name)=)": re.compile(r"^\([^()\s]+\)=\s*$", re.MULTILINE),
    "a MyST comment (%)": re.compile(r"^%", re.MULTILINE),
    "a substitution ({{...}})": re.compile(r"\{\{.*?\}\}"),
    "a picture from a file": re.compile(r"!\[[^\]]*\]\(|<img\b"),
    "a footnote or an attribute ([^1], {#id})": re.compile(r"\[\^[^\]]+\]|\{[#.][\w-]+\}"),
}


def without_code(source: str) -> str:
    """Markdown without fenced blocks and code spans."""
    return _SPAN.sub(" ", _FENCE.sub("\n", source))


def raw_syntax(source: str) -> list[str]:
    """The kinds of syntax in a Markdown cell that Jupyter or Colab would show raw. Plain code blocks may hold anything."""
    fences = "\n".join(match[0].splitlines()[0] for match in _FENCE.finditer(source))
    outside = _FENCE.sub("\n", source)
    found = []
    for name, pattern in _RAW.items():
        # A role is a code span with a prefix, so spans are taken out for all the others only.
        if name.startswith("a role"):
            text = outside
        elif name.startswith("a directive (```"):
            text = fences + "\n" + outside
        else:
            text = _MATH.sub(" ", without_code(source))
        if pattern.search(text):
            found.append(name)
    return found


def free_numbers(source: str) -> list[str]:
    """Numbers in prose that stand on their own: neither bound nor marked as given, not in code, maths, links, headings.

    Only those that could be mistaken for a result count: with a decimal point, or three digits and more. Years do not.
    """
    text = source
    for pattern in (_FENCE, _SPAN, _MATH, _MARKED, _COMMENT, _LINK, _HEADING, _TAG):
        text = pattern.sub(" ", text)
    numbers = (match.rstrip(",") for match in _NUMBER.findall(text))
    return [n for n in numbers if ("." in n or sum(c.isdigit() for c in n) >= 3) and not _YEAR.fullmatch(n)]


def texts_of(output: Any) -> list[str]:
    """What a stored output says in text: a stream, an error's message, or the plain and HTML forms of a value."""
    kind = output.get("output_type")
    if kind == "stream":
        return [output["text"]]
    if kind == "error":
        return [output.get("evalue", "")]
    return [v for key in ("text/plain", "text/html") if isinstance(v := output.get("data", {}).get(key), str)]


def numbers_in_output(output: Any) -> set[str]:
    """The numbers in a stored output, without thousands' separators."""
    return {n.rstrip(",").replace(",", "") for text in texts_of(output) for n in _NUMBER.findall(_TAG.sub(" ", text))}


def word_count(source: str) -> int:
    """Words of prose in a Markdown cell: code, maths and comments are not counted."""
    text = _TAG.sub(" ", _COMMENT.sub(" ", _MATH.sub(" ", without_code(source))))
    return len(re.findall(r"\w[\w'’-]*", text))
