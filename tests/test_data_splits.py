"""Splits by patient: disjoint, of the right size, and the same for any order of the rows."""

import numpy as np
import pandas as pd
import pytest

from cxrlib.data import assert_patient_disjoint, split_by_patient
from cxrlib.data.splits import read_split_list
from cxrlib.errors import CxrError


def cohort(seed: int, *, patients: int = 60) -> pd.DataFrame:
    """Patients with one to many images, a few with very many, as in NIH's table."""
    rng = np.random.default_rng(seed)
    images = rng.geometric(0.3, patients)
    images[:2] = 40
    table = pd.DataFrame({"patient": np.repeat([f"p{number}" for number in range(patients)], images)})
    return table.sample(frac=1, random_state=seed, ignore_index=True)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("fraction", [0.02, 0.13, 0.5, 0.97])
def test_disjoint_complete_and_of_the_right_size(seed, fraction):
    table = cohort(seed)
    rest, held = split_by_patient(table, fraction, seed)
    assert sorted([*rest, *held]) == list(range(len(table))) and len(rest) and len(held)
    assert set(table["patient"][rest]).isdisjoint(table["patient"][held])
    assert abs(len(held) - fraction * len(table)) <= 40  # the images of one patient
    assert (np.diff(held) > 0).all() and (np.diff(rest) > 0).all()


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    table = cohort(1)
    chosen = {seed: set(table["patient"][split_by_patient(table, 0.3, seed)[1]]) for seed in range(4)}
    assert len({frozenset(patients) for patients in chosen.values()}) == 4
    shuffled = table.sample(frac=1, random_state=99, ignore_index=True)
    assert set(shuffled["patient"][split_by_patient(shuffled, 0.3, 2)[1]]) == chosen[2]


def test_impossible_splits_are_refused():
    table = cohort(0)
    for fraction in (0, 1, -0.1, 1.5):
        with pytest.raises(CxrError, match="between 0 and 1"):
            split_by_patient(table, fraction, 0)
    with pytest.raises(CxrError, match="two patients or more"):
        split_by_patient(pd.DataFrame({"patient": ["a", "a"]}), 0.5, 0)


def test_the_assertion_names_the_patient():
    table = pd.DataFrame({"patient": ["a", "b", "c", "b"]})
    assert_patient_disjoint(table, {"train": [0, 2], "test": [1, 3]})
    with pytest.raises(CxrError, match="1 patients .*patient b is in train and in test"):
        assert_patient_disjoint(table, {"train": [0, 1], "val": [2], "test": [3]})


def test_split_lists(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa.png\r\nb.png \r\n\r\nc.png")
    assert read_split_list(path) == ["a.png", "b.png", "c.png"]
    path.write_text("a.png\nb.png\na.png")
    with pytest.raises(CxrError, match="names a.png twice"):
        read_split_list(path)
    path.write_text("\n")
    with pytest.raises(CxrError, match="names no image"):
        read_split_list(path)


def test_a_list_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "list.txt").write_text("00000001_000.png\n00000002_000.png\n", encoding="utf-16")
    with pytest.raises(CxrError, match=r"list\.txt cannot be read as a list of names \(.+\): .* as UTF-8"):
        read_split_list(tmp_path / "list.txt")
