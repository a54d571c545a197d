"""The main job on genuine radiographs, at toy size: read, prepare, train, evaluate."""

from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib import cli
from cxrlib.findings import NIH_FINDINGS


def test_genuine_radiographs_go_all_the_way_to_a_table(real_folder: Path, tmp_path: Path):
    """160 images of the 256-px set, linked into a folder of their own, with NIH's own table and split."""
    source = real_folder / "nih_mini256"
    manifest = pd.read_csv(source / "manifest.csv")
    chosen = pd.concat([manifest[manifest["official_split"] == split].head(n) for split, n in (("test", 60), ("train_val", 100))])
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in chosen["image"]:
        (tmp_path / "data" / "images" / name).symlink_to(source / "images" / name)
    data, store, run = (str(tmp_path / part) for part in ("data", "store", "run"))
    assert cli.main(["prepare", data, store, "--size", "32", "--metadata", str(real_folder / "nih")]) == 0
    assert cli.main(["train", "mu", "--data", store, "--out", run, "--epochs", "1", "--device", "cpu"]) == 0
    assert cli.main(["evaluate", run, "--split", "test", "--resamples", "20", "--device", "cpu"]) == 0
    table = pd.read_csv(tmp_path / "run" / "evaluation" / "test" / "auroc.csv")
    assert tuple(table["finding"]) == NIH_FINDINGS
    assert (table["positives"] + table["negatives"] == 60).all()
    assert table["auroc"].notna().sum() >= 5
    assert ((table["positives"] == 0) == table["auroc"].isna()).all()
    arrays = np.load(tmp_path / "run" / "evaluation" / "test" / "predictions.npz")
    held = set(pd.read_csv(tmp_path / "run" / "validation.csv", dtype=str)["image"])
    assert not held & set(arrays["images"])
