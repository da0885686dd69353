"""Writing with a Flamingo of width 512, 8 layers and 4 gated blocks, float32: time of a step, one
token for every row, after prompts of 0 to 32 shots, beside media that are projected anew for every
token, as in open_flamingo; and a few-shot evaluation whose queries share pictures or their whole
beginning.

Prompts of fewer shots are padded with text to the length of 32 shots, because a language model's
own cache grows with its text; "as they are" they are not padded. Logits and texts are checked equal
before anything is timed. On a CPU one thread's processor time counts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from common.attention.cache import MediaCache
from common.data.embedded.tokenizer import train_tokenizer
from flamingo import language_model as lm
from flamingo.config import FlamingoConfig
from flamingo.generation import complete, complete_after
from flamingo.media import Media
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.processing import FlamingoProcessor
from scripts.benchmarks import peers
from scripts.benchmarks.timing import CLOCK, Row, Run, alternating, ratio

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHOTS = (0, 4, 8, 16, 32)
WORDS = 12  # of a shot, beside <image> and <|endofchunk|>
STEPS = 3  # in one run
ROWS = 4  # of a batch
QUERIES, DEMONSTRATIONS, POOL, TOKENS = 8, 8, 16, 4
FIRST_WORD, VOCABULARY, IMAGE_SIZE = 10, 512, 128
OPENED = 0.5  # gates
REPEATS = 7


@torch.no_grad()
def figures() -> list[Row]:
    """Rows of the decoding and of the evaluation."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = FlamingoForConditionalGeneration(_config()).eval().to(DEVICE)
    return [*_decoding(model), *_evaluation(model)]


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """A prompt that has been read: the next tokens are written from here, any number of times."""

    ids: Tensor
    pixels: Tensor
    item: Tensor  # that the next tokens look at
    latents: Tensor | None
    text: Cache
    media: MediaCache


def _decoding(model: FlamingoForConditionalGeneration) -> list[Row]:
    longest = _prompt_ids(SHOTS[-1], length=None).shape[1]
    as_long = [_read(model, shots, length=longest) for shots in SHOTS]
    as_they_are = [_read(model, shots, length=None) for shots in SHOTS[:-1]]
    one, batch = as_long[-1], _read(model, SHOTS[-1], length=longest, rows=ROWS)
    anew: dict[str, Run | None] = {
        "1 row, media projected per token": partial(_projecting, model, one),
        "1 row, open_flamingo": _open_flamingo(model, one),
        f"{ROWS} rows, media projected per token": partial(_projecting, model, batch),
    }
    plain = [run for run in anew.values() if run]
    for prompt, run in ((one, plain[0]), (one, plain[-2]), (batch, plain[-1])):
        torch.testing.assert_close(run(), _cached(model, prompt), rtol=1e-3, atol=1e-4)
    for block in model.gated_blocks:
        block.attention_gate.fill_(OPENED)
        block.feed_forward_gate.fill_(OPENED)
    torch.testing.assert_close(plain[0](), _cached(model, one), rtol=1e-3, atol=1e-4)

    prompts = (*as_long, *as_they_are, batch)
    ours: list[Run] = [partial(_cached, model, prompt) for prompt in prompts]
    times = [s / STEPS * 1e3 for s in alternating([*ours, *plain], repeats=REPEATS, clock=CLOCK)]
    equal, raw, of_batch = times[:5], [*times[5:9], times[4]], times[9]
    theirs = iter(times[10:])
    return [
        *(
            _row(f"{shots} shots; plain: 0 shots, {how}", of[place], of[0], limit)
            for how, of, limit in (("as long", equal, "1.15"), ("as they are", raw, ""))
            for place, shots in enumerate(SHOTS)
            if shots
        ),
        *(
            _row(f"32 shots; plain: {name}", mine, next(theirs) if run else None, "0.2")
            for mine, (name, run) in zip(
                [equal[-1], equal[-1], of_batch], anew.items(), strict=True
            )
        ),
    ]


def _evaluation(model: FlamingoForConditionalGeneration) -> list[Row]:
    processor = _processor()
    model.generation_config.suppress_tokens = [0, 1, 2, VOCABULARY, VOCABULARY + 1]
    generator = np.random.default_rng(0)
    shape = (POOL + QUERIES, IMAGE_SIZE, IMAGE_SIZE, 3)
    pictures = [*generator.integers(256, size=shape, dtype=np.uint8)]
    shots = [[picture, f"Output: colour {i}"] for i, picture in enumerate(pictures[:POOL])]
    queries = [[picture, "Output:"] for picture in pictures[POOL:]]
    shared = [part for shot in shots[:DEMONSTRATIONS] for part in shot]
    prompts = [[*shared, *query] for query in queries]
    retrieved = []
    for query in queries:
        places = generator.choice(POOL, DEMONSTRATIONS, replace=False)
        retrieved.append([*(part for i in places for part in shots[i]), *query])

    write = partial(complete, model, processor, max_new_tokens=TOKENS)
    ways: list[Callable[[], list[str]]] = [
        lambda: complete_after(model, processor, shared, queries, max_new_tokens=TOKENS),
        lambda: write(prompts),
        lambda: [write([prompt])[0] for prompt in prompts],
        lambda: write(retrieved),
        lambda: _encoding_all(model, processor, retrieved),
    ]
    texts = [way() for way in ways]
    assert texts[0] == texts[1] == texts[2]
    assert texts[3] == texts[4]
    after, batch, single, once, every = (
        1e3 * s for s in alternating(ways, repeats=REPEATS, clock=CLOCK)
    )
    asked = f"{QUERIES} queries after {DEMONSTRATIONS} shots"
    return [
        _row(f"{asked}, `complete_after`; plain: one prompt at a time", after, single, "0.33"),
        _row(f"{asked}, `complete_after`; plain: one batch", after, batch, ""),
        _row(f"{asked} of {POOL}; plain: every picture encoded", once, every, ""),
    ]


