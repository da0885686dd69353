"""The real sizes on 64 ranks, on the meta device: what is gathered together, what a rank holds."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from common.parallel.mesh import Sizes, build_mesh, sharding_axes
from common.parallel.sharding import Sharding, units_of
from common.training.task import Divisible, Task
from flamingo.recipes import flamingo_80b, flamingo_80b_vision, flamingo_tiny_language
from flamingo.recipes import make_task as flamingo_task
from flare.recipes import flare_13b
from flare.recipes import make_task as flare_task

pytestmark = pytest.mark.slow
TEMPERATURES = {"image_log_scale", "audio_log_scale"}
VECTORS = {"image_vector.weight", "audio_vector.weight", "text_vector.weight"}


@pytest.fixture
def sharding() -> Iterator[Sharding]:
    """8 copies over 8 ranks each, of which this process is the first and only one."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=64)
    sizes = Sizes(pipeline=1, replicate=8, shard=8)
    mesh = sharding_axes(build_mesh(sizes, device_type="cpu"))
    yield Sharding(mesh=mesh, compute_dtype=torch.bfloat16, reshard_after_forward=True)
    dist.destroy_process_group()


def flare() -> Task:
    # The tokenizer's folder is the user's.
    run = replace(flare_13b(), task=replace(flare_13b().task, tokenizer=None))
    return flare_task(run)


def flamingo_towers() -> Task:
    return flamingo_task(flamingo_80b_vision())


SIZES: list[tuple[Callable[[], Task], set[str], float]] = [
    (flare, {"lm_head.weight", "decoder.norm.weight", *TEMPERATURES, *VECTORS}, 0.2e9),
    (lambda: flamingo_task(flamingo_80b()), {"new_inputs.weight", "new_outputs.weight"}, 1.06e9),
    (
        flamingo_towers,
        {"token_norm.weight", "token_norm.bias", "image_projection.weight", "log_scale"},
        0.1e9,
    ),
    (lambda: flamingo_task(flamingo_tiny_language()), set(), 0.3e6),
]


@pytest.mark.parametrize(
    ("make", "of_root", "largest"),
    SIZES,
    ids=["flare_13b", "flamingo_80b", "flamingo_80b_vision", "flamingo_language"],
)
def test_all_but_a_few_named_parameters_are_gathered_in_small_units(
    make: Callable[[], Task], of_root: set[str], largest: float, sharding: Sharding
) -> None:
    task = make()
    with torch.device("meta"):
        model = task.build_model()
    total = sum(p.numel() for p in model.parameters())
    assert isinstance(task, Divisible)
    task.parallelize(model, sharding)
    assert {n for n, p in model.named_parameters() if not isinstance(p, DTensor)} == of_root
    assert max(unit_sizes(model)) < largest
    sharding.root(nn.ModuleDict({"model": model}))
    assert any(isinstance(parameter, DTensor) for parameter in model.parameters())
    held = sum(p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor))
    # A vector of 10 leaves 2 to each of the first 5 of 8 ranks.
    assert total / 8 <= held < 1.01 * total / 8


def unit_sizes(model: nn.Module) -> list[int]:
    """Parameters of each unit without those of the units inside it."""
    sizes, seen = [], set[nn.Parameter]()
    for unit in reversed(units_of(model)):  # inner ones first
        own = {p for p in unit.parameters() if p not in seen}
        sizes.append(sum(p.numel() for p in own))
        seen |= own
    return sizes
