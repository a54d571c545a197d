"""What CLARiTy's maps and losses cost: against itself without maps, against stacked explicit attention, against a plain ViT's step.

One interleaved run on the same images. The goals are those of the course.
"""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from cxrlib.losses.clarity import Weights, clarity_forward, clarity_terms, weighted_sum
from cxrlib.models.clarity import Clarity
from cxrlib.models.lt_vit import merge_heads, split_heads
from cxrlib.stopwatch import alternate, peak_bytes


def stacked(model: Clarity, img_BIYX: Tensor) -> tuple[Tensor, Tensor]:
    """CLARiTy as it is often coded: every layer's whole attention is written out, kept and stacked, and the rows cut from that.

    Returns:
        (logits_BC, attention_BCyx), those of `model(img_BIYX, maps=True)`; only the way there differs.
    """
    C = model.findings
    x_BND, maps = model.embed(img_BIYX), []
    for block in model.blocks:
        q_BHNd, k_BHNd, v_BHNd = split_heads(block.attn, block.norm1(x_BND))
        map_BHNN = (q_BHNd @ k_BHNd.transpose(-2, -1) * q_BHNd.shape[-1] ** -0.5).softmax(dim=-1)
        x_BND = x_BND + merge_heads(block.attn, map_BHNN @ v_BHNd)
        x_BND = x_BND + block.mlp(block.norm2(x_BND))
        maps.append(map_BHNN)
    attention_BCP = torch.stack(maps)[-model.attention_layers :].mean(dim=(0, 2))[:, :C, C:]
    normed_BND = model.norm(x_BND)
    cam = model.segment_cam(normed_BND[:, C:].transpose(1, 2).unflatten(-1, model.grid))
    logits_BC = (model.head(normed_BND[:, :C]) + cam.foreground_logits_BC) / 2
    return logits_BC, attention_BCP.unflatten(-1, model.grid)


def bench_maps(device: str, *, size: int, batch: int, pairs: int, memory_batch: int) -> dict:
    """Time and peak memory of a forward pass with maps, without, and with stacked explicit attention.

    The time against stacked attention is taken at both batch sizes: at one image it moved between 0.60 and 0.67 from process to
    process, presumably with the memory that the allocator had at hand.
    """
    torch.manual_seed(0)
    model = Clarity(image_size=size).to(device).eval()

    def passes(count: int) -> list:
        img_BIYX = torch.randn(count, 3, size, size, device=device)
        works = [lambda: model(img_BIYX, maps=True), lambda: model(img_BIYX), lambda: stacked(model, img_BIYX)]
        return [torch.inference_mode()(torch.autocast(device, torch.bfloat16, enabled=device == "cuda")(w)) for w in works]

    maps, plain, explicit = alternate(*passes(batch), pairs=pairs, device=device)
    many_maps, _, many_explicit = passes(memory_batch)
    maps_many, explicit_many = alternate(many_maps, many_explicit, pairs=max(2, pairs // 3), device=device)
    maps_bytes, explicit_bytes = (peak_bytes(work, device=device) for work in (many_maps, many_explicit))
    return {
        "size": size,
        "batch": batch,
        "memory_batch": memory_batch,
        "rounds": pairs,
        "maps_s_per_image": statistics.median(maps) / batch,
        "maps_over_none": statistics.median(a / b for a, b in zip(maps, plain)),
        "maps_over_stacked": statistics.median(a / b for a, b in zip(maps, explicit)),
        "maps_over_stacked_many": statistics.median(a / b for a, b in zip(maps_many, explicit_many)),
        "maps_mib": maps_bytes / 2**20,
        "stacked_mib": explicit_bytes / 2**20,
        "memory_ratio": maps_bytes / explicit_bytes,
        "goals": "at most 1.12, 0.65 and 0.125",
    }


def bench_clarity_step(device: str, *, size: int, batch: int, pairs: int) -> dict:
    """A training step with all losses on, against timm's ViT-S/16 with cross-entropy: forward, backward, clipping, AdamW."""
    import timm

    img_BIYX = torch.randn(batch, 3, size, size, device=device)
    generator = torch.Generator().manual_seed(0)
    labels_BC = (torch.rand(batch, 14, generator=generator) < 0.72 / 14).float()  # NIH's share of present findings
    labels_BC[0, 3] = 1.0
    labels_BC = labels_BC.to(device)
    grid = (size // 16, size // 16)
    region_BCyx = (torch.rand(batch, 14, *grid, generator=generator) < 0.5).float().to(device)
    weights = Weights(contrastive=0.1)

    def whole(model: Clarity) -> Tensor:
        out = clarity_forward(model, img_BIYX, labels_BC, weights)
        return weighted_sum(clarity_terms(out, labels_BC, region_BCyx, weights=weights), weights)

    def plain(model: torch.nn.Module) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(model(img_BIYX).float(), labels_BC)

    def stepper(model: torch.nn.Module, loss_of: Callable[[torch.nn.Module], Tensor]) -> Callable[[], None]:
        model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def step() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = loss_of(model)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    torch.manual_seed(0)
    ours = stepper(Clarity(image_size=size), whole)
    theirs = stepper(timm.create_model("vit_small_patch16_224", img_size=size, num_classes=14), plain)
    ours_s, theirs_s = alternate(ours, theirs, pairs=pairs, device=device)
    return {
        "size": size,
        "batch": batch,
        "present_per_image": float(labels_BC.sum()) / batch,
        "images_per_s": batch / statistics.median(ours_s),
        "ratio": statistics.median(a / b for a, b in zip(ours_s, theirs_s)),
        "goal": "at most 1.60",
    }


def bench_clarity(device: str, *, size: int, step_size: int, batch: int, memory_batch: int, pairs: int) -> dict:
    """All readings: maps at `size` pixels, the training step at `step_size`."""
    return {
        "maps": bench_maps(device, size=size, batch=batch, pairs=pairs, memory_batch=memory_batch),
        "step": bench_clarity_step(device, size=step_size, batch=max(batch, 2), pairs=pairs),
    }


def as_rows(readings: dict) -> list[tuple[str, str, str, str]]:
    """The readings as (what, value, goal, how), for `python -m cxrlib bench`."""
    maps, step = readings["maps"], readings["step"]
    return [
        (f"CLARiTy with maps at {maps['size']} px against none", f"{maps['maps_over_none']:.3f}x the time", "at most 1.12",
         f"{maps['maps_s_per_image']:.3f} s an image with maps, batch {maps['batch']}"),
        ("  against all attention stacked", f"{maps['maps_over_stacked']:.3f}x the time", "at most 0.65", f"the same scores and maps, batch {maps['batch']}"),
        ("  the same with more images", f"{maps['maps_over_stacked_many']:.3f}x the time", "at most 0.65", f"batch {maps['memory_batch']}"),
        ("  and its peak memory", f"{maps['memory_ratio']:.3f}x", "at most 0.125",
         f"{maps['maps_mib']:.0f} against {maps['stacked_mib']:.0f} MiB, batch {maps['memory_batch']}"),
        (f"CLARiTy's training step at {step['size']} px against timm's", f"{step['ratio']:.3f}x the time", step["goal"],
         f"all losses on, {step['present_per_image']:.2f} findings an image, batch {step['batch']}"),
    ]  # fmt: skip
