"""The rules themselves, written out by hand."""

import pytest
import torch

from common.attention.masks import Mask, causal, media_span, same_document, valid_keys


def table(mask: Mask, *, batch: int, num_queries: int, num_keys: int) -> list[list[str]]:
    dense = mask.dense(batch=batch, num_queries=num_queries, num_keys=num_keys, device="cpu")
    return [["".join(str(int(key)) for key in query) for query in row[0]] for row in dense]


def test_causal_counts_the_cached_keys() -> None:
    assert table(causal(), batch=1, num_queries=2, num_keys=4) == [["1000", "1100"]]
    assert table(causal(offset=2), batch=1, num_queries=2, num_keys=4) == [["1110", "1111"]]


def test_only_the_plain_causal_rule_is_the_lower_triangle() -> None:
    padding = valid_keys(torch.ones(1, 4, dtype=torch.bool))
    assert causal().lower_triangle
    assert not causal(offset=1).lower_triangle
    assert not (causal() & padding).lower_triangle
    assert not (causal() & causal()).lower_triangle


def test_documents_and_padding_combine_per_row() -> None:
    documents = same_document(torch.tensor([[1, 2], [2, 2]]), torch.tensor([[1, 1, 2], [1, 2, 2]]))
    padding = valid_keys(torch.tensor([[True, False, True], [True, True, False]]))
    expected = [["100", "001"], ["010", "010"]]
    assert table(documents & padding, batch=2, num_queries=2, num_keys=3) == expected


def test_media_span_sees_whole_items_from_first_to_last() -> None:
    first, last = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 3]])
    mask = media_span(first, last, tokens_per_item=2)
    expected = [["000000", "110000", "111100", "001111"]]
    assert table(mask, batch=1, num_queries=4, num_keys=6) == expected


@pytest.mark.parametrize("num_keys", [3, 200], ids=["below one block", "no multiple of a block"])
def test_the_block_mask_covers_exactly_the_dense_mask(num_keys: int) -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(3, (2, num_keys), generator=generator)
    mask = causal(offset=1) & same_document(keys[:, :150], keys)
    sizes = {"batch": 2, "num_queries": min(num_keys, 150), "num_keys": num_keys, "device": "cpu"}
    block_mask = mask.block_mask(**sizes)
    rows, queries, held = torch.meshgrid(
        torch.arange(2), torch.arange(sizes["num_queries"]), torch.arange(num_keys), indexing="ij"
    )
    per_index = block_mask.mask_mod(rows, torch.zeros_like(rows), queries, held)
    assert torch.equal(per_index, mask.dense(**sizes)[:, 0])
    assert block_mask.seq_lengths == (sizes["num_queries"], num_keys)


def test_a_block_mask_is_built_once_for_the_same_sizes() -> None:
    mask = causal()
    sizes = {"batch": 1, "num_queries": 5, "num_keys": 7, "device": "cpu"}
    assert mask.block_mask(**sizes) is mask.block_mask(**sizes)
    assert mask.block_mask(**sizes | {"num_queries": 6}).seq_lengths == (6, 7)


def test_the_later_queries_of_a_mask_see_what_they_saw() -> None:
    sizes = {"batch": 1, "num_keys": 7, "device": "cpu"}
    whole = causal(offset=1).dense(num_queries=5, **sizes)
    later = causal(offset=1).after(2).dense(num_queries=3, **sizes)
    assert torch.equal(later, whole[:, :, 2:])
