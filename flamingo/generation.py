"""Text that continues interleaved prompts: documents in, strings out.

Nothing is computed twice: a picture that occurs more than once in a batch, as demonstrations do, is
encoded once, and `complete_after` reads a beginning that all prompts share once for all of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import BatchEncoding
from transformers.cache_utils import Cache

from common.attention.cache import MediaCache, rows_of_cache
from common.generation.beams import beam_options
from flamingo import language_model as lm
from flamingo.media import Media
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.processing import FlamingoProcessor, Part, distinct_pictures

IMAGES_AT_ONCE = 64  # in one call of the vision encoder


@torch.no_grad()
def complete(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    documents: Sequence[Sequence[Part]],
    *,
    max_new_tokens: int,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    temperature: float | None = None,
    static: bool = False,
) -> list[str]:
    """What the model writes after each prompt, up to the end of the chunk.

    Greedy; beam search when beams are given, sampling when a temperature is. Beams are compared by
    log-probability / length ** `length_penalty`, transformers' 1 if not given. `static` allots the
    whole text cache beforehand, for which transformers compiles decoding on a GPU. The model's
    training mode is kept.
    """
    rows = [processor.encode_document(parts, closed=False) for parts in documents]
    media = MediaCache()
    with _evaluating(model):
        num_images = _remember(model, processor, documents, media, copies=num_beams or 1)
        return _write(
            model,
            processor,
            {
                **_padded(processor, rows).to(model.device),
                "media_cache": media,
                "num_images": num_images,
            },
            max_new_tokens=max_new_tokens,
            **beam_options(num_beams, length_penalty),
            do_sample=temperature is not None,
            temperature=temperature,
            cache_implementation="static" if static else None,
        )


@torch.no_grad()
def complete_after(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    prefix: Sequence[Part],
    documents: Sequence[Sequence[Part]],
    *,
    max_new_tokens: int,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    temperature: float | None = None,
) -> list[str]:
    """What `complete` writes after `prefix + document`, for each document.

    For many queries behind the same demonstrations: these are read once for all of them.
    """
    if not prefix:
        return complete(
            model,
            processor,
            documents,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            length_penalty=length_penalty,
            temperature=temperature,
        )
    texts: dict[int, str] = {}
    with _evaluating(model):
        for group in _groups(model, processor, prefix, documents):
            written = _write(
                model,
                processor,
                inputs_after(
                    model,
                    processor,
                    prefix,
                    [documents[i] for i in group],
                    copies=num_beams or 1,
                ),
                max_new_tokens=max_new_tokens,
                **beam_options(num_beams, length_penalty),
                do_sample=temperature is not None,
                temperature=temperature,
            )
            texts |= zip(group, written, strict=True)
    return [texts[i] for i in range(len(documents))]


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadPrompts:
    """Prompts that were read once, and what text that follows them needs of them."""

    input_ids: Int[Tensor, "b s"]  # padded on the left
    attention_mask: Int[Tensor, "b s"]
    logits: Float[Tensor, "b v"]  # of what comes next
    text: Cache
    media: MediaCache


@torch.no_grad()
def read(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    documents: Sequence[Sequence[Part]],
) -> ReadPrompts:
    """Prompts as far as they go."""
    rows = [processor.encode_document(parts, closed=False) for parts in documents]
    inputs = _padded(processor, rows).to(model.device)
    ids, attended = inputs["input_ids"], inputs["attention_mask"]
    media = MediaCache()
    done = model(
        ids,
        attention_mask=attended,
        position_ids=_positions(model, attended, num_new=ids.shape[1]),
        num_images=_remember(model, processor, documents, media),
        media_cache=media,
        use_cache=True,
        logits_to_keep=1,
    )
    return ReadPrompts(
        input_ids=ids,
        attention_mask=attended,
        logits=done.logits[:, -1],
        text=done.past_key_values,
        media=media,
    )


@torch.no_grad()
def logits_after(
    model: FlamingoForConditionalGeneration,
    prompts: ReadPrompts,
    rows: Int[Tensor, " n"],
    ids: Int[Tensor, "n s"],
) -> Float[Tensor, "n s v"]:
    """Logits behind each token of texts that follow the prompts of some rows."""
    attended = torch.cat([prompts.attention_mask[rows], torch.ones_like(ids)], dim=1)
    output = model(
        ids,
        attention_mask=attended,
        position_ids=_positions(model, attended, num_new=ids.shape[1]),
        past_key_values=rows_of_cache(prompts.text, rows),
        media_cache=prompts.media.of_rows(rows),
        use_cache=True,
    )
    return cast(Tensor, output.logits)


@torch.no_grad()
def inputs_after(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    prefix: Sequence[Part],
    documents: Sequence[Sequence[Part]],
    *,
    copies: int = 1,
) -> dict[str, Any]:
    """Inputs of `generate` for `prefix + document`, with caches in which the prefix has been read.

    Where documents differ in length, the padding lies between prefix and document. Beam search
    needs as many copies of each document as it has beams.
    """
    begun = read(model, processor, [prefix])
    every = torch.zeros(len(documents) * copies, dtype=torch.long, device=model.device)
    media = begun.media.of_rows(every)
    rest = _padded(processor, _rests(processor, prefix, documents)).to(model.device)
    shared = begun.input_ids.expand(len(documents), -1)
    return {
        "input_ids": torch.cat([shared, rest["input_ids"]], dim=1),
        "attention_mask": torch.cat([torch.ones_like(shared), rest["attention_mask"]], dim=1),
        "past_key_values": rows_of_cache(begun.text, every),
        "media_cache": media,
        "num_images": _remember(model, processor, documents, media, copies=copies),
    }


def _groups(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    prefix: Sequence[Part],
    documents: Sequence[Sequence[Part]],
) -> list[list[int]]:
    """Which documents go on together: all, or those of a length where padding would be distance."""
    lengths = [len(ids) for ids in _rests(processor, prefix, documents)]
    longest = len(processor.encode_document(prefix, closed=False)) + max(lengths, default=0)
    text = model.language_model
    if lm.takes_positions(text) and not lm.has_window_within(text, longest):
        return [list(range(len(documents)))] if documents else []
    return [[i for i, n in enumerate(lengths) if n == length] for length in sorted({*lengths})]


def _rests(
    processor: FlamingoProcessor, prefix: Sequence[Part], documents: Sequence[Sequence[Part]]
) -> list[list[int]]:
    """Ids of the documents, as they follow the prefix."""
    start = len(processor.encode_document(prefix, closed=False))
    return [
        processor.encode_document([*prefix, *parts], closed=False)[start:] for parts in documents
    ]


def _remember(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    documents: Sequence[Sequence[Part]],
    media: MediaCache,
    *,
    copies: int = 1,
) -> Int[Tensor, " b"]:
    """Fills the media cache with the documents' pictures and returns their numbers."""
    rows = [[part for part in parts if not isinstance(part, str)] for parts in documents]
    counts = torch.tensor([len(row) for row in rows], device=model.device)
    pictures, places = distinct_pictures([picture for row in rows for picture in row])
    if not pictures:
        return counts
    slots = torch.zeros(len(rows), int(counts.max()), dtype=torch.long, device=model.device)
    filled = torch.arange(slots.shape[1], device=model.device) < counts[:, None]
    slots[filled] = torch.tensor(places, device=model.device)
    slots = slots.repeat_interleave(copies, dim=0)
    once = MediaCache()
    shared = _media_of(model, processor.encode_pictures(pictures).to(model.device), cache=once)
    no_text = torch.zeros(1, 1, model.config.text_config.hidden_size, device=model.device)
    for block in model.gated_blocks:
        block(no_text, shared)  # as a whole: sharded weights are there while it runs
        keys, values = once.get(block.layer)
        media.update(
            block.layer,
            keys[0, slots],
            values[0, slots],
            counts=counts.repeat_interleave(copies),
        )
    return counts


