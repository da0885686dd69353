"""The relative-position bias, written out by hand."""

import pytest
import torch

from common.attention.bias import GatedRelativeBias


def test_a_query_reads_its_window_of_the_row_times_its_gate() -> None:
    table = torch.tensor([[1.0, 2, 3, 4, 5], [10, 20, 30, 40, 50]])
    gate = torch.tensor([[[1.0, 2, 3], [1, 1, -1]]])
    dense = GatedRelativeBias(table, gate).dense()
    first, second = dense[0].tolist()
    assert first == [[3, 4, 5], [4, 6, 8], [3, 6, 9]]
    assert second == [[30, 40, 50], [20, 30, 40], [-10, -20, -30]]


def test_fewer_queries_than_keys_are_the_first_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    b, h, s, n = 2, 4, 5, 7
    table = torch.randn(h, 2 * n - 1, generator=generator)
    gate = torch.randn(b, h, s, generator=generator)
    queries, keys = torch.arange(s)[:, None], torch.arange(n)
    expected = gate[..., None] * table[:, keys - queries + n - 1]
    assert torch.equal(GatedRelativeBias(table, gate).dense(), expected)


@pytest.mark.parametrize(("columns", "queries"), [(6, 3), (5, 4)])
def test_a_table_that_does_not_serve_the_queries_is_refused(columns: int, queries: int) -> None:
    with pytest.raises(ValueError, match="2n - 1 columns"):
        GatedRelativeBias(torch.zeros(2, columns), torch.zeros(1, 2, queries))
