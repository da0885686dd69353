"""Which image each text token looks at, and the media of one call (paper, section 2.3: phi).

Items are numbered from 1 within a row, in the order of their `<image>` tags; 0 means "none". In a
packed row a document never sees another document's items.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.attention.cache import MediaCache
from common.errors import UserError


def previous_item(
    is_image: Bool[Tensor, "b s"], documents: Int[Tensor, "b s"]
) -> Int[Tensor, "b s"]:
    """Item of the last `<image>` at or before each token of the same document, 0 if none.

    `<image> a b <image> c | d <image> e` -> `1 1 1 2 2 | 0 3 3` (`|` starts another document).
    """
    seen = is_image.cumsum(-1)
    before = _at_document_start(seen - is_image.long(), documents)
    return torch.where(seen > before, seen, 0)


def next_item(is_image: Bool[Tensor, "b s"], documents: Int[Tensor, "b s"]) -> Int[Tensor, "b s"]:
    """Item of the first `<image>` at or after each token of the same document, 0 if none.

    `a <image> b c <image> d | <image> e` -> `1 1 2 2 2 0 | 3 0`
    """
    upcoming = is_image.cumsum(-1) - is_image.long() + 1
    last = _at_document_end(is_image.cumsum(-1), documents)
    return torch.where(upcoming <= last, upcoming, 0)


def first_item(is_image: Bool[Tensor, "b s"], documents: Int[Tensor, "b s"]) -> Int[Tensor, "b s"]:
    """First item of each token's document, whether or not the token may see it yet."""
    return _at_document_start(is_image.cumsum(-1) - is_image.long(), documents) + 1


def _at_document_start(
    value: Int[Tensor, "b s"], documents: Int[Tensor, "b s"]
) -> Int[Tensor, "b s"]:
    """`value` at the first token of each token's document; `value` must not decrease."""
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return torch.where(starts, value, 0).cummax(-1).values


def _at_document_end(
    value: Int[Tensor, "b s"], documents: Int[Tensor, "b s"]
) -> Int[Tensor, "b s"]:
    """`value` at the last token of each token's document; `value` must not decrease."""
    ends = torch.ones_like(documents, dtype=torch.bool)
    ends[:, :-1] = documents[:, 1:] != documents[:, :-1]
    largest = torch.iinfo(value.dtype).max
    return torch.where(ends, value, largest).flip(-1).cummin(-1).values.flip(-1)


def check_image_counts(
    tags: Int[Tensor, " b"], images: Int[Tensor, " b"], names: list[str] | None = None
) -> None:
    """Raises when a sample has more `<image>` tags than images, or images left over."""
    for row, (num_tags, num_images) in enumerate(zip(tags.tolist(), images.tolist(), strict=True)):
        if num_tags != num_images:
            name = names[row] if names else f"row {row} of the batch"
            raise UserError(
                f"sample {name}: {num_tags} <image> tags but {num_images} images; "
                "give every image exactly one tag, in the same order"
            )


@dataclass(frozen=True, kw_only=True)
class Media:
    """Everything that one call's text may look at; handed to each gated block as an argument."""

    latents: Float[Tensor, "r m q w"] | None  # this call's new items; None when there are none
    num_new: Int[Tensor, " r"] | None  # how many of them are real, per row; None: all
    item: Int[Tensor, "b s"]  # last item that each token may see, 0 = none
    first: Int[Tensor, "b s"]  # first item that each token may see in mode "previous"
    attention: Literal["own", "previous"]
    backend: Literal["auto", "reference", "sdpa", "flex"]
    cache: MediaCache | None
    # Layers that looked at this object: proof that the language model handed it on to all of them.
    visited: list[int] = field(default_factory=list)
