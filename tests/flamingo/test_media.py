"""Which image a token looks at: worked examples and properties over random documents."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from flamingo.media import check_image_counts, first_item, next_item, previous_item


def row(text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`I a | b` -> which tokens are images, and their documents."""
    tokens, document, documents = [], 0, []
    for word in text.split():
        if word == "|":
            document += 1
            continue
        tokens.append(word == "I")
        documents.append(document)
    return torch.tensor([tokens]), torch.tensor([documents])


def test_previous_item_is_the_last_image_of_the_same_document() -> None:
    item = previous_item(*row("x I a b I c | d I e"))
    assert item.tolist() == [[0, 1, 1, 1, 2, 2, 0, 3, 3]]


def test_next_item_is_the_next_image_of_the_same_document() -> None:
    item = next_item(*row("a I b c I d | I e"))
    assert item.tolist() == [[1, 1, 2, 2, 2, 0, 3, 0]]


def test_first_item_is_the_first_image_of_the_document() -> None:
    assert first_item(*row("a I b I | c I")).tolist() == [[1, 1, 1, 1, 3, 3]]


@pytest.mark.proves("H2", "images of packed rows", 200)
@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=14), min_size=1, max_size=5))
def test_every_tag_meets_its_own_image_in_any_packed_document(packed: list[list[bool]]) -> None:
    is_image = torch.tensor([[tag for document in packed for tag in document]])
    documents = torch.tensor([[i for i, document in enumerate(packed) for _ in document]])
    expected_previous, expected_next, before = [], [], 0
    for document in packed:
        total = before + sum(document)
        seen = before
        for tag in document:
            following = seen + 1
            seen += tag
            expected_previous.append(seen if seen > before else 0)
            expected_next.append(following if following <= total else 0)
        before = total
    assert previous_item(is_image, documents)[0].tolist() == expected_previous
    assert next_item(is_image, documents)[0].tolist() == expected_next
    own = torch.arange(1, int(is_image.sum()) + 1)
    assert torch.equal(previous_item(is_image, documents)[is_image], own)
    assert torch.equal(next_item(is_image, documents)[is_image], own)


@pytest.mark.parametrize(("tags", "images"), [(3, 2), (1, 2)])
def test_a_tag_without_image_or_an_image_left_over_names_the_sample(tags: int, images: int) -> None:
    with pytest.raises(UserError, match=f"page-7: {tags} <image> tags but {images} images"):
        check_image_counts(torch.tensor([2, tags]), torch.tensor([2, images]), ["page-6", "page-7"])
