"""Compiled blocks change no gradient, and are not compiled again for every size."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from common.errors import UserError
from common.parallel.compile import compile_blocks
from common.parallel.mesh import ParallelConfig
from common.training.build import build_model
from common.training.loader import Share, read_updates
from common.training.run import RunConfig
from common.training.task import Task
from flamingo.recipes import make_task as flamingo_task
from flare.recipes import make_task as flare_task
from flare.task_config import FlareTaskConfig
from tests.common.parallel.test_recompute import contrast, flamingo, flare
from tests.common.training.toy import ToyConfig, ToyTask, toy

NUM_UPDATES = 4


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of compilation but the generation of machine code, which takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()


# Kinds of blocks, each with up to three combinations of sizes: fixed, variable, and a single one.
MOST_GRAPHS = {flare: 5 * 4, flamingo: 3 * 2, contrast: 2 * 3}


@pytest.mark.parametrize("make", list(MOST_GRAPHS))
def test_compiled_blocks_give_the_same_gradients_at_any_size(
    make: Callable[[], RunConfig[Any]], traced: None
) -> None:
    run = replace(make(), recompute="full")
    plain, _ = gradients(run)
    before = counters["stats"]["unique_graphs"]
    compiled, graphs = gradients(replace(run, compile=True))
    assert 0 < graphs[-1] - before <= MOST_GRAPHS[make]
    # Sizes go on changing, and what was compiled serves them.
    assert graphs[-1] == graphs[-2]
    for expected, found in zip(plain, compiled, strict=True):
        assert found.keys() == expected.keys()
        largest = max(float(gradient.abs().max()) for gradient in expected.values())
        for name, gradient in expected.items():
            torch.testing.assert_close(
                found[name], gradient, rtol=0, atol=1e-12 * largest, msg=lambda m, n=name: n + m
            )


def gradients(run: RunConfig[Any]) -> tuple[list[dict[str, Tensor]], list[int]]:
    """Of some updates in float64, and how many graphs were compiled until after each."""
    is_flare = isinstance(run.task, FlareTaskConfig)
    task: Task[Any, Any] = flare_task(run) if is_flare else flamingo_task(run)
    torch.manual_seed(0)
    model = build_model(task, run).double().train()
    share = Share(rank=0, num_ranks=1, num_micro_batches=1)
    found, graphs = [], []
    for update in read_updates(
        task.sources(), first=0, last=NUM_UPDATES, share=share, num_workers=0
    ):
        model.zero_grad()
        torch.manual_seed(1)
        for part in update.parts:
            computed = task.compute(model, part.source, part.batch)
            sides = [
                side for pairs in computed.pairs.values() for side in (pairs.media, pairs.text)
            ]
            sums = [loss.double() for loss in computed.losses.values()]
            torch.stack([*sums, *(side.square().sum() for side in sides)]).sum().backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        graphs.append(counters["stats"]["unique_graphs"])
    return found, graphs


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(UserError, match="ToyTask names no blocks"):
        build_model(ToyTask(ToyConfig()), replace(toy(), compile=True))
    parallel = ParallelConfig(pipeline=2, schedule="ZBVZeroBubble", reshard_after_forward=False)
    for options in ({"compile": True}, {"recompute": "selective"}):
        with pytest.raises(UserError, match="goes back through a block twice"):
            replace(toy(), parallel=parallel, **options)


def test_blocks_run_as_they_are_where_they_do_not_train(traced: None) -> None:
    block, x = nn.Linear(3, 5), torch.ones(2, 3)
    compile_blocks([block])
    before = counters["stats"]["unique_graphs"]
    block.eval()(x)
    assert counters["stats"]["unique_graphs"] == before
    block.train()(x)
    assert counters["stats"]["unique_graphs"] == before + 1
