"""A trained model as one ONNX file: grey bytes in, logits out, checked against torch before it is kept.

    python -m cxrlib export RUN OUT.onnx
    python -m cxrlib export RUN OUT.onnx --maps         with a map of every finding beside the logits (clarity, lt_vit)

The file's first operations are the preprocessing (/ 255, the channel repeated, mean, standard deviation), so whoever runs it cannot
get it wrong. Its metadata say what goes in and what comes out.

Letters of shapes: B batch, C findings, Y X pixels, y x rows and columns of patches.
"""

import argparse
import json
import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import cxrlib
from cxrlib.errors import CxrError
from cxrlib.io import atomic_write
from cxrlib.localization.runs import load_run
from cxrlib.models import Clarity, LabelTokenViT
from cxrlib.publishing.hub import Preprocessing, load

TOLERANCE = 1e-4
"""Largest difference between onnxruntime and torch, on logits and on maps. Our decision: two orders above what rounding gives, and
far below what a score is read to."""
BATCHES = (1, 3)
"""Sizes of batch that are compared; neither is the one that was traced."""


class Exported(NamedTuple):
    """What `export` returns."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float
    """The largest between onnxruntime and torch, over all batches and outputs."""


class _FromBytes(nn.Module):
    """A model with its preprocessing in front."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, maps: bool):
        super().__init__()
        self.model, self.maps = model, maps
        self.register_buffer("mean_I11", torch.tensor(preprocessing.mean)[:, None, None])
        self.register_buffer("std_I11", torch.tensor(preprocessing.std)[:, None, None])

    def forward(self, img_BYX: Tensor) -> tuple[Tensor, ...]:
        img_BIYX = (img_BYX[:, None].float() / 255 - self.mean_I11) / self.std_I11
        if not self.maps:
            return (self.model(img_BIYX).logits_BC,)
        out = self.model(img_BIYX, maps=True)
        return out.logits_BC, _fused(self.model, out)


def _fused(model: nn.Module, out: Any) -> Tensor:
    """The map_BCyx that `model.maps` gives, from a pass that gave the logits too."""
    if isinstance(model, LabelTokenViT):
        patches = model.grid[0] * model.grid[1]
        return out.attention_KBHCM.mean(dim=(0, 2))[:, :, 1 : 1 + patches].unflatten(-1, model.grid)
    if out.heatmap_BCyx is None:
        return out.attention_BCyx
    return out.attention_BCyx * (out.heatmap_BCyx >= model.segment_cam.threshold).to(out.attention_BCyx.dtype)


def export(
    model: nn.Module,
    out: str | Path,
    *,
    findings: tuple[str, ...],
    preprocessing: Preprocessing,
    maps: bool = False,
    about: dict[str, str] | None = None,
) -> Exported:
    """Writes a model as ONNX, once onnxruntime says of random images what torch says.

    Args:
        model: In eval mode, on the CPU.
        out: The file, ending in .onnx.
        findings: What its logits stand for.
        preprocessing: How bytes become its input; it becomes part of the file.
        maps: Also give the map of every finding, as `model.maps` does.
        about: More lines for the file's metadata.

    Raises:
        CxrError: The extra "export" is not installed, the model has no maps, it cannot be exported, or the file differs from torch
            by more than `TOLERANCE`; then nothing is written.
    """
    out = Path(out)
    if out.suffix != ".onnx":
        raise CxrError(f"{out} does not end in .onnx: name the file so")
    if maps and not isinstance(model, Clarity | LabelTokenViT):
        raise CxrError("this kind of model has no map of its own per finding: leave --maps out (clarity and lt_vit have them)")
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise CxrError(f"the export needs {error.name}: pip install 'cxrlib[export]'") from None
    wrapped = _FromBytes(model, preprocessing, maps).eval()
    names = ("logits", "maps")[: 1 + maps]
    proto = _to_onnx(wrapped, preprocessing.image_size, names)
    facts = {
        "findings": json.dumps(list(findings)),
        "images": f"uint8 [batch, {preprocessing.image_size}, {preprocessing.image_size}], grey, bright bone, a whole radiograph in a square",
        "preprocessing": f"inside: / 255, to {len(preprocessing.mean)} channel(s), - {list(preprocessing.mean)}, / {list(preprocessing.std)}",
        "logits": "float32 [batch, findings], before the sigmoid",
        **({"maps": "float32 [batch, findings, rows, columns] of patches"} if maps else {}),
        "cxrlib": cxrlib.__version__,
        "not for": "diagnosis, triage or any decision about a patient",
    }
    for key, value in (facts | (about or {})).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    _name_batch(proto)
    payload = proto.SerializeToString()
    session = onnxruntime.InferenceSession(payload, providers=["CPUExecutionProvider"])
    difference = parity(wrapped, session, preprocessing.image_size)
    if not difference <= TOLERANCE:  # NaN is refused too
        raise CxrError(f"onnxruntime differs from torch by {difference:.1e}, more than {TOLERANCE:.0e}: nothing was written; report this model")
    with atomic_write(out, "wb") as file:
        file.write(payload)
    return Exported(out, tuple(item.name for item in session.get_inputs()), names, difference)


