"""What maps cost: LT-ViT with maps against a plain ViT without, and against attention written out.

One interleaved run on the same images. The goals are those of the course: at most a tenth more time, and a tenth more memory.
"""

import statistics

import torch
from torch import Tensor

from cxrlib.models.lt_vit import LabelTokenViT, merge_heads, split_heads
from cxrlib.stopwatch import alternate, peak_bytes


def written_out(model: LabelTokenViT, img_BIYX: Tensor) -> tuple[Tensor, Tensor]:
    """LT-ViT as it is often coded: one stream of image and labels, a mask, and whole maps that are kept and stacked.

    The scores are those of `model(img_BIYX)`; only the way there differs. For the published form: full label attention, one-way
    flow, labels in the last layers.

    Returns:
        (logits_BC, attention_KBHNN), N counting image tokens and labels.
    """
    x_BND = model.embed(img_BIYX)
    B, image, _ = x_BND.shape
    maps = []
    for layer, block in enumerate(model.blocks):
        if layer == model.n1:
            x_BND = torch.cat([x_BND, model.label_tokens.expand(B, -1, -1)], dim=1)
        q_BHNd, k_BHNd, v_BHNd = split_heads(block.attn, block.norm1(x_BND))
        scores_BHNN = q_BHNd @ k_BHNd.transpose(-2, -1) * q_BHNd.shape[-1] ** -0.5
        if layer >= model.n1:
            hidden_NN = torch.zeros(scores_BHNN.shape[-2:], dtype=torch.bool, device=x_BND.device)
            hidden_NN[:image, image:] = True  # the image is blind to the labels
            scores_BHNN = scores_BHNN.masked_fill(hidden_NN, float("-inf"))
        map_BHNN = scores_BHNN.softmax(dim=-1)
        x_BND = x_BND + merge_heads(block.attn, map_BHNN @ v_BHNd)
        x_BND = x_BND + block.mlp(block.norm2(x_BND))
        if layer >= model.n1:
            maps.append(map_BHNN)
    t_BCD = model.norm(x_BND[:, image:])
    if model.norm_twice:
        t_BCD = model.norm(t_BCD)
    return model.head(t_BCD), torch.stack(maps)


def bench_lt_vit(device: str, *, size: int, batch: int, pairs: int, memory_batch: int) -> dict:
    """Time and peak memory of a forward pass: LT-ViT with maps, timm's ViT-S/16, and LT-ViT written out.

    Args:
        device: "cpu" or "cuda".
        size: Side of the images, in pixels.
        batch: Images per timed pass.
        pairs: Rounds of the interleaved run.
        memory_batch: Images of the pass whose memory is followed.
    """
    import timm

    import cxrlib.models  # noqa: F401  (registers our models)

    torch.manual_seed(0)
    ours = timm.create_model("ltvit_small_patch16_512", img_size=size, num_classes=14).to(device).eval()
    theirs = timm.create_model("vit_small_patch16_224", img_size=size, num_classes=14).to(device).eval()

    def passes(count: int) -> list:
        img_BIYX = torch.randn(count, 3, size, size, device=device)
        works = [lambda: ours(img_BIYX, maps=True), lambda: theirs(img_BIYX), lambda: written_out(ours, img_BIYX)]
        return [torch.inference_mode()(torch.autocast(device, torch.bfloat16, enabled=device == "cuda")(w)) for w in works]

    times = alternate(*passes(batch), pairs=pairs, device=device)
    maps, plain, explicit = ([second / batch for second in seconds] for seconds in times)
    maps_bytes, plain_bytes, explicit_bytes = (peak_bytes(work, device=device) for work in passes(memory_batch))
    return {
        "size": size,
        "batch": batch,
        "rounds": pairs,
        "memory_batch": memory_batch,
        "maps_s_per_image": statistics.median(maps),
        "timm_s_per_image": statistics.median(plain),
        "explicit_s_per_image": statistics.median(explicit),
        "time_ratio": statistics.median(a / b for a, b in zip(maps, plain)),
        "explicit_time_ratio": statistics.median(a / b for a, b in zip(explicit, plain)),
        "maps_mib": maps_bytes / 2**20,
        "timm_mib": plain_bytes / 2**20,
        "explicit_mib": explicit_bytes / 2**20,
        "memory_ratio": maps_bytes / plain_bytes,
        "explicit_memory_ratio": explicit_bytes / plain_bytes,
        "goal": "at most 1.10",
    }
