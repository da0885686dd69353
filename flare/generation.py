"""Text that continues mixed prompts: documents in, strings out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from common.attention.cache import rows_of_cache
from common.data.conversations.messages import Part
from common.generation.beams import beam_options
from flare.model import FlareForConditionalGeneration
from flare.processing import FlareProcessor


@torch.no_grad()
def complete(
    model: FlareForConditionalGeneration,
    processor: FlareProcessor,
    documents: Sequence[Sequence[Part]],
    *,
    max_new_tokens: int,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    temperature: float | None = None,
    static: bool = False,
) -> list[str]:
    """What the model writes after each prompt, up to the end of the document.

    Greedy; beam search when beams are given, sampling when a temperature is. Beams are compared by
    log-probability / length ** `length_penalty`, transformers' 1 if not given. `static` allots the
    whole text cache beforehand, for which transformers compiles decoding on a GPU. The model's
    training mode is kept.
    """
    was_training = model.training
    model.eval()
    inputs = processor.prompts(documents).to(model.device)
    ids = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        **beam_options(num_beams, length_penalty),
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        do_sample=temperature is not None,
        temperature=temperature,
        cache_implementation="static" if static else None,
    )
    model.train(was_training)
    new = ids[:, inputs["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadPrompts:
    """Prompts that were read once, and what text that follows them needs of them."""

    attention_mask: Int[Tensor, "b s"]  # padded on the left
    logits: Float[Tensor, "b v"]  # of what comes next
    text: Cache


@torch.no_grad()
def read(
    model: FlareForConditionalGeneration,
    processor: FlareProcessor,
    documents: Sequence[Sequence[Part]],
) -> ReadPrompts:
    """Prompts as far as they go."""
    inputs = processor.prompts(documents).to(model.device)
    done = model(**inputs, use_cache=True, logits_to_keep=1)
    return ReadPrompts(
        attention_mask=inputs["attention_mask"],
        logits=done.logits[:, -1],
        text=done.past_key_values,
    )


@torch.no_grad()
def logits_after(
    model: FlareForConditionalGeneration,
    prompts: ReadPrompts,
    rows: Int[Tensor, " n"],
    ids: Int[Tensor, "n s"],
) -> Float[Tensor, "n s v"]:
    """Logits behind each token of texts that follow the prompts of some rows."""
    attended = torch.cat([prompts.attention_mask[rows], torch.ones_like(ids)], dim=1)
    cache = rows_of_cache(prompts.text, rows)
    output = model(ids, attention_mask=attended, past_key_values=cache, use_cache=True)
    return cast(Tensor, output.logits)
