"""The stopwatch: its readings are positive, in turn, and written down. No test looks at a speed: the machine may be busy."""

import json

import pytest

from cxrlib import bench, cli


def test_pairs_are_timed_in_turn():
    order = []
    times_a, times_b = bench.alternate(lambda: order.append("a"), lambda: order.append("b"), pairs=3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"  # the first two warm up
    assert len(times_a) == len(times_b) == 3 and min(times_a + times_b) > 0


@pytest.mark.timeout(180)
def test_the_command_prints_ratios_and_writes_them(tmp_path, capsys):
    assert cli.main(["bench", "--quick", "--out", str(tmp_path / "bench.json")]) == 0
    said = capsys.readouterr().out
    stored = json.loads((tmp_path / "bench.json").read_text())
    assert f"{stored['store']['ratio']:.0f}x faster" in said and f"{stored['step']['ratio']:.3f}x the time" in said
    assert stored["store"]["png_ms"] > stored["store"]["store_ms"] > 0
    assert stored["machine"]["cpus"] >= 1 and stored["machine"]["versions"]["torch"]


def test_a_device_that_is_not_there_is_refused(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.main(["bench", "--device", "cuda"]) == 2
    assert "--device cpu" in capsys.readouterr().err
