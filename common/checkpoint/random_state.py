"""State of the random number generators of torch, numpy and Python, as tensors and JSON.

Pickle-free: the generators' states are bytes and integers. Data order needs none of this, it is a
pure function of the position; what remains is dropout and whatever a model draws for itself.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RandomState:
    """Every generator of one process."""

    tensors: dict[str, Tensor]  # uint8 bytes of torch's generators: "cpu" and, on a GPU, "cuda"
    python: list[object]  # version, integers, spare Gaussian
    numpy: list[object]  # name, integers, position, has spare Gaussian, spare Gaussian


def capture_random_state() -> RandomState:
    """A copy of the state of all generators."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    version, integers, spare = random.getstate()
    name, words, *rest = np.random.get_state(legacy=True)
    return RandomState(
        tensors=tensors,
        python=[version, list(integers), spare],
        numpy=[name, np.asarray(words).tolist(), *rest],
    )


def restore_random_state(state: RandomState) -> None:
    """Set all generators; afterwards they draw what they would have drawn at the capture."""
    torch.set_rng_state(state.tensors["cpu"])
    if torch.cuda.is_available() and "cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors["cuda"])
    version, integers, spare = state.python
    assert isinstance(integers, list)
    random.setstate((version, tuple(integers), spare))
    name, words, position, has_spare, spare_gaussian = state.numpy
    numbers = np.array(words, dtype=np.uint32)
    np.random.set_state((name, numbers, position, has_spare, spare_gaussian))  # type: ignore[arg-type]  # read back from JSON, values checked by numpy


@contextmanager
def undisturbed_random_state() -> Iterator[None]:
    """Leaves the generators as they were, whatever is drawn inside: validation changes nothing."""
    state = capture_random_state()
    try:
        yield
    finally:
        restore_random_state(state)
