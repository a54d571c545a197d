"""The tables and lists of a cohort, in NIH's formats."""

from pathlib import Path

import pandas as pd

from cxrlib.findings import BOXED_FINDINGS
from cxrlib.io import atomic_write
from cxrlib.phantom.grid import FIELD_CM


def write_tables(out: Path, table: pd.DataFrame, results: list[dict], size: int) -> None:
    """Writes the tables and lists of a cohort whose images are drawn."""
    spacing = round(10 * FIELD_CM / size, 6)
    with atomic_write(out / "Data_Entry_2017_v2020.csv") as file:
        file.write(
            "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
            "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
        )
        for r in table.itertuples():
            file.write(
                f"{r.image},{r.labels},{r.follow_up},{r.patient},{r.age},{r.sex},{r.view},{size},{size},{spacing},{spacing}\n"
            )
    split = dict(zip(table["image"], table["split"], strict=True))
    every, nih = [], []
    for result in results:
        for finding, boxes in result["boxes"].items():
            every += [(result["image"], finding, box) for box in boxes]
            if finding in BOXED_FINDINGS and split[result["image"]] == "test":
                largest = max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
                nih.append((result["image"], "Infiltrate" if finding == "Infiltration" else finding, largest))
    _boxes_csv(nih, out / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,")
    _boxes_csv(every, out / "boxes_all.csv", "Image Index,Finding Label,x,y,w,h")
    with atomic_write(out / "truth.csv") as file:
        file.write("Image Index,True Findings,Devices,Cardiothoracic Ratio\n")
        for r, result in zip(table.itertuples(), results, strict=True):
            file.write(f"{r.image},{r.truth},{result['devices']},{result['cardiothoracic_ratio']}\n")
    for name in ("train_val", "test"):
        with atomic_write(out / f"{name}_list.txt") as file:
            file.write("\n".join(table["image"][table["split"] == name]))  # like NIH's: no final newline


def _boxes_csv(rows: list[tuple], path: Path, header: str) -> None:
    with atomic_write(path) as file:
        file.write(header + "\n")
        for image, finding, (x0, y0, x1, y1) in rows:
            file.write(f"{image},{finding},{x0},{y0},{x1 - x0},{y1 - y0}\n")
