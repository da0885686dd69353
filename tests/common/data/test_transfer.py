"""Batches on their way to a device."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from common.data.transfer import each_tensor, on_device


@dataclass(frozen=True, kw_only=True)
class Part:
    ids: Tensor


@dataclass(frozen=True, kw_only=True)
class Nested:
    keys: list[str]
    values: Tensor
    parts: Mapping[str, Part]


def test_every_tensor_of_a_batch_moves_and_nothing_else_changes() -> None:
    batch = Nested(
        keys=["a", "b"],
        values=torch.ones(2, 3),
        parts={"first": Part(ids=torch.arange(4)), "second": Part(ids=torch.arange(5))},
    )
    twice = each_tensor(batch, lambda x: 2 * x)
    assert twice.keys == ["a", "b"]
    assert twice.values.sum() == 12
    assert [part.ids.tolist() for part in twice.parts.values()] == [[0, 2, 4, 6], [0, 2, 4, 6, 8]]
    moved = on_device(batch, torch.device("meta"))
    tensors = [moved.values, *(part.ids for part in moved.parts.values())]
    assert {x.device.type for x in tensors} == {"meta"}
    assert moved.parts["second"].ids.shape == (5,)
