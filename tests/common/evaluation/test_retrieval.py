"""Recall at k: the rank of the match among all columns, both ways."""

import pytest
import torch

from common.evaluation.retrieval import recalls

# Rows rank their own column 1st, 2nd and 3rd; columns rank their own row 1st, 1st and 3rd.
SIMILARITIES = torch.tensor([[0.9, 0.0, 0.7], [0.8, 0.5, 0.3], [0.2, 0.4, 0.1]])


def test_recall_counts_the_matches_among_the_k_most_similar_both_ways():
    found = recalls(SIMILARITIES, rows="sound", columns="text", at=(1, 2))
    expected = {
        "sound_to_text_r1": 1 / 3,
        "sound_to_text_r2": 2 / 3,
        "text_to_sound_r1": 2 / 3,
        "text_to_sound_r2": 2 / 3,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(torch.tensor(found[name]), torch.tensor(value))


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_a_model_that_tells_nothing_apart_finds_nothing(value: float):
    found = recalls(torch.full((3, 3), value), rows="a", columns="b", at=(1, 2, 3))
    assert [found[f"a_to_b_r{k}"] for k in (1, 2)] == [0.0, 0.0]
    assert [found[f"b_to_a_r{k}"] for k in (1, 2)] == [0.0, 0.0]
    assert found["a_to_b_r3"] == 1.0
