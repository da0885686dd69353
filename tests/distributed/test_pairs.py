"""Pairs of answers are preferred alike by one process, by two that share the model, and by two that
are a pipeline."""

from pathlib import Path

import pytest
import torch

from tests.distributed.sharded_updates import Case, train
from tests.distributed.test_sharding import assert_same_training, on_ranks


@pytest.mark.slow
def test_preferences_are_learnt_alike_in_shards_and_in_stages(tmp_path: Path) -> None:
    whole = train(Case(name="pairs"), tmp_path)
    assert all(record["loss/mixture/preference"] > 0 for record in whole["records"])
    cases = [Case(name="pairs", shard=2), Case(name="pairs", pipeline=2)]
    for results in on_ranks(2, cases, tmp_path):
        together: dict[str, torch.Tensor] = {}
        for result in results:
            together |= result["weights"]
        for result in results:
            assert_same_training(result | {"weights": together}, whole)
