"""Recall at k: the rank of the best match among all columns, both ways."""

import pytest
import torch

from common.evaluation.metrics.recall import recalls
from tests.common.evaluation.metrics.fixtures import official

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


def test_two_hundred_sets_of_five_captions_an_image_have_the_official_recall():
    cases = official("recall")
    assert len(cases) == 200
    for case in cases:
        images, captions = (torch.tensor(case[name]).double() for name in ("images", "captions"))
        owners = [place // 5 for place in range(len(captions))]
        found = recalls(
            images @ captions.T,
            rows="image",
            columns="text",
            at=(1, 5, 10),
            row_of_column=owners,
        )
        percent = {name: 100 * share for name, share in found.items()}
        assert percent == pytest.approx(case["percent"], abs=1e-4)


def test_captions_may_stand_in_any_order_but_every_image_needs_one():
    table = torch.tensor([[0.1, 0.9, 0.5], [0.8, 0.2, 0.7]])
    found = recalls(table, rows="image", columns="text", at=(1,), row_of_column=(1, 0, 1))
    assert found == {"image_to_text_r1": 1.0, "text_to_image_r1": 1.0}
    with pytest.raises(ValueError, match="every row one"):
        recalls(table, rows="image", columns="text", at=(1,), row_of_column=(1, 1, 1))
