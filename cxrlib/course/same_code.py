"""Whether two pieces of Python define the same thing: equal syntax trees, but for docstrings and comments."""

import ast
import importlib.util
from pathlib import Path

from cxrlib.errors import CxrError


def locate(target: str) -> tuple[Path, list[str]]:
    """The file and the names inside it that `cxrlib.models.vit.Attention` or `….Attention.forward` means."""
    parts = target.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        if spec is not None and spec.origin:
            return Path(spec.origin), parts[end:]
    raise CxrError(f"there is no module in {target!r}")


def definition(tree: ast.AST, names: list[str]) -> str:
    """The unparsed definition of a name, without docstrings."""
    node = tree
    for name in names:
        body = getattr(node, "body", [])
        node = next((child for child in body if name in _names(child)), None)
        if node is None:
            raise CxrError(f"{'.'.join(names)} is not defined there")
    for child in ast.walk(node):
        body = getattr(child, "body", None)
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and body:
            if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                if isinstance(body[0].value.value, str):
                    child.body = body[1:] or [ast.Pass()]
    return ast.unparse(ast.fix_missing_locations(node))


def _names(node: ast.AST) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()


def first_difference(mine: str, theirs: str) -> str:
    for a, b in zip(mine.splitlines(), theirs.splitlines(), strict=False):
        if a != b:
            return f"{a.strip()!r} here, {b.strip()!r} in the library"
    return f"{len(mine.splitlines())} lines here, {len(theirs.splitlines())} in the library"
