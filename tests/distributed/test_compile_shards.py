"""Compiled blocks whose parameters are gathered around them, or that lie in pipeline stages."""

from pathlib import Path

import pytest

from tests.distributed.sharded_updates import Case, train
from tests.distributed.test_sharding import assert_same_training, on_ranks

CASES = {
    "flamingo": {"shard": 2, "recompute": "full"},
    "flare": {"pipeline": 2, "schedule": "Interleaved1F1B"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_compiled_blocks_train_over_two_ranks_as_plain_ones_in_one_process(
    name: str, tmp_path: Path
) -> None:
    whole = train(Case(name=name), tmp_path)
    (results,) = on_ranks(2, [Case(name=name, compile=True, **CASES[name])], tmp_path)
    together = {key: weight for result in results for key, weight in result["weights"].items()}
    for result in results:
        assert_same_training(result | {"weights": together}, whole)
