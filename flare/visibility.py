"""Where the tokens of a call stand and which keys they see: padding, documents, cache."""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache

from common.attention.masks import Mask, causal, valid_keys
from flare.decoder import hybrid_mask, positions_in_documents


def length_of(cache: Cache | None) -> int | Int[Tensor, ""]:
    """Tokens so far; a static cache counts in a tensor, so that compiled code serves every step."""
    length = 0 if cache is None else cache.get_seq_length()
    # The cache counts on in place while the layers run.
    return length.clone() if torch.is_tensor(length) else length


def over_all_keys(
    attention_mask: Int[Tensor, "b n"], cache: Cache | None, num_new: int
) -> Int[Tensor, "b k"]:
    """With zeros for the places that a static cache keeps for later tokens."""
    if cache is None:
        return attention_mask
    num_keys, _ = cache.get_mask_sizes(num_new, 0)
    return F.pad(attention_mask, (0, num_keys - attention_mask.shape[1]))


def mask_for_generation(
    *,
    inputs_embeds: Tensor,
    attention_mask: Int[Tensor, "b n"] | None,
    past_key_values: Cache,
    **others: Any,
) -> Int[Tensor, "b k"] | None:
    """The padding once more, of one size from a static cache's first token to its last.

    transformers' hook; it would make a mask of queries by keys, which `mask_of` makes itself.
    """
    if attention_mask is None:
        return None
    return over_all_keys(attention_mask, past_key_values, inputs_embeds.shape[1])


def positions_of(
    input_ids: Int[Tensor, "b s"],
    attention_mask: Int[Tensor, "b n"] | None,
    document_ids: Int[Tensor, "b s"] | None,
    *,
    past: int | Int[Tensor, ""],
) -> Int[Tensor, "b s"]:
    """Counted within documents, or over the real tokens so far."""
    if document_ids is not None:
        return positions_in_documents(document_ids)
    slots = past + torch.arange(input_ids.shape[1], device=input_ids.device)
    if attention_mask is not None:
        return (attention_mask.long().cumsum(-1) - 1)[:, slots].clamp(min=0)
    return slots.expand_as(input_ids)


def mask_of(
    attention_mask: Int[Tensor, "b n"] | None,
    document_ids: Int[Tensor, "b s"] | None,
    bidirectional: Bool[Tensor, "b s"] | None,
    *,
    past: int | Int[Tensor, ""],
) -> Mask:
    """Documents of a packed row, or the past without its padding."""
    if document_ids is not None:
        if bidirectional is None:
            bidirectional = torch.zeros_like(document_ids, dtype=torch.bool)
        return hybrid_mask(document_ids, bidirectional)
    if isinstance(past, int):
        earlier = causal(offset=past)
    else:
        earlier = Mask(rule=lambda b, q, k: k <= q + past)
    return earlier if attention_mask is None else earlier & valid_keys(attention_mask.bool())
