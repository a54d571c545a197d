"""A contact sheet: one healthy chest and each of the 14 findings, with their boxes. Every picture is
synthetic."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxrlib.findings import NIH_FINDINGS, NO_FINDING
from cxrlib.io import atomic_write
from cxrlib.phantom.drawing import draw
from cxrlib.phantom.labels import check_seed

COLUMNS, ROWS, GAP, CAPTION = 5, 3, 6, 18


def contact_sheet(
    *, size: int = 224, seed: int = 0, severity: float = 0.7, boxes: bool = True
) -> Image.Image:
    """Draws the sheet.

    Args:
        size: Pixels per side of each picture.
        seed: The n-th picture is drawn from `seed + n`.
        severity: Of every finding, 0 to 1.
        boxes: Outline each lesion's exact box.

    Returns:
        A grey-and-orange RGB picture of 3 rows and 5 columns.
    """
    sheet = Image.new("RGB", (COLUMNS * (size + GAP) + GAP, ROWS * (size + GAP + CAPTION) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for i, finding in enumerate((NO_FINDING, *NIH_FINDINGS)):
        wanted = () if finding == NO_FINDING else (finding,)
        phantom = draw(
            seed + i, size=size, findings=wanted, severity={f: severity for f in wanted},
            view="AP" if finding in ("Edema", "Pneumonia") else "PA", sex="MF"[i % 2], age=24 + 4 * i,
        )  # fmt: skip
        x, y = GAP + i % COLUMNS * (size + GAP), GAP + i // COLUMNS * (size + GAP + CAPTION)
        sheet.paste(Image.fromarray(np.repeat(phantom.image_YX[..., None], 3, -1)), (x, y))
        for box in phantom.boxes.get(finding, []) if boxes else []:
            x0, y0, x1, y1 = box
            pen.rectangle([x + x0, y + y0, x + x1 - 1, y + y1 - 1], outline=(230, 159, 0))
        pen.text((x + 2, y + size + 2), finding.replace("_", " "), fill="black", font=font)
    return sheet


def write_contact_sheet(path: str | Path, *, seed: int = 0) -> Path:
    """Writes the sheet as a PNG of few colours, small enough for a README."""
    check_seed(seed)
    small = contact_sheet(size=176, seed=seed).quantize(64, dither=Image.Dither.NONE)
    with atomic_write(path, "wb") as file:
        small.save(file, format="PNG", optimize=True)
    return Path(path)
