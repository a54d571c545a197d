"""Puts the sanity tables of several runs side by side, as a result that can be shown to others.

    python -m cxrlib.sanity.gather data/results/are_the_maps_true "LT-ViT=RUN/sanity/test" --title "..." --command "..."

What is written holds numbers and their provenance, and no path of the machine that made it.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from cxrlib.errors import CxrError
from cxrlib.io import atomic_write, read_json, write_json
from cxrlib.recipes import Recipe


def gather(folders: list[tuple[str, Path]], *, title: str, commands: list[str]) -> dict:
    """One result out of the sanity tables of several runs.

    Args:
        folders: (name of the model, what `python -m cxrlib sanity` wrote). Rows of one name are put into one table.
        title: What the result shows, in one line.
        commands: The commands that lead to it, with generic paths.

    Raises:
        CxrError: A folder holds no table, or the tables are of different films.
    """
    parts: dict[str, dict] = {}
    for name, folder in folders:
        if not (Path(folder) / "sanity.json").is_file():
            raise CxrError(f"{folder} has no sanity.json: run python -m cxrlib sanity RUN --cohort COHORT first")
        part = read_json(Path(folder) / "sanity.json")
        first = next(iter(parts.values()), part)
        if any(part[key] != first[key] for key in ("data", "split", "seed", "pairs", "baseline", "steps", "twins")):
            raise CxrError("these tables are of different films or settings: make them with the same options on the same store")
        if name in parts and parts[name]["recipe"] != part["recipe"]:
            raise CxrError(f"two different runs are called {name}: give each its own name")
        before = parts.get(name, {"rows": []})["rows"]
        known = {row["method"] for row in before}
        parts[name] = part | {"rows": before + [row for row in part["rows"] if row["method"] not in known]}
    first = next(iter(parts.values()))
    recipes = {}
    for name, part in parts.items():
        recipes[name] = Recipe.from_json(part["recipe"]).published()
    return {
        "title": title,
        "notes": [*first["notes"], f"{first['pairs']} films with a finding, of {first['patients']} patients; {first['twins']} patients with and without each of four findings; baseline of deletion and insertion: {first['baseline']}"],
        "commands": commands,
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": sorted({recipe["seed"] for recipe in recipes.values()}),
        "data": first["data"],
        "recipes": recipes,
        "versions": first["versions"],
        "commit": first["commit"],
        "pairs": first["pairs"],
        "patients": first["patients"],
        "tables": [{"title": name, "rows": part["rows"]} for name, part in parts.items()],
    }


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/result.json and OUT/table.txt."""
    parser = argparse.ArgumentParser(prog="python -m cxrlib.sanity.gather", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument("tables", nargs="+", metavar="NAME=FOLDER", help="a model's name and the folder that sanity wrote")
    parser.add_argument("--title", required=True, help="what the result shows")
    parser.add_argument("--command", action="append", default=[], help="a command that leads to it; give it for each")
    args = parser.parse_args(arguments)
    try:
        folders: list[tuple[str, Path]] = []
        for text in args.tables:
            name, _, folder = text.partition("=")
            if not (name and folder):
                raise CxrError(f"{text}: give a name and a folder, such as LT-ViT=RUN/sanity/test")
            folders.append((name, Path(folder)))
        result = gather(folders, title=args.title, commands=args.command)
    except CxrError as error:
        print(f"cxrlib: {error}", file=sys.stderr)
        return 2
    write_json(args.out / "result.json", result)
    with atomic_write(args.out / "table.txt") as file:
        for name, folder in folders:
            file.write(f"{name}\n{(folder / 'sanity.txt').read_text(encoding='utf-8')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
