"""Batches on their way to a device: what holds for one tensor of a batch holds for all."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

BatchT = TypeVar("BatchT")


def on_device(batch: BatchT, device: torch.device) -> BatchT:
    """A batch whose tensors lie on a device; from pinned memory the host does not wait for it."""
    return each_tensor(batch, lambda x: x.to(device, non_blocking=True))


def pinned(batch: BatchT) -> BatchT:
    """A batch in memory that a GPU reads by itself."""
    return each_tensor(batch, Tensor.pin_memory)


def each_tensor(value: BatchT, move: Callable[[Tensor], Tensor]) -> BatchT:
    """The same dataclass with other tensors; looks into dataclasses, mappings and tuples in it."""
    moved: Any = value
    if isinstance(value, Tensor):
        moved = move(value)
    elif isinstance(value, tuple):
        moved = tuple(each_tensor(part, move) for part in value)
    elif isinstance(value, Mapping):
        moved = {key: each_tensor(part, move) for key, part in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        moved = replace(value, **{name: each_tensor(part, move) for name, part in parts.items()})
    return moved
