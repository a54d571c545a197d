"""Draws the picture of the README and the welcome page:  python -m cxrlib.course.cover chapters/_static/cover.png"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from cxrlib import viz
from cxrlib.io import atomic_write
from cxrlib.phantom import draw

FINDINGS = ("Effusion", "Pneumothorax", "Cardiomegaly", "Mass", "Consolidation", "Nodule")


def cover() -> Figure:
    """Six phantoms, each with one finding and its exact outline."""
    viz.use_style()
    films = [draw(seed, size=256, findings=(finding,), view="PA") for seed, finding in enumerate(FINDINGS, 11)]
    fig, axes = viz.grid([film.image_YX for film in films], titles=FINDINGS, columns=3, width=7.5)
    for ax, film, finding in zip(axes, films, FINDINGS, strict=True):
        viz.mask(ax, film.lesion_masks[finding])
    return fig


def main() -> int:
    """The command."""
    with atomic_write(Path(sys.argv[1]), "wb") as file:
        file.write(viz.png_of(cover()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
