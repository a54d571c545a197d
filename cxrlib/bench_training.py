"""How fast four models train: images/s, MFU, waiting and peak memory, fed from memory and from the store, in one run.

    python -m cxrlib bench --device cuda

Every reading is a burst of real training steps (`cxrlib.training.train_step` and the averaged weights, on a real store with real
regions); the bursts of all models and both feeds take turns, so that a drift of the machine meets all alike.
"""

import dataclasses
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from PIL import Image

from cxrlib import recipes
from cxrlib.data.ahead import read_ahead
from cxrlib.data.feed import Batch, training_batches
from cxrlib.data.prepare import prepare
from cxrlib.data.store import ImageStore
from cxrlib.data.studies import Studies, empty_boxes
from cxrlib.findings import NIH_FINDINGS
from cxrlib.models.cost import macs
from cxrlib.phantom.drawing import STRUCTURES
from cxrlib.priors import make_priors
from cxrlib.recipes import Recipe
from cxrlib.training.compiled import compile_layers
from cxrlib.training.loop import train_step
from cxrlib.training.meter import Meter, Speed, peak_flops
from cxrlib.training.objectives import make_objective
from cxrlib.training.optim import make_ema, make_optimizer, set_lr
from cxrlib.training.setup import make_fabric

NOT_MEASURED = "not measured: no CUDA device was at hand"
NAMES = {"timm": "timm's ViT-S/16", "vit": "our ViT-S/16", "lt_vit": "LT-ViT", "clarity": "CLARiTy, all losses but the teacher's"}


def recipes_at(size: int, priors: str) -> dict[str, Recipe]:
    """The four models at an image size, from random weights."""
    plain = dataclasses.replace(recipes.vit_small_224(), image_size=size, weights="")
    clarity = recipes.clarity_small_224()
    losses = clarity.losses | {"wait_epochs": 0.0, "ramp_epochs": 0.0}  # every loss from the first step
    return {
        "timm": dataclasses.replace(plain, model="timm", options={"name": "vit_small_patch16_224"}),
        "vit": plain,
        "lt_vit": dataclasses.replace(plain, model="lt_vit", options={"n2": 4}),
        "clarity": dataclasses.replace(plain, model="clarity", options=clarity.options, losses=losses, priors=priors),
    }


