"""Soft tokens land in their slots, in reading order, and nowhere else."""

import itertools

import pytest
import torch

from common.errors import UserError
from flare.media import check_media, grouped, place_media
from flare.passes import encode_clips
from tests.flare import tiny


def text(*rows: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of width 1 that count down from -1, and the slots marked `i`."""
    slots = torch.tensor([[letter == "i" for letter in row] for row in rows])
    return -1.0 - torch.arange(slots.numel()).reshape(*slots.shape, 1), slots


def tokens(num_items: int, per_item: int) -> torch.Tensor:
    return torch.arange(num_items * per_item).float().reshape(num_items, per_item, 1)


def test_items_fill_slots_in_reading_order() -> None:
    x, slots = text("..ii.ii", "ii.....")
    placed = place_media(x, slots, tokens(3, 2))[..., 0]
    assert placed.tolist() == [[-1, -2, 0, 1, -5, 2, 3], [4, 5, -10, -11, -12, -13, -14]]


def test_beams_share_the_items_of_their_sample() -> None:
    x, slots = text("ii.", "ii.", ".ii", ".ii")
    placed = place_media(x, slots, tokens(2, 2), rows=2)[..., 0]
    assert placed.tolist() == [[0, 1, -3], [0, 1, -6], [-7, 2, 3], [-10, 2, 3]]


def test_a_row_without_slots_takes_nothing_from_the_next() -> None:
    x, slots = text("...", "ii.")
    placed = place_media(x, slots, tokens(1, 2), rows=2)[..., 0]
    assert placed.tolist() == [[-1, -2, -3], [0, 1, -6]]


def test_gradients_reach_each_token_once_and_no_covered_embedding() -> None:
    x, slots = text("..ii.ii", "ii.....")
    x, media = x.requires_grad_(), tokens(3, 2).requires_grad_()
    weights = torch.rand(2, 7, 1)
    (place_media(x, slots, media) * weights).sum().backward()
    assert torch.equal(media.grad.flatten(), weights[slots].flatten())
    assert torch.equal(x.grad, weights.masked_fill(slots[..., None], 0.0))


def test_tokens_without_a_slot_stay_in_the_graph_with_zero_gradient() -> None:
    x, slots = text("...", "...")
    dummy = tokens(1, 2).requires_grad_()
    placed = place_media(x, slots, dummy)
    assert torch.equal(placed, x)
    placed.sum().backward()
    assert torch.equal(dummy.grad, torch.zeros(1, 2, 1))


def check(*rows: str, counts: list[int] | None, num_items: int) -> None:
    given = None if counts is None else torch.tensor(counts)
    check_media(text(*rows)[1], given, num_items=num_items, tokens_per_item=2, kind="image")


def test_slots_that_match_pass() -> None:
    check("iiii", "..ii", counts=None, num_items=3)
    check("iiii", "..ii", counts=[2, 1], num_items=3)
    check("ii..", "ii..", "....", "....", counts=[1, 0], num_items=1)


@pytest.mark.parametrize(
    ("rows", "counts", "num_items", "message"),
    [
        (("iii.", "i..."), None, 2, r"\[3, 1\] <image> slots per row but 2 items of 2 tokens"),
        (("ii..", "ii.."), None, 1, r"\[2, 2\] <image> slots per row but 1 items"),
        (("ii..", "iiii"), [2, 1], 3, "row 0 of the batch: 2 <image> slots but 2 items"),
        (("ii..", "ii.."), [1, 1], 3, r"num_images says \[1, 1\], but 3 are given"),
    ],
)
def test_slots_that_do_not_match_are_refused(
    rows: tuple[str, ...], counts: list[int] | None, num_items: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(*rows, counts=counts, num_items=num_items)


@pytest.mark.parametrize("groups", [1, 2, 3, 9])
def test_recordings_are_heard_alike_in_however_many_groups(groups: int) -> None:
    model = tiny.model()
    clips = [torch.randn(length) for length in (900, 3100, 870, 880, 2900)]
    batch = grouped(clips, groups=groups, least=400)
    assert len(batch) == len(clips)
    assert len(batch.waveforms) == groups
    together = encode_clips(model, batch)
    dummies = sum(len(group) == 0 for group in batch.waveforms)
    assert len(together.tokens) == len(clips) + dummies
    for number, clip in enumerate(clips):
        alone = model.encode_audio(clip[None], torch.tensor([len(clip)]))
        torch.testing.assert_close(together.tokens[number], alone.tokens[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.vectors[number], alone.vectors[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", [[], [5], [4, 4, 4], [1, 1, 2, 9], [3, 8, 1, 7, 20, 2, 2]])
def test_the_groups_pad_as_little_as_any_would(lengths: list[int]) -> None:
    ascending = sorted(lengths)
    places = itertools.combinations_with_replacement(range(len(lengths) + 1), 2)
    least = min(
        sum(
            len(part) * max(part, default=0)
            for part in (ascending[:a], ascending[a:b], ascending[b:])
        )
        for a, b in places
    )
    clips = grouped([torch.ones(length) for length in lengths], groups=3, least=1)
    assert sum(group.numel() for group in clips.waveforms if len(group)) == least
    assert sum(float(group.sum()) for group in clips.waveforms) == sum(lengths)
