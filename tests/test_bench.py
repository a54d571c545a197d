"""The stopwatch: its readings are positive, in turn, and written down. No test looks at a speed: the machine may be busy."""

import json

import pytest
import torch

from cxrlib import bench_training, cli, stopwatch
from cxrlib.bench_lt_vit import written_out
from cxrlib.models import LabelTokenViT
from cxrlib.training.meter import Speed


def test_pieces_of_work_are_timed_in_turn():
    order = []
    times = stopwatch.alternate(*(lambda name=name: order.append(name) for name in "abc"), pairs=3)
    assert "".join(order) == "abc" + "abc" + "cba" + "abc"  # the first three warm up
    assert [len(seconds) for seconds in times] == [3, 3, 3] and min(map(min, times)) > 0


def test_peak_memory_is_exact():
    def work():
        a = torch.zeros(3, 1000, 1000)
        b = a[0].clone()  # four million numbers at once
        del a
        return b.clone()  # two million

    with torch.inference_mode():
        assert stopwatch.peak_bytes(work) == stopwatch.peak_bytes(work) == 4 * 4_000_000


@pytest.mark.parametrize("norm_twice", [True, False])
def test_the_written_out_rival_gives_the_same_scores_and_maps(norm_twice):
    model = LabelTokenViT(
        image_size=(24, 16), patch_size=8, in_channels=1, width=12, depth=3, heads=3, num_classes=5, n2=2, norm_twice=norm_twice
    ).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        fused, (logits_BC, map_KBHNN) = model(torch.ones(2, 1, 24, 16), maps=True), written_out(model, torch.ones(2, 1, 24, 16))
    torch.testing.assert_close(logits_BC, fused.logits_BC, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(map_KBHNN[..., 7:, :], fused.attention_KBHCM, atol=1e-6, rtol=1e-5)
    assert map_KBHNN[..., :7, 7:].abs().max() == 0  # the image is blind to the labels


@pytest.mark.timeout(180)
def test_the_command_prints_ratios_and_writes_them(tmp_path, capsys):
    assert cli.main(["bench", "--quick", "--out", str(tmp_path / "bench.json")]) == 0
    said = capsys.readouterr().out
    stored = json.loads((tmp_path / "bench.json").read_text())
    assert f"{stored['store']['ratio']:.0f}x faster" in said and f"{stored['step']['ratio']:.3f}x the time" in said
    maps = stored["lt_vit"]
    assert f"LT-ViT with maps at {maps['size']} px" in said and f"{maps['time_ratio']:.3f}x the time" in said
    assert f"{maps['memory_ratio']:.3f}x " in said and f"{maps['explicit_memory_ratio']:.3f}x " in said
    assert min(maps["maps_mib"], maps["timm_mib"], maps["explicit_mib"]) > 0.1
    assert maps["memory_ratio"] == maps["maps_mib"] / maps["timm_mib"]
    clarity = stored["clarity"]
    assert f"CLARiTy with maps at {clarity['maps']['size']} px" in said and f"{clarity['maps']['maps_over_none']:.3f}x the time" in said
    assert clarity["maps"]["memory_ratio"] == clarity["maps"]["maps_mib"] / clarity["maps"]["stacked_mib"] > 0
    assert f"{clarity['step']['ratio']:.3f}x the time" in said and clarity["step"]["ratio"] > 0
    assert stored["store"]["png_ms"] > stored["store"]["store_ms"] > 0
    assert stored["training"] is None and "not measured: no CUDA device was at hand" in said
    assert stored["machine"]["cpus"] >= 1 and stored["machine"]["versions"]["torch"]


def test_a_device_that_is_not_there_is_refused(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.main(["bench", "--device", "cuda"]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_four_models_are_trained_from_memory_and_from_the_store():
    """The mechanism, on a CPU with small images: what a GPU would be asked."""
    readings = bench_training.bench_training("cpu", quick=True)
    assert len(readings) == 1 and set(readings[0]["models"]) == {"timm", "vit", "lt_vit", "clarity"}
    for found in readings[0]["models"].values():
        assert found["images_per_s"] > 0 and found["store_images_per_s"] > 0 and 0 <= found["data_wait"] <= 1
        assert found["mfu"] is None and found["peak_mib"] is None  # not known on a CPU, and not made up
    assert readings[0]["models"]["timm"]["over_timm"] == 1
    rows = bench_training.as_rows(readings)
    assert len(rows) == 8 and "64 px, batch 2" in rows[0][0] and "CLARiTy, all losses" in rows[6][0]


def test_the_ratios_are_taken_round_by_round():
    speeds = {"memory": [Speed(10, 0.0, 0.1), Speed(30, 0.0, 0.3), Speed(20, 0.0, 0.2)], "peak_mib": float("nan")}
    speeds["store"] = [Speed(9, 0.1, 0.1), Speed(15, 0.5, 0.1), Speed(20, 0.0, 0.2)]
    timm = {"memory": [Speed(20, 0, 0.1), Speed(30, 0, 0.1), Speed(80, 0, 0.1)]}
    found = bench_training.summary(speeds, timm)
    assert found["images_per_s"] == 20 and found["over_timm"] == 0.5 and found["store_over_memory"] == 0.9
    assert found["data_wait"] == 0.1 and found["mfu"] == 0.2 and found["peak_mib"] is None


def test_without_a_gpu_the_row_says_not_measured():
    (what, value, *_), = bench_training.as_rows(None)
    assert "GPU" in what and value.startswith("not measured")
