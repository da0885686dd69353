"""What is made again in the backward pass changes what is kept, and no gradient."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.data.packing import PackState
from common.parallel.recompute import RECOMPUTE, Recompute, recompute_blocks
from common.training.build import build_model
from common.training.loader import rows_of
from common.training.run import RunConfig
from flamingo.recipes import flamingo_tiny, flamingo_tiny_language, flamingo_tiny_vision
from flamingo.recipes import make_task as flamingo_task
from flare.recipes import flare_tiny
from flare.recipes import make_task as flare_task
from flare.task_config import FlareTaskConfig


def flare() -> RunConfig[Any]:
    run = flare_tiny()
    task = replace(run.task, batch_size=3, max_tokens=64, layer_drop=0.5, clip_groups=1)
    return replace(run, task=task)


def flamingo() -> RunConfig[Any]:
    run = flamingo_tiny()
    task = replace(
        run.task,
        sources=(replace(run.task.sources[0], batch_size=3),),
        language_model=None,
        vision_encoder=None,
        frozen_precision="fp32",
    )
    return replace(run, task=task)


def contrast() -> RunConfig[Any]:
    run = flamingo_tiny_vision()
    return replace(run, task=replace(run.task, batch_size=3))


def language() -> RunConfig[Any]:
    run = flamingo_tiny_language()
    return replace(run, task=replace(run.task, batch_size=3))


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
    contrast: ["text.blocks.1.feed_forward"],
    language: ["model.layers.3.mlp"],
}


@pytest.mark.slow
@pytest.mark.parametrize("make", list(BLOCKS))
def test_every_kind_of_recomputation_gives_the_same_gradients(make: Any) -> None:
    straight, once = gradients(make(), BLOCKS[make])
    assert once == dict.fromkeys(BLOCKS[make], 1)
    for how in ("selective", "full"):
        again, calls = gradients(replace(make(), recompute=how), BLOCKS[make])
        assert calls == dict.fromkeys(BLOCKS[make], 2)
        assert again.keys() == straight.keys()
        for name, gradient in straight.items():
            assert torch.equal(again[name], gradient), (how, name)


def gradients(run: RunConfig[Any], watched: list[str]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Of one update's rows in float64, and how often some modules have run for them."""
    task = flare_task(run) if isinstance(run.task, FlareTaskConfig) else flamingo_task(run)
    torch.manual_seed(0)
    model = build_model(task, run).double().train()
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
