"""FLARE's first update is the same, to float64, however its batch is cut and divided."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.distributed.flare_exact import APART, MIXED, first_update
from tests.distributed.launch import launch

pytestmark = pytest.mark.slow


def assert_same_update(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            result[name], value, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """The update of one process in one micro-batch."""
    folder = tmp_path_factory.mktemp("whole")
    return {pattern: first_update(pattern, 1, folder) for pattern in (MIXED, APART)}


@pytest.mark.parametrize("pattern", [MIXED, APART])
def test_eight_micro_batches_make_one_batch(
    pattern: str, whole: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    # Rows of one kind each: no micro-batch has images, recordings and prose together.
    result = first_update(pattern, 8, tmp_path)
    assert_same_update(result, whole[pattern])
    assert result["negatives/mixture/image_text"] > 1
    trained = [name for name in result if name.startswith(("vision", "audio", "decoder"))]
    assert len(trained) > 100


@pytest.mark.parametrize(
    ("num_ranks", "cases"),
    [(2, [(MIXED, 1), (MIXED, 4), (APART, 1), (APART, 2)]), (4, [(MIXED, 1), (APART, 2)])],
)
def test_ranks_with_different_media_make_one_batch(
    num_ranks: int,
    cases: list[tuple[str, int]],
    whole: dict[str, dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    # Apart: of two ranks one has images only and the other recordings only.
    launch("tests.distributed.flare_exact", tmp_path, json.dumps(cases), num_ranks=num_ranks)
    for pattern, parts in cases:
        for rank in range(num_ranks):
            result = torch.load(tmp_path / f"{pattern}_{parts}_{rank}.pt")
            assert_same_update(result, whole[pattern])
