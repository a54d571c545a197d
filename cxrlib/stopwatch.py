"""Time and memory of pieces of work, for comparing them on this machine."""

import os
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def alternate(*works: Callable[[], object], pairs: int, device: str = "cpu") -> tuple[list[float], ...]:
    """Times pieces of work in turn, a b c, c b a, a b c, ...: a drift of the machine's speed meets all alike.

    Args:
        works: What to time.
        pairs: Rounds; each times every piece once.
        device: "cuda" waits for the device to finish.

    Returns:
        For each piece of work, its seconds in each round.
    """

    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for work in works:
        seconds(work)  # the first time pays for caches and kernels
    times: tuple[list[float], ...] = tuple([] for _ in works)
    for pair in range(pairs):
        turn = range(len(works)) if pair % 2 == 0 else reversed(range(len(works)))
        for i in turn:
            times[i].append(seconds(works[i]))
    return times


def peak_bytes(work: Callable[[], object], *, device: str = "cpu") -> int:
    """The most memory that a piece of work holds at once in tensors, beyond what it found.

    Weights and inputs made before are not in it. Every allocation and release of torch's allocator is followed, so the
    figure is exact and repeatable; scratch space that a kernel takes from elsewhere (oneDNN, MKL) is not seen.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would announce itself on the terminal
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
