"""The training step never waits for the device: shown on the meta device, whose tensors are empty.

Whatever asks for a value there, or for as many rows as a value says, raises; what copies from one
device to another is recorded. So is a constant that would be sent to the device in the step.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.data.transfer import on_device
from common.objectives.contrastive import identity
from common.training.optimizer import clip_gradients
from flamingo.recipes import flamingo_tiny
from flamingo.task import FlamingoTask
from flare.recipes import flare_tiny
from flare.task import FlareTask
from tests.feeds import packed_examples

META = torch.device("meta")


class CopiesBetweenDevices(TorchDispatchMode):
    """Names of operations whose tensors live on two devices; numbers on the host may mix in."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        if len({x.device for x in tensors if x.ndim or x.device == META}) > 1:
            self.found.append(str(function))
        return result


@pytest.fixture(autouse=True)
def _without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device knows none."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)


def flamingo() -> Any:
    return FlamingoTask(replace(flamingo_tiny().task, language_model=None, vision_encoder=None))


def flare() -> Any:
    return FlareTask(flare_tiny().task, steps=10)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "name"), [(flamingo, "episodes"), (flare, "mixture")])
def test_a_training_step_asks_the_device_for_nothing(make: Callable[[], Any], name: str) -> None:
    task = make()
    source = task.sources()[name]
    batch = on_device(source.collate(packed_examples(source, 2)), META)
    with META:
        model = task.build_model().train()
    with CopiesBetweenDevices() as copies:
        computed = task.compute(model, name, batch)
        losses = list(computed.losses.values())
        for term, pairs in computed.pairs.items():
            losses.append(task.contrast(model, term, pairs, gather=identity).loss)
        torch.stack(losses).sum().backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        clip_gradients(trained, norm_of=get_total_norm, max_norm=1.0)
    assert copies.found == []
    assert sum(p.grad is not None for p in trained) >= len(trained) - 1  # no time among stills


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "a condition": lambda x: bool(x.any()),
    "list": lambda x: x.tolist(),
    "places": lambda x: x.nonzero(),
    "selection": lambda x: x[x > 0],
    "repetition": lambda x: x.repeat_interleave(x),
    "copy to the host": lambda x: x.cpu(),
    "copy to the device": lambda x: x + torch.arange(3).to(META),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_every_kind_of_wait_would_be_noticed(wait: Callable[[Tensor], object]) -> None:
    try:
        with CopiesBetweenDevices() as copies:
            wait(torch.ones(3, dtype=torch.long, device=META))
    except RuntimeError:
        return
    assert copies.found