def _row(figure: str, ours: float, plain: float | None, limit: str) -> Row:
    return {
        "ms per step or evaluation": figure,
        "ours": round(ours, 1),
        "plain": peers.NOT_INSTALLED if plain is None else round(plain, 1),
        "ratio": "-" if plain is None else ratio(ours, plain),
        "at most": limit,
    }


def _prompt_ids(shots: int, *, length: int | None) -> Tensor:
    """Arbitrary words; in front as many more of them as the length wants."""
    words = list(range(FIRST_WORD, FIRST_WORD + WORDS))
    ids = [*[VOCABULARY, *words, VOCABULARY + 1] * shots, VOCABULARY, *words]
    filler = 0 if length is None else length - 1 - len(ids)
    return torch.tensor([[1, *(FIRST_WORD + i % 400 for i in range(filler)), *ids]], device=DEVICE)


def _read(
    model: FlamingoForConditionalGeneration, shots: int, *, length: int | None, rows: int = 1
) -> _Prompt:
    ids, media = _prompt_ids(shots, length=length).repeat(rows, 1), MediaCache()
    shape = (rows, shots + 1, 3, IMAGE_SIZE, IMAGE_SIZE)
    pixels = torch.randint(256, shape, dtype=torch.uint8, device=DEVICE)
    return _Prompt(
        ids=ids,
        pixels=pixels,
        item=torch.full((rows, 1), shots + 1, device=DEVICE),
        latents=model.encode_images(pixels),
        text=model(ids, pixel_values=pixels, media_cache=media, use_cache=True).past_key_values,
        media=media,
    )


def _cached(model: FlamingoForConditionalGeneration, prompt: _Prompt) -> Tensor:
    caches = {"past_key_values": prompt.text, "media_cache": prompt.media, "use_cache": True}
    return _write(lambda token: model(token, media_item=prompt.item, **caches).logits, prompt)


def _projecting(model: FlamingoForConditionalGeneration, prompt: _Prompt) -> Tensor:
    """The same with keys and values of all media made from their latents at every token."""
    text, new_inputs = model.language_model, model.new_inputs

    def step(token: Tensor) -> Tensor:
        media = Media(
            latents=prompt.latents,
            num_new=None,
            item=prompt.item,
            first=torch.ones_like(prompt.item),
            attention=model.config.media_attention,
            backend=model.config.attention_backend,
            cache=None,
        )
        embedded = lm.embed(text, new_inputs, token)
        caches = {"past_key_values": prompt.text, "use_cache": True}
        logits: Tensor = lm.run(text, media, inputs_embeds=embedded, **caches).logits
        return logits

    return _write(step, prompt)


def _open_flamingo(model: FlamingoForConditionalGeneration, prompt: _Prompt) -> Run | None:
    """Its language model goes on as under its `generate`: media encoded, the prompt read."""
    if not peers.is_installed("open_flamingo"):
        return None
    theirs: Any = peers.flamingo(model).eval()
    theirs.lang_encoder._use_cached_vision_x = True
    theirs._encode_vision_x(prompt.pixels[:, :, None])
    attended = torch.ones_like(prompt.ids)
    read = theirs.lang_encoder(prompt.ids, attended, use_cache=True)

    def step(token: Tensor) -> Tensor:
        caches = {"past_key_values": read.past_key_values, "use_cache": True}
        logits: Tensor = theirs.lang_encoder(token, None, **caches).logits
        return logits

    return lambda: _write(step, replace(prompt, text=read.past_key_values))


def _write(step: Callable[[Tensor], Tensor], prompt: _Prompt) -> Tensor:
    """Logits after each of the next tokens; the text's cache is put back."""
    words = range(FIRST_WORD, FIRST_WORD + STEPS)
    logits = [step(torch.full_like(prompt.item, word)) for word in words]
    prompt.text.crop(-STEPS)
    return torch.cat(logits, dim=1)


def _encoding_all(
    model: FlamingoForConditionalGeneration, processor: FlamingoProcessor, prompts: list[Any]
) -> list[str]:
    inputs = processor.prompts(prompts).to(DEVICE)
    ids = model.generate(**inputs, max_new_tokens=TOKENS, pad_token_id=0, eos_token_id=None)
    new = ids[:, inputs["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _config() -> FlamingoConfig:
    width = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    transformer = {"patch_size": 16, "embed_dim": 512, "depth": 2, "num_heads": 8}
    return FlamingoConfig(
        vision_config={
            "model_type": "flamingo_vision",
            "name": "vit_base_patch16_clip_224",
            "image_size": IMAGE_SIZE,
            "model_options": transformer,
        },
        text_config={"model_type": "llama", "vocab_size": VOCABULARY, **width, **heads, **special},
        media_dim=512,  # the vision encoder's, as open_flamingo must have it
        num_latents=64,
        resampler_layers=2,
        resampler_heads=8,
        resampler_head_dim=64,
        resampler_feed_forward_dim=2048,
        cross_attention_interval=2,
        cross_attention_head_dim=64,
        cross_attention_feed_forward_dim=2048,
    )


def _processor() -> FlamingoProcessor:
    tokenizer = train_tokenizer(["Output: colour 0123456789"] * 9, vocab_size=VOCABULARY)
    return FlamingoProcessor.from_tokenizer(tokenizer, vocab_size=VOCABULARY, image_size=IMAGE_SIZE)
