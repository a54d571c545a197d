"""What makes training fast and says how fast it is: reading ahead, the meter, recomputed and compiled layers."""

import copy
import json
import math
import threading
import time
import types

import pytest
import torch
from tiny_store import tiny_store

from cxrlib import recipes
from cxrlib.data.ahead import DEPTH, read_ahead
from cxrlib.data.feed import Batch, training_batches
from cxrlib.errors import CxrError
from cxrlib.models import build_model
from cxrlib.models.cost import macs
from cxrlib.training import meter as meter_module
from cxrlib.training import train
from cxrlib.training.compiled import compile_layers
from cxrlib.training.meter import PEAK_TFLOPS, Meter, peak_flops
from cxrlib.training.recompute import RecomputedBlock, recompute_layers
from cxrlib.training.setup import find_precision

KINDS = {"vit": {}, "lt_vit": {"n2": 1}, "clarity": {}, "timm": {"name": "convnextv2_atto"}}


def test_batches_read_ahead_are_the_same_batches(tmp_path):
    store = tiny_store(tmp_path)
    rows = store.where(split="train_val")

    def batches():
        return training_batches(store.images_NYX, store.labels_NC, rows, batch=16, seed=3, epoch=1)

    given = list(read_ahead(batches()))
    assert len(given) == len(list(batches())) >= 4
    for a, b in zip(given, batches(), strict=True):
        assert isinstance(a, Batch)
        for name in ("img_BYX", "draws_BK", "rows_B"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert torch.equal(a.labels_BC.nan_to_num(7), b.labels_BC.nan_to_num(7)) and a[4:] == b[4:]


def test_reading_goes_on_while_the_device_computes():
    """Ten batches of 20 ms and ten steps of 20 ms take little more than either alone."""

    def slow():
        for i in range(10):
            time.sleep(0.02)
            yield (i,)

    started = time.perf_counter()
    for _ in read_ahead(slow()):
        time.sleep(0.02)
    assert time.perf_counter() - started < 0.37  # one after the other: 0.4 s


def test_no_more_than_a_few_batches_wait():
    made = []

    def batches():
        for i in range(100):
            made.append(i)
            yield (i,)

    ahead = read_ahead(batches())
    next(ahead)
    time.sleep(0.3)
    assert 1 + DEPTH <= len(made) <= 2 + DEPTH  # given out, waiting in the queue, waiting before it
    ahead.close()


def test_a_fault_of_the_reader_is_raised_where_the_batch_is_wanted():
    def breaks():
        yield (0,)
        raise CxrError("the file is gone")

    ahead = read_ahead(breaks())
    assert next(ahead) == (0,)
    with pytest.raises(CxrError, match="the file is gone"):
        next(ahead)


def test_the_reader_ends_with_the_training():
    def endless():
        i = 0
        while True:
            yield (i := i + 1,)

    before = threading.active_count()
    ahead = read_ahead(endless())
    assert next(ahead) == (1,) and threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before


def test_the_meter_counts_by_hand(monkeypatch):
    """Two steps of 8 images: 1 s of waiting and 3 s of work each, and 2 s of saving that do not count."""
    clock = [100.0]
    monkeypatch.setattr(meter_module.time, "monotonic", lambda: clock[0])
    meter = Meter(macs=50.0, peak=1200.0)

    def batches():
        for i in range(2):
            clock[0] += 1
            yield i

    for i in meter.watch(batches(), images=8):
        clock[0] += 3
        if i == 1:
            clock[0] += 2
            meter.leave_out(2)
    speed = meter.read()
    assert speed.images_per_s == pytest.approx(16 / 8)
    assert speed.data_wait == pytest.approx(2 / 8)
    assert speed.mfu == pytest.approx(2 * 6 * 50 / 1200)  # images per second, 3 passes of 2 operations per MAC, over the peak
    assert all(math.isnan(value) for value in meter.read())  # nothing new
    assert meter.total() == pytest.approx(speed)


def test_time_outside_the_epochs_is_no_step(tmp_path, monkeypatch):
    """Saving after an epoch is not taken out of steps in which it never was: images over seconds, as a stopwatch has them."""
    from cxrlib.training import keeper, loop

    store, spent, real = tiny_store(tmp_path / "data"), [], loop.train_step

    def timed(*args, **options):
        begun = time.monotonic()
        try:
            return real(*args, **options)
        finally:
            spent.append(time.monotonic() - begun)

    monkeypatch.setattr(loop, "train_step", timed)
    monkeypatch.setattr(keeper, "save_checkpoint", lambda *args, **options: time.sleep(0.5))
    result = train(recipes.mu(), store.folder, tmp_path / "run", device="cpu")
    assert result["images_per_s"] <= 16 * len(spent) / sum(spent) and result["data_wait"] <= 1


def test_an_unknown_peak_gives_no_utilisation():
    assert math.isnan(peak_flops("cpu"))
    assert math.isnan(Meter(macs=50.0, peak=math.nan)._speed(8, 1, 2).mfu)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA H200", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A10", 125), ("NVIDIA A10G", math.nan), ("NVIDIA A100 MIG 1g.5gb", math.nan),
     ("NVIDIA L4", 121), ("NVIDIA L40S", 362), ("Tesla T4", math.nan)],
)  # fmt: skip
def test_the_peak_belongs_to_the_name(monkeypatch, name, tflops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
    assert peak_flops("cuda") == pytest.approx(tflops * 1e12, nan_ok=True)
    names = list(PEAK_TFLOPS)
    for i, short in enumerate(names):
        assert not any(short in longer for longer in names[i + 1 :]), f"{short} hides a longer name after it"


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "32-true"), ((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed")])
def test_bf16_only_where_a_gpu_computes_in_it(monkeypatch, capability, precision):
    """A T4 (7.5) would imitate it: torch can make such tensors there, and says that bf16 is supported."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(major=capability[0], minor=capability[1]))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert find_precision("cuda") == precision and find_precision("cpu") == "32-true"


def made(kind: str, **sizes) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = dict(image_size=32, patch_size=8, in_channels=1, num_classes=5, width=24, depth=2, heads=3, drop_path=0.3, stem="patch") | sizes
    model = build_model(kind, KINDS[kind], **sizes).train()
    with torch.no_grad():
        for parameter in model.parameters():  # heads start at zero, and zeros equal zeros whatever a layer does
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def gradients(model: torch.nn.Module, img_BIYX: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(1)  # drop path
    logits_BC = model(img_BIYX).logits_BC
    logits_BC.square().sum().backward()
    return logits_BC.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_layers_give_the_same_bits(kind):
    """Logits and every gradient, drop path included; names and classes of the copies as before."""
    img_BIYX = torch.randn(3, 1, 32, 32)
    model = made(kind)
    forgetful = copy.deepcopy(model)
    recompute_layers(forgetful)
    (logits, grads), (again, grads_again) = gradients(model, img_BIYX), gradients(forgetful, img_BIYX)
    assert logits.abs().max() > 0.1 and max(grad.abs().max() for grad in grads) > 0.1
    assert torch.equal(logits, again) and len(grads) == len(grads_again) > 10
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_again))
    assert list(model.state_dict()) == list(forgetful.state_dict())
    with torch.no_grad():
        assert torch.equal(model.eval()(img_BIYX).logits_BC, forgetful.eval()(img_BIYX).logits_BC)


@pytest.mark.parametrize("kind", ["vit", "lt_vit", "clarity"])
def test_recomputed_layers_keep_less(kind):
    """Bytes kept for the gradient, counted as autograd stores them, each tensor once: less than half with eight layers."""

    def kept(model) -> int:
        seen = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.setdefault(t.untyped_storage().data_ptr(), t) is None or t, lambda t: t):
            model(torch.randn(2, 1, 32, 32)).logits_BC.sum()
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        return sum(t.untyped_storage().nbytes() for at, t in seen.items() if at not in own)

    model = made(kind, depth=8)
    forgetful = copy.deepcopy(model)
    recompute_layers(forgetful)
    assert any(isinstance(module, RecomputedBlock) for module in forgetful.modules())
    assert kept(forgetful) < 0.5 * kept(model)


def test_a_model_without_layers_cannot_be_recomputed():
    with pytest.raises(CxrError, match="leave --recompute out"):
        recompute_layers(torch.nn.Linear(2, 3))


@pytest.mark.parametrize("kind", ["vit", "lt_vit", "clarity"])
def test_compiled_layers_compute_the_same(kind):
    """Traced by torch.compile; its own kernels are left out here, which take a minute to build."""
    torch._dynamo.reset()
    img_BIYX = torch.randn(3, 1, 32, 32)
    model = made(kind, drop_path=0.0)
    compiled = copy.deepcopy(model)
    compile_layers(compiled, backend="aot_eager")
    (logits, grads), (again, grads_again) = gradients(model, img_BIYX), gradients(compiled, img_BIYX)
    assert logits.abs().max() > 0.1
    torch.testing.assert_close(again, logits, rtol=1e-5, atol=1e-6)
    for a, b in zip(grads, grads_again, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == list(compiled.state_dict())


def test_a_run_says_how_fast_it_was(tmp_path):
    store = tiny_store(tmp_path / "data")
    result = train(recipes.mu(), store.folder, tmp_path / "run", device="cpu", recompute=True)
    assert result["images_per_s"] > 1 and 0 <= result["data_wait"] <= 1
    assert result["mfu"] is None  # nobody sells a CPU by its operations per second
    assert json.loads((tmp_path / "run" / "result.json").read_text())["images_per_s"] == result["images_per_s"]


def test_the_meter_of_a_run_knows_its_model(tmp_path):
    from cxrlib.training.setup import setup

    store = tiny_store(tmp_path / "data")
    run = setup(recipes.mu(), store.folder, tmp_path / "run", device="cpu", devices=1, recompute=True)
    assert run.meter.flops_per_image == 6 * macs(recipes.mu().build(3))
