"""What is made again in the backward pass changes what is kept, and no gradient."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.data.packing import PackState
from common.parallel.recompute import RECOMPUTE, Recompute, recompute_blocks
from common.training.loader import rows_of
from common.training.task import Task
from flamingo.recipes import flamingo_tiny
from flamingo.task import FlamingoTask
from flare.recipes import flare_tiny
from flare.task import FlareTask


def flare(recompute: Recompute) -> Task[Any, Any]:
    config = replace(
        flare_tiny().task, batch_size=3, max_tokens=64, recompute=recompute, layer_drop=0.5
    )
    return FlareTask(config, steps=10)


def flamingo(recompute: Recompute) -> Task[Any, Any]:
    task = flamingo_tiny().task
    return FlamingoTask(
        replace(
            task,
            sources=(replace(task.sources[0], batch_size=3),),
            language_model=None,
            vision_encoder=None,
            frozen_precision="fp32",
            recompute=recompute,
        )
    )


BLOCKS = {
    flare: [
        "vision_encoder.model.blocks.0.mlp",
        "vision_projector.blocks.1.feed_forward",
        "audio_encoder.encoder.layers.1.feed_forward",
        "audio_projector.blocks.0.feed_forward",
        "decoder.blocks.2.feed_forward",
    ],
    flamingo: [
        "resampler.layers.1.feed_forward",
        "gated_cross_attention.0.feed_forward",
        "language_model.model.layers.3.mlp",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("make", list(BLOCKS))
def test_every_kind_of_recomputation_gives_the_same_gradients(make: Any) -> None:
    straight, once = gradients(make("none"), BLOCKS[make])
    assert once == dict.fromkeys(BLOCKS[make], 1)
    for how in ("selective", "full"):
        again, calls = gradients(make(how), BLOCKS[make])
        assert calls == dict.fromkeys(BLOCKS[make], 2)
        assert again.keys() == straight.keys()
        for name, gradient in straight.items():
            assert torch.equal(again[name], gradient), (how, name)


def gradients(task: Task[Any, Any], watched: list[str]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Of one update's rows in float64, and how often some modules have run for them."""
    torch.manual_seed(0)
    model = task.build_model().double().train()
    calls = dict.fromkeys(watched, 0)

    def count(name: str) -> None:
        calls[name] += 1

    for name in watched:
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: count(name))
    ((name, source),) = task.sources().items()
    rows, _ = rows_of(source, 0, PackState())
    torch.manual_seed(1)
    computed = task.compute(model, name, source.collate([source.example(row) for row in rows]))
    vectors = [side.square().sum() for p in computed.pairs.values() for side in (p.media, p.text)]
    torch.stack([*(loss.double() for loss in computed.losses.values()), *vectors]).sum().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, calls


@pytest.mark.parametrize("how", RECOMPUTE)
def test_a_recomputed_block_keeps_its_names_and_its_random_numbers(how: Recompute) -> None:
    block = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Dropout(0.4), nn.Linear(10, 7)).double()
    names = [name for name, _ in block.named_parameters()]
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def differentiated() -> list[Tensor]:
        torch.manual_seed(1)
        loss = block(x).square().sum()
        torch.rand(5)  # as others draw before the backward pass
        return [*torch.autograd.grad(loss, list(block.parameters()))]

    plain = differentiated()
    recompute_blocks([block], how)
    assert [name for name, _ in block.named_parameters()] == names
    assert all(torch.equal(a, b) for a, b in zip(plain, differentiated(), strict=True))
