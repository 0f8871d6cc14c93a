"""What a step holds: the bytes that PyTorch's allocator has given out, and those that autograd keeps."""

import torch
from torch.profiler import ProfilerActivity, profile, record_function


def peak_of_allocations(prepare, step, steps: int = 2) -> int:
    r"""
    Most bytes given out at once by the CPU allocator during the last of `steps` calls of `step(prepare())`.

    Read from the profiler's record of every allocation and release: a mode that sees each operation would miss what
    kernels allocate for themselves, and keeps autograd from adding gradients up in place.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        prepared = prepare()
        for number in range(steps):
            with record_function(f"step {number}"):
                step(prepared)
    events = record.profiler.kineto_results.events()
    start = next(event.start_ns() for event in events if event.name() == f"step {steps - 1}")
    live, peak = 0, 0
    for time, size in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        live += size
        if time >= start:
            peak = max(peak, live)
    return peak


def saved_bytes(run, but_not) -> int:
    """Bytes of the storages that autograd keeps while `run()` goes forward, except those of the tensors `but_not`."""
    known = {tensor.untyped_storage().data_ptr() for tensor in but_not}
    sizes = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        # Held, so that no other tensor is given the same address.
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    assert result is not None
    return sum(sizes.values())