def _to_onnx(wrapped: nn.Module, size: int, names: tuple[str, ...]):
    """The model as ONNX's own message. Strict tracing: it alone keeps the batch free where a model asks for `len(tokens)`."""
    image_BYX = torch.zeros(2, size, size, dtype=torch.uint8)
    log = logging.getLogger("onnxscript")
    level = log.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own making
            log.setLevel(logging.ERROR)
            traced = torch.export.export(wrapped, (image_BYX,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=True)
            program = torch.onnx.export(traced, (), dynamo=True, input_names=["images"], output_names=list(names), verbose=False)
    except Exception as error:  # torch raises many kinds; none of them is the user's to read in full
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CxrError(f"torch cannot export this model ({reason}): try another version of torch, or publish it instead") from error
    finally:
        log.setLevel(level)
    return program.model_proto


def _name_batch(proto) -> None:
    """Calls the free axis "batch" wherever it shows."""
    free = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == free:
                dim.dim_param = "batch"


@torch.inference_mode()
def parity(wrapped: nn.Module, session, size: int) -> float:
    """Largest difference between torch and onnxruntime over `BATCHES` of random images; NaN if either gives one.

    The maps are compared with `model.maps`, which is another pass than the exported one.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in BATCHES:
        # Blotches, not noise alone: noise averages out in a patch, and all images would look alike to the model.
        rough = torch.rand(batch, 1, 5, 4, generator=generator)
        smooth_BYX = torch.nn.functional.interpolate(rough, (size, size), mode="bilinear")[:, 0]
        image_BYX = ((0.8 * smooth_BYX + 0.2 * torch.rand(batch, size, size, generator=generator)) * 255).to(torch.uint8)
        expected = list(wrapped(image_BYX))
        if wrapped.maps:
            img_BIYX = (image_BYX[:, None].float() / 255 - wrapped.mean_I11) / wrapped.std_I11
            seen = wrapped.model.maps(img_BIYX)
            expected[1] = seen if isinstance(seen, Tensor) else seen.fused_BCyx
        given = session.run(None, {"images": image_BYX.numpy()})
        for ours, theirs in zip(expected, given, strict=True):
            if tuple(ours.shape) != theirs.shape:
                return float("nan")
            worst = np.fmax(worst, np.abs(ours.numpy() - theirs).max()) if np.isfinite(theirs).all() else float("nan")
            if np.isnan(worst):
                return worst
    return float(worst)


def open_model(source: str | Path) -> tuple[nn.Module, tuple[str, ...], Preprocessing]:
    """The model of a run folder, or of a published one.

    Raises:
        CxrError: It is neither.
    """
    source = Path(source)
    if (source / "config.json").is_file():
        return load(source)
    model, recipe, findings = load_run(source)
    return model, findings, Preprocessing(recipe.image_size, recipe.mean, recipe.std)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `export` to the command line."""
    parser = subparsers.add_parser(
        "export",
        help="a trained model as an ONNX file",
        description="Write a trained model as ONNX: uint8 grey images in, logits out, any number of images at once. The file is compared "
        f"with torch on batches of {' and '.join(map(str, BATCHES))}, and kept only if no number differs by more than {TOLERANCE:.0e}. "
        "Needs: pip install 'cxrlib[export]'.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder made by train, or a folder made by publish")
    parser.add_argument("out", metavar="OUT.onnx", help="the file to write")
    parser.add_argument("--maps", action="store_true", help="also give a map of every finding (clarity and lt_vit)")


def run(args: argparse.Namespace) -> int:
    """Exports, and says how near the file is to torch."""
    model, findings, preprocessing = open_model(args.run)
    made = export(model, args.out, findings=findings, preprocessing=preprocessing, maps=args.maps)
    print(f"images: uint8 [batch, {preprocessing.image_size}, {preprocessing.image_size}]; out: {', '.join(made.outputs)}; {len(findings)} findings")
    print(f"largest difference from torch, batches of {' and '.join(map(str, BATCHES))}: {made.difference:.1e} (allowed: {TOLERANCE:.0e})")
    print(f"written to {made.path} ({made.path.stat().st_size / 1e6:.1f} MB)")
    return 0
