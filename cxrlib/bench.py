"""Stopwatch readings of this machine, taken in one process and printed as ratios.

    python -m cxrlib bench

A ratio of two things timed in turn says more than either time alone: both see the same machine in the same mood.
"""

import argparse
import os
import platform
import statistics
from collections.abc import Callable

import torch

from cxrlib import bench_clarity, bench_training
from cxrlib.bench_lt_vit import bench_lt_vit
from cxrlib.data import timing
from cxrlib.errors import CxrError
from cxrlib.io import write_json
from cxrlib.phantom import images_per_second
from cxrlib.stopwatch import alternate
from cxrlib.training.runs import versions


def machine(device: str) -> dict:
    """What the readings were taken on."""
    described = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": versions(),
    }
    return described


def bench_step(device: str, *, batch: int, pairs: int) -> dict:
    """A training step of our ViT-S/16 against timm's: forward, backward, clipping and AdamW on the same images."""
    import timm

    import cxrlib.models  # noqa: F401  (registers our models)

    img_BIYX = torch.randn(batch, 3, 224, 224, device=device)
    labels_BC = (torch.rand(batch, 14, device=device) > 0.9).float()

    def stepper(name: str) -> Callable[[], None]:
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=14).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def step() -> None:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                out = model(img_BIYX)
            logits_BC = getattr(out, "logits_BC", out)
            torch.nn.functional.binary_cross_entropy_with_logits(logits_BC.float(), labels_BC).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    ours, theirs = alternate(
        stepper("cxr_vit_small_patch16_224"), stepper("vit_small_patch16_224"), pairs=pairs, device=device
    )
    return {
        "batch": batch,
        "ours_images_per_s": batch / statistics.median(ours),
        "timm_images_per_s": batch / statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs)),
        "goal": "at most 1.03",
    }


def bench(device: str = "cpu", *, quick: bool = False) -> dict:
    """All readings. `quick` takes few of each, to see that they work.

    Raises:
        CxrError: There is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CxrError("no CUDA device is at hand: use --device cpu")
    store = timing.bench_store(n=4 if quick else 24)
    reading = timing.bench_reading(**dict(n=64, read=64, repeats=1) if quick else {})
    batch, pairs = (64, 30) if device == "cuda" else (2, 11)
    return {
        "machine": machine(device),
        "store": store._asdict() | {"goal": "at least 50"},
        "reading": timing.as_json(reading),
        "phantom": {"images_per_s": images_per_second(n=4 if quick else 100), "goal": "at least 60"},
        "step": bench_step(device, batch=1 if quick else batch, pairs=2 if quick else pairs),
        "lt_vit": bench_lt_vit(
            device, size=64 if quick else 512, batch=batch // 2, pairs=2 if quick else pairs, memory_batch=1 if quick else 4
        ),
        "clarity": bench_clarity.bench_clarity(
            device, size=64 if quick else 512, step_size=64 if quick else 224, batch=batch // 2, pairs=2 if quick else pairs,
            memory_batch=1 if quick else 4,
        ),
        "training": bench_training.bench_training(device, quick=quick) if device == "cuda" else None,
    }


def as_text(readings: dict) -> str:
    """The readings as a table."""
    where, store, phantom, step, lt_vit = (readings[key] for key in ("machine", "store", "phantom", "step", "lt_vit"))
    rows = [
        ("store read against PNG decode", f"{store['ratio']:.0f}x faster", store["goal"],
         f"{store['store_ms']:.4f} ms against {store['png_ms']:.1f} ms per 1024-px file"),
        *timing.as_rows(store, readings["reading"]),
        ("phantom at 224 px", f"{phantom['images_per_s']:.0f} images/s", phantom["goal"], "one process, files and masks written"),
        ("ViT-S/16 training step against timm's", f"{step['ratio']:.3f}x the time", step["goal"],
         f"{step['ours_images_per_s']:.1f} against {step['timm_images_per_s']:.1f} images/s, batch {step['batch']}"),
        (f"LT-ViT with maps at {lt_vit['size']} px against timm's", f"{lt_vit['time_ratio']:.3f}x the time", lt_vit["goal"],
         f"{lt_vit['maps_s_per_image']:.3f} s against {lt_vit['timm_s_per_image']:.3f} s an image, batch {lt_vit['batch']}"),
        ("  its peak memory, weights aside", f"{lt_vit['memory_ratio']:.3f}x", lt_vit["goal"],
         f"{lt_vit['maps_mib']:.1f} against {lt_vit['timm_mib']:.1f} MiB, batch {lt_vit['memory_batch']}"),
        ("  with attention written out instead", f"{lt_vit['explicit_time_ratio']:.3f}x the time", "none",
         f"{lt_vit['explicit_s_per_image']:.3f} s an image"),
        ("  and its peak memory", f"{lt_vit['explicit_memory_ratio']:.3f}x", "none", f"{lt_vit['explicit_mib']:.1f} MiB"),
        *bench_clarity.as_rows(readings["clarity"]),
        *bench_training.as_rows(readings["training"]),
    ]  # fmt: skip
    head = (
        f"{where['device']}, {where['cpus']} CPUs, {where['torch_threads']} torch threads, {where['system']}, "
        f"torch {where['versions']['torch']}"
    )
    return "\n".join([head, *(f"{what:<54}{value:>16}  (goal: {goal})  {how}" for what, value, goal, how in rows)]) + "\n"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `bench` to the command line."""
    parser = subparsers.add_parser("bench", help="measure this machine", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the training step runs")
    parser.add_argument("--out", metavar="FILE", help="also write the readings as JSON")
    parser.add_argument("--quick", action="store_true", help="few readings of each: shows that it works, measures little")


def run(args: argparse.Namespace) -> int:
    """Measures and prints."""
    readings = bench(args.device, quick=args.quick)
    print(as_text(readings), end="")
    if args.out:
        write_json(args.out, readings)
        print(f"written to {args.out}")
    return 0
