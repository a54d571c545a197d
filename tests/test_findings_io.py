"""Names of findings, atomic writes and the torchvision cure."""

import errno
import os

import pytest

from cxrlib.errors import CxrError
from cxrlib.findings import BOXED_FINDINGS, CHEXPERT_TO_NIH, CHEXPERT_OBSERVATIONS, NIH_FINDINGS, canonical
from cxrlib.io import atomic_write, read_json, sha256_of, write_json


def test_names_meet_whatever_the_table():
    assert canonical("Infiltrate") == "Infiltration"
    assert canonical(" pleural thickening ") == canonical("Pleural_Thickening") == "Pleural_Thickening"
    assert [canonical(name.upper()) for name in NIH_FINDINGS] == list(NIH_FINDINGS)
    assert len(NIH_FINDINGS) == 14 and BOXED_FINDINGS[-1] == "Pneumothorax"
    assert set(CHEXPERT_TO_NIH) <= set(CHEXPERT_OBSERVATIONS) and set(CHEXPERT_TO_NIH.values()) <= set(NIH_FINDINGS)
    with pytest.raises(CxrError, match="correct the spelling"):
        canonical("Fracture")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "deep" / "result.json"
    write_json(target, {"macro": 0.5})
    with pytest.raises(RuntimeError):
        with atomic_write(target) as file:
            file.write("half of it")
            raise RuntimeError("killed")
    assert read_json(target) == {"macro": 0.5} and os.listdir(target.parent) == ["result.json"]


def test_a_full_disk_is_one_clear_line(tmp_path):
    target = tmp_path / "result.json"
    write_json(target, [1])
    with pytest.raises(CxrError, match="free some space") as caught:
        with atomic_write(target) as file:
            raise OSError(errno.ENOSPC, "No space left on device")
    assert "\n" not in str(caught.value) and read_json(target) == [1] and os.listdir(tmp_path) == ["result.json"]


def test_json_refuses_nan_and_says_what_is_broken(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"auroc": float("nan")})
    (tmp_path / "b.json").write_text('{"half": ')
    with pytest.raises(CxrError, match="not valid JSON"):
        read_json(tmp_path / "b.json")
    with pytest.raises(CxrError, match="does not exist"):
        read_json(tmp_path / "c.json")


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc", chunk=2) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_timm_and_torchvision_import_after_cxrlib():
    import timm
    from torchvision.transforms import v2

    assert timm.list_models("vit_small_patch16_224") and v2.Resize(3)