def _media_of(
    model: FlamingoForConditionalGeneration, pixels: Tensor, *, cache: MediaCache
) -> Media:
    """The distinct pictures as the items of one row."""
    parts = [model.encode_images(part[None]) for part in pixels.split(IMAGES_AT_ONCE)]
    nowhere = torch.zeros(1, 1, dtype=torch.long, device=pixels.device)
    return Media(
        latents=torch.cat([part for part in parts if part is not None], dim=1),
        num_new=None,
        item=nowhere,
        first=nowhere,
        attention=model.config.media_attention,
        backend=model.config.attention_backend,
        cache=cache,
    )


def _write(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    inputs: dict[str, Any],
    **options: Any,
) -> list[str]:
    stop = [processor.end_of_chunk_token_id]
    if processor.tokenizer.eos_token_id is not None:
        stop.append(processor.tokenizer.eos_token_id)
    ids = model.generate(
        **inputs, eos_token_id=stop, pad_token_id=processor.tokenizer.pad_token_id, **options
    )
    new = ids[:, inputs["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _positions(
    model: FlamingoForConditionalGeneration, attended: Int[Tensor, "b s"], *, num_new: int
) -> Int[Tensor, "b n"] | None:
    """Places of the last tokens among those that are no padding, for families that are told."""
    if not lm.takes_positions(model.language_model):
        return None
    return (attended.cumsum(-1) - 1).clamp(min=0)[:, -num_new:]


def _padded(processor: FlamingoProcessor, rows: list[list[int]]) -> BatchEncoding:
    return processor.tokenizer.pad({"input_ids": rows}, padding=True, return_tensors="pt")


@contextmanager
def _evaluating(model: FlamingoForConditionalGeneration) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
