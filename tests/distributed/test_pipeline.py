"""A pipeline changes no result, whatever its schedule: losses, gradient norms, weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from common.parallel.mesh import ParallelConfig
from common.training.runtime import Runtime
from common.training.update import Updater
from tests.common.training.toy import ToyConfig, ToyTask, toy
from tests.distributed.sharded_updates import Case, Figures, train
from tests.distributed.test_sharding import assert_same_training, numbers, on_ranks

FAST = {"reshard_after_forward": False}
SCHEDULES = [
    {},
    {"recompute": "full", **FAST},
    {"schedule": "Interleaved1F1B", "recompute": "selective"},
    {"schedule": "InterleavedZeroBubble", **FAST},
    {"schedule": "ZBVZeroBubble", "recompute": "full", **FAST},
]
# Neither adds a schedule or a kind of recomputation.
BY_NIGHT = [
    {"schedule": "Interleaved1F1B", **FAST},
    {"schedule": "InterleavedZeroBubble", "recompute": "full", **FAST},
    {"schedule": "ZBVZeroBubble", **FAST},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedules",
    [SCHEDULES, pytest.param(BY_NIGHT, marks=pytest.mark.nightly)],
    ids=["each", "by-night"],
)
def test_every_schedule_trains_as_one_process(
    schedules: list[dict[str, Any]], tmp_path: Path
) -> None:
    whole = train(Case(name="flare"), tmp_path)
    cases = [Case(name="flare", pipeline=2, shard=2, **options) for options in schedules]
    for results in on_ranks(4, cases, tmp_path):
        together: dict[str, torch.Tensor] = {}
        for result in results:
            together |= result["weights"]
        for result in results:
            assert_same_training(result | {"weights": together}, whole)
        assert_cut(results)


def assert_cut(results: list[Figures]) -> None:
    """Two ranks hold a stage's blocks by halves; the rest lies in quarters on all."""
    blocks = [{n for n in r["weights"] if n.startswith("decoder.blocks.")} for r in results]
    assert blocks[0] == blocks[1]
    assert blocks[2] == blocks[3]
    assert not blocks[0] & blocks[2]
    rest = [r["weights"].keys() - names for r, names in zip(results, blocks, strict=True)]
    assert rest[0] == rest[1] == rest[2] == rest[3]
    for result, own in zip(results, blocks, strict=True):
        ways = {name: 2 if name in own else 4 for name in result["weights"]}
        share = sum(w.numel() / ways[name] for name, w in result["weights"].items())
        total = result["holdings"]["parameters"][1]
        share += (total - sum(w.numel() for w in result["weights"].values())) / 4  # frozen
        # Shards are rows, which do not always divide evenly.
        assert result["holdings"]["parameters"][0] == pytest.approx(share, rel=0.02)
        assert result["holdings"]["optimizer"][0] < 1.02 * 2 * share
        assert result["holdings"]["not sharded"] == []


@pytest.mark.slow
def test_a_start_made_twice_drops_the_same_and_bf16_learns_like_single_precision(
    tmp_path: Path,
) -> None:
    dropped = {"name": "flare", "drop": 0.4}
    sharded, pipelined, half = on_ranks(
        2,
        [
            Case(**dropped, shard=2),
            Case(**dropped, pipeline=2),
            Case(name="flare", pipeline=2, precision="bf16"),
        ],
        tmp_path,
    )
    for one, other in zip(sharded, pipelined, strict=True):
        for record, expected in zip(other["records"], one["records"], strict=True):
            assert numbers(record) == pytest.approx(numbers(expected), rel=1e-9, abs=1e-9)
    single = train(Case(name="flare", precision="fp32"), tmp_path)
    losses, rounded = ([r["loss"] for r in run["records"]] for run in (single, half[0]))
    assert rounded == pytest.approx(losses, rel=5e-3)
    assert rounded != pytest.approx(losses, rel=1e-5)


def test_a_schedule_that_splits_the_backward_pass_wants_parameters_to_stay() -> None:
    with pytest.raises(UserError, match=r"set parallel\.reshard_after_forward to False"):
        ParallelConfig(pipeline=2, schedule="ZBVZeroBubble")
    assert ParallelConfig(pipeline=2, schedule="ZBVZeroBubble", **FAST).stages_per_rank == 2


def test_a_model_without_a_chain_of_blocks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ToyTask(ToyConfig())
    runtime = Runtime(toy(), tmp_path)
    monkeypatch.setattr(runtime, "num_ranks", 2)
    run = replace(toy(), parallel=ParallelConfig(pipeline=2))
    with pytest.raises(UserError, match="no chain of blocks"):
        Updater(run, task, runtime)