def made_up_store(folder: Path, *, size: int, n: int) -> ImageStore:
    """n images of noise, with NIH's 14 findings at NIH's mean of 0.72 an image, written as PNGs and prepared."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8)).save(folder / "images" / f"{i:05d}.png", compress_level=1)
    labels_NC = (rng.random((n, 14)) < 0.72 / 14).astype(float)
    table = pd.DataFrame(
        {
            "image": [f"{i:05d}.png" for i in range(n)], "path": [f"images/{i:05d}.png" for i in range(n)],
            "patient": [str(i) for i in range(n)], "follow_up": 0, "age": 50.0, "sex": "F", "view": "PA", "split": "train_val",
            "width": size, "height": size,
        }
    )  # fmt: skip
    table[list(NIH_FINDINGS)] = labels_NC
    return prepare(Studies(table, empty_boxes(), NIH_FINDINGS, "noise", "none", folder), folder / "store", size=size)


def made_up_structures(size: int) -> Callable[[range], Iterator[dict[str, np.ndarray]]]:
    """Structures of noise images: a random rectangle for each, different in every image."""

    def structures_of(rows: range) -> Iterator[dict[str, np.ndarray]]:
        for row in rows:
            rng = np.random.default_rng(row)
            found = {}
            for name in STRUCTURES:
                y, x = rng.integers(0, size // 2, 2)
                found[name] = np.zeros((size, size), bool)
                found[name][y : y + size // 3, x : x + size // 3] = True
            yield found

    return structures_of


@dataclasses.dataclass
class Contender:
    """One model with all that its training steps need."""

    recipe: Recipe
    step: Callable[[Batch], None]
    macs: int

    @classmethod
    def of(cls, fabric: Fabric, recipe: Recipe, store: ImageStore, *, compile: bool) -> "Contender":
        """Builds the model, its optimizer, its averaged weights and its objective."""
        torch.manual_seed(0)
        model = recipe.build(len(store.findings))
        if recipe.model == "timm":
            model.net.set_input_size(img_size=recipe.image_size)
        rows, count = np.arange(store.n), macs(model, image_size=recipe.image_size)
        objective = make_objective(recipe, store, store.findings, rows, grid=getattr(model, "grid", None))
        optimizer = make_optimizer(model, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay)
        ema = make_ema(model, recipe.ema).to(fabric.device)
        if compile:
            compile_layers(model)
        model, optimizer = fabric.setup(model, optimizer)
        model.train()
        set_lr(optimizer, 1e-5)
        steps = itertools.count(1)

        def step(batch: Batch) -> None:
            train_step(fabric, model, optimizer, objective, batch, recipe)
            ema.update(model.module, step=next(steps))

        return cls(recipe, step, count)


def burst(work: Contender, batches: Iterator[Batch], *, steps: int, peak: float, device: torch.device) -> Speed:
    """So many steps in a row, and the wait for the device at their end."""
    meter = Meter(macs=work.macs, peak=peak)
    first = next(batches)  # opening the store and starting the reader is not a step
    started = time.monotonic()
    for batch in meter.watch(itertools.chain([first], itertools.islice(batches, steps - 1)), images=len(first.img_BYX)):
        work.step(batch)
    speed = meter.read()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - started
    rate = steps * len(first.img_BYX) / seconds
    return Speed(rate, speed.data_wait, rate * meter.flops_per_image / peak)


def bench_size(fabric: Fabric, *, size: int, batch: int, steps: int, rounds: int, images: int, compile: bool) -> dict:
    """The four models at one image size."""
    device, peak, cuda = fabric.device, peak_flops(fabric.device), fabric.device.type == "cuda"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        store = made_up_store(Path(scratch) / "data", size=size, n=images)
        make_priors(store, Path(scratch) / "priors", source="noise", structures_of=made_up_structures(64), size=64)
        works = {name: Contender.of(fabric, recipe, store, compile=compile) for name, recipe in recipes_at(size, str(Path(scratch) / "priors")).items()}

        def from_store(turn: int) -> Iterator[Batch]:
            def all_epochs() -> Iterator[Batch]:
                for epoch in itertools.count(100 * turn):
                    yield from training_batches(store.pixels, store.labels_NC, np.arange(store.n), batch=batch, seed=0, epoch=epoch)

            return read_ahead(all_epochs(), pin=cuda)

        held = next(training_batches(store.images_NYX, store.labels_NC, np.arange(store.n), batch=batch, seed=0, epoch=0))
        held = Batch(*(part.pin_memory() if cuda and isinstance(part, torch.Tensor) else part for part in held))
        readings: dict[str, dict] = {name: {"memory": [], "store": []} for name in works}
        for name, work in works.items():  # kernels are chosen and compiled; then the most memory that a step holds
            burst(work, itertools.repeat(held), steps=3, peak=peak, device=device)
            readings[name]["peak_mib"] = math.nan
            if cuda:
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                burst(work, itertools.repeat(held), steps=2, peak=peak, device=device)
                readings[name]["peak_mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20
        for turn in range(rounds):
            for name in works if turn % 2 == 0 else reversed(works):
                for feed in ("memory", "store"):
                    batches = itertools.repeat(held) if feed == "memory" else from_store(turn)
                    readings[name][feed].append(burst(works[name], batches, steps=steps, peak=peak, device=device))
                    if feed == "store":
                        batches.close()
        del works
    return {"size": size, "batch": batch, "steps": steps, "rounds": rounds, "compiled": compile} | {
        "models": {name: {"words": NAMES[name]} | summary(found, readings["timm"]) for name, found in readings.items()}
    }


def summary(found: dict, reference: dict) -> dict:
    """Medians over the rounds; ratios are taken round by round."""

    def rates(speeds: list[Speed]) -> list[float]:
        return [speed.images_per_s for speed in speeds]

    memory, store, timm = rates(found["memory"]), rates(found["store"]), rates(reference["memory"])
    numbers = {
        "images_per_s": statistics.median(memory),
        "mfu": statistics.median(speed.mfu for speed in found["memory"]),
        "over_timm": statistics.median(a / b for a, b in zip(memory, timm)),
        "store_images_per_s": statistics.median(store),
        "store_over_memory": statistics.median(a / b for a, b in zip(store, memory)),
        "data_wait": statistics.median(speed.data_wait for speed in found["store"]),
        "peak_mib": found["peak_mib"],
    }
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def bench_training(device: str, *, quick: bool = False, sizes: dict[int, int] | None = None) -> list[dict]:
    """All readings: each size plain and with compiled layers.

    Args:
        device: "cuda", or "cpu" to see that it works.
        quick: Few short bursts on few images.
        sizes: Image size -> batch. None: 224 px with 128 images and 512 px with 32, what one step of a recipe holds on a device.
    """
    fabric = make_fabric(device, 1, batch=2)
    sizes = sizes or ({64: 2} if quick else {224: 128, 512: 32})
    steps, rounds = (2, 1) if quick else (20, 5)
    return [
        bench_size(fabric, size=size, batch=batch, steps=steps, rounds=rounds, images=batch * (3 if quick else 16), compile=compile)
        for size, batch in sizes.items()
        for compile in ((False,) if quick else (False, True))
    ]


def as_rows(readings: list[dict] | None) -> list[tuple[str, str, str, str]]:
    """The readings as (what, value, goal, how), for `python -m cxrlib bench`."""
    if readings is None:
        return [("training on a GPU, 224 and 512 px, bf16", NOT_MEASURED, "CLARiTy 0.60x of timm's images/s at 224", "use --device cuda")]
    rows = []
    for reading in readings:
        how = f"{reading['size']} px, batch {reading['batch']}{', compiled' if reading['compiled'] else ''}"
        for name, found in reading["models"].items():
            mfu = "" if found["mfu"] is None else f", MFU {found['mfu']:.1%}"
            memory = "" if found["peak_mib"] is None else f", peak {found['peak_mib']:.0f} MiB above weights and optimizer"
            goal = "at least 0.60 of timm's" if (name, reading["size"]) == ("clarity", 224) else "none"
            rows.append((f"training {found['words']}, {how}", f"{found['images_per_s']:.1f} images/s", goal, f"{found['over_timm']:.3f}x timm's{mfu}{memory}"))
            rows.append(("  fed from the store", f"{found['store_over_memory']:.3f}x", "at least 0.95", f"{found['data_wait']:.1%} of the time waiting for data"))
    return rows
