"""A tiny folder laid out like NIH's, in any generation of its tables, with made-up films."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

# (image, labels, follow-up, patient, age, sex, view); not in name order, one label string not alphabetical.
ROWS = (
    ("00000002_000.png", "No Finding", 0, 2, "081Y", "M", "PA"),
    ("00000001_000.png", "Cardiomegaly", 0, 1, "058Y", "F", "PA"),
    ("00000001_001.png", "Pneumothorax|Effusion", 7, 1, "058Y", "F", "AP"),
    ("00000003_000.png", "Infiltration|Pleural_Thickening", 0, 3, "018M", "M", "PA"),
    ("00000004_000.png", "Hernia", 0, 4, "414Y", "F", "PA"),
    ("00000005_000.png", "No Finding", 0, 5, "001D", "M", "AP"),
)
TRAIN_VAL = ("00000001_000.png", "00000001_001.png", "00000002_000.png", "00000004_000.png")
TEST = ("00000003_000.png", "00000005_000.png")
BOXES = "00000003_000.png,Infiltrate,100.5,200.25,300.75,80.5"

_HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
_HEADER_KAGGLE = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImageWidth,OriginalImageHeight,OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y"
)


def label_table(generation: str, rows=ROWS) -> str:
    """The text of a label table in the style of "2017", "v2020" (or "v2020-sex") or "kaggle"."""
    lines = []
    for image, labels, follow_up, patient, age, sex, view in rows:
        if generation == "v2020" or generation == "v2020-sex":
            age = str(min(95, int(age[:-1]))) if age.endswith("Y") else "1" if age == "018M" else "0"
        patient = f"{patient:08d}" if generation == "2017" else patient
        lines.append(f"{image},{labels},{follow_up},{patient},{age},{sex},{view},2682,2749,0.143,0.143")
    if generation == "2017":
        return "\r\n".join([_HEADER_2017, *lines]) + "\r\n"
    header = _HEADER_KAGGLE if generation == "kaggle" else _HEADER_2017.rstrip(",")
    if generation == "v2020-sex":
        header = header.replace("Gender", "Sex")
    return "\n".join([header, *lines]) + "\n"


def film(size: int, seed: int) -> Image.Image:
    """A film that passes for a chest: dark lungs and air, bright spine and abdomen, and some grain."""
    picture = Image.new("L", (size, size), 120)
    draw = ImageDraw.Draw(picture)
    for x0, y0, x1, y1, grey in (
        (0.0, 0.0, 0.25, 0.15, 5), (0.75, 0.0, 1.0, 0.15, 5), (0.18, 0.18, 0.44, 0.62, 30), (0.58, 0.18, 0.84, 0.62, 35),
        (0.47, 0.1, 0.56, 0.95, 210), (0.15, 0.78, 0.85, 1.0, 200),
    ):  # fmt: skip
        draw.rectangle([x0 * size, y0 * size, x1 * size - 1, y1 * size - 1], fill=grey)
    grain = np.random.default_rng(seed).normal(0, 8, (size, size))
    return Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))


def write_nih(
    folder: Path,
    *,
    generation: str = "v2020",
    size: int = 64,
    images: bool = True,
    twelve: bool = False,
    rows=ROWS,
) -> Path:
    """Writes the folder and returns it; `twelve` spreads the images over images_001/images and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    name = {"2017": "Data_Entry_2017.csv", "kaggle": "sample_labels.csv"}.get(
        generation, "Data_Entry_2017_v2020.csv"
    )
    (folder / name).write_bytes(label_table(generation, rows).encode())
    (folder / "BBox_List_2017.csv").write_text(f"Image Index,Finding Label,Bbox [x,y,w,h],,,\n{BOXES}\n")
    (folder / "train_val_list.txt").write_text(
        "\n".join(TRAIN_VAL)
    )  # no final newline, as in the genuine lists
    (folder / "test_list.txt").write_text("\n".join(TEST))
    places = [f"images_{number:03d}/images" for number in range(1, 13)] if twelve else ["images"]
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
    for index, row in enumerate(rows if images else ()):
        film(size, index).save(folder / places[index % len(places)] / row[0])
    if twelve:  # each of the genuine twelve holds something
        for place in places[len(rows) :]:
            film(size, 99).save(folder / place / f"00009999_0{places.index(place):02d}.png")
    return folder
