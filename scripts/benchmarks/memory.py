"""The most memory of tensors that a run holds at once."""

import torch
from torch.profiler import ProfilerActivity, profile

from scripts.benchmarks.timing import Run


def peak_bytes(run: Run) -> int:
    """The most bytes of tensors alive at once beyond what was alive before.

    On a CPU from every allocation that torch's profiler sees, in the order of time; with a GPU from
    its allocator.
    """
    if torch.cuda.is_available():
        return _peak_on_gpu(run)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    assert record.profiler is not None
    assert record.profiler.kineto_results is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def _peak_on_gpu(run: Run) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
