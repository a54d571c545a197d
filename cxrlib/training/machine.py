"""What a run was computed on, in words that name no computer: a host's name is its owner's business."""

import os
import platform
from pathlib import Path

import torch


def machine() -> dict:
    """What a run folder keeps of the machine, as JSON holds it.

    Returns:
        "system", "cpu" (its name, or None where the system does not tell), "cpus" (that this process may use), "memory_gib",
        "gpus" (names), "processes" (of this training, over all machines).
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": memory_gib(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "processes": torch.distributed.get_world_size() if distributed else 1,
    }


def cpu_name() -> str | None:
    """The processor's name; None where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, [*names, platform.processor()]), None)


def memory_gib() -> int | None:
    """Physical memory in GiB; None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (AttributeError, ValueError, OSError):
        return None
