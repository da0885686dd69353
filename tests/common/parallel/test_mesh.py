"""Ranks are arranged as asked, or the mistake is told before anything starts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import UserError
from common.parallel.mesh import ParallelConfig, Sizes
from common.training.config_json import from_json, to_json
from common.training.trainer import Trainer
from tests.common.training.toy import ToyConfig, ToyTask, toy


@pytest.mark.parametrize(
    ("shard", "replicate", "num_ranks", "sizes"),
    [
        (1, -1, 6, Sizes(pipeline=1, replicate=6, shard=1)),
        (-1, -1, 6, Sizes(pipeline=1, replicate=1, shard=6)),
        (-1, 2, 6, Sizes(pipeline=1, replicate=2, shard=3)),
        (2, -1, 6, Sizes(pipeline=1, replicate=3, shard=2)),
        (2, 3, 6, Sizes(pipeline=1, replicate=3, shard=2)),
        (-1, -1, 1, Sizes(pipeline=1, replicate=1, shard=1)),
    ],
)
def test_what_is_left_open_takes_the_ranks_that_are_left(
    shard: int, replicate: int, num_ranks: int, sizes: Sizes
) -> None:
    assert ParallelConfig(shard=shard, replicate=replicate).sizes(num_ranks) == sizes


@pytest.mark.parametrize(
    ("shard", "replicate", "num_ranks"), [(4, -1, 6), (2, 2, 6), (-1, 4, 6), (2, -1, 1), (1, 4, 6)]
)
def test_axes_that_do_not_multiply_to_the_ranks_are_refused(
    shard: int, replicate: int, num_ranks: int
) -> None:
    config = ParallelConfig(shard=shard, replicate=replicate)
    fault = rf"replicate={replicate} and .*shard={shard} do not fit {num_ranks} ranks"
    with pytest.raises(UserError, match=fault):
        config.sizes(num_ranks)


def test_a_pipeline_leaves_its_share_of_the_ranks() -> None:
    config = ParallelConfig(pipeline=3, shard=2)
    assert config.sizes(12) == Sizes(pipeline=3, replicate=2, shard=2)
    with pytest.raises(UserError, match=r"pipeline=3, .* do not fit 8 ranks"):
        config.sizes(8)


def test_no_ranks_at_all_are_refused() -> None:
    with pytest.raises(UserError, match=r"parallel.shard must be at least 1, or -1"):
        ParallelConfig(shard=0)


def test_a_run_knows_how_it_was_sharded() -> None:
    config = ParallelConfig(shard=2, replicate=4, reshard_after_forward=False)
    assert from_json(ParallelConfig, json.loads(json.dumps(to_json(config)))) == config


def test_a_run_on_too_few_processes_stops_before_they_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody answers at this address: who tried to meet would wait.
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    run = replace(toy(), parallel=ParallelConfig(shard=4))
    with pytest.raises(UserError, match="do not fit 6 ranks"):
        Trainer(run, ToyTask(ToyConfig()), tmp_path)
