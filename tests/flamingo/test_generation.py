"""Cached generation equals uncached, in every way a model is asked to write."""

from typing import Any

import pytest
import torch

from common.attention.cache import MediaCache
from common.errors import UserError
from flamingo.generation import complete, complete_after, inputs_after
from tests.flamingo import tiny

I = 97  # noqa: E741 - the <image> token of the tiny configuration
END = 98
IDS = torch.tensor([[0, 0, 1, I, 7, 8, I, 9], [1, I, 6, I, 8, 9, I, 4]])
ATTENDED = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])
COUNTS = torch.tensor([2, 3])
NO_STOP = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def write(model: Any, **kwargs: Any) -> torch.Tensor:
    inputs = {
        "input_ids": IDS,
        "attention_mask": ATTENDED,
        "pixel_values": tiny.images(2, 3),
        "num_images": COUNTS,
    }
    return model.generate(**(inputs | NO_STOP | kwargs))


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
@pytest.mark.parametrize("beams", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_cached_equals_uncached(family: str, beams: int) -> None:
    model = tiny.model(family)
    cached = write(model, num_beams=beams, use_cache=True)
    assert torch.equal(cached, write(model, num_beams=beams, use_cache=False))
    other = write(model, num_beams=beams, pixel_values=tiny.images(2, 3, seed=1))
    assert not torch.equal(cached, other)


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_a_static_cache_changes_nothing(family: str) -> None:
    model = tiny.model(family)
    for beams in (1, 3):
        static = write(model, num_beams=beams, cache_implementation="static")
        assert torch.equal(static, write(model, num_beams=beams))


@pytest.mark.parametrize("attention", ["own", "previous"])
def test_every_media_mode_is_cached_exactly(attention: str) -> None:
    model = tiny.model(media_attention=attention)
    assert torch.equal(write(model), write(model, use_cache=False))


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_a_left_padded_row_equals_the_row_alone(family: str) -> None:
    model = tiny.model(family)
    alone = model.generate(input_ids=IDS[:1, 2:], pixel_values=tiny.images(2, 3)[:1, :2], **NO_STOP)
    assert torch.equal(write(model)[0, 2:], alone[0])


def test_sampling_repeats_with_its_seed() -> None:
    model = tiny.model()
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(write(model, do_sample=True))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "mpt"])
def test_a_cached_conversation_takes_a_new_image_in_a_later_turn(family: str) -> None:
    model = tiny.model(family)
    pixels = tiny.images(2, 2)
    media = MediaCache()
    first = torch.tensor([[1, I, 7, 8], [1, 5, I, 8]])
    turn = model.generate(
        input_ids=first,
        pixel_values=pixels[:, :1],
        media_cache=media,
        return_dict_in_generate=True,
        **NO_STOP,
    )
    second = torch.cat([turn.sequences, torch.tensor([[END, I, 9], [END, I, 3]])], dim=1)
    cached = model.generate(
        input_ids=second,
        pixel_values=pixels[:, 1:],
        past_key_values=turn.past_key_values,
        media_cache=media,
        **NO_STOP,
    )
    assert torch.equal(cached, model.generate(input_ids=second, pixel_values=pixels, **NO_STOP))


def test_chunks_fed_by_hand_equal_the_whole_text() -> None:
    model = tiny.model()
    pixels = tiny.images(2, 2)
    ids = torch.tensor([[1, I, 7, 8, I, 9, 4], [1, 5, 6, I, I, 8, 3]])
    whole = model(ids, pixel_values=pixels, num_images=torch.tensor([2, 2])).logits
    media = MediaCache()
    first = model(ids[:, :4], pixel_values=pixels[:, :1], use_cache=True, media_cache=media)
    rest = model(
        ids[:, 4:],
        pixel_values=pixels[:, 1:],
        past_key_values=first.past_key_values,
        media_cache=media,
        use_cache=True,
    )
    torch.testing.assert_close(
        torch.cat([first.logits, rest.logits], dim=1), whole, atol=2e-5, rtol=2e-5
    )
    assert media.num_items == 2


def test_text_without_images_is_written_too() -> None:
    model = tiny.model()
    ids = torch.tensor([[1, 5, 6, 7]])
    cached = model.generate(input_ids=ids, **NO_STOP)
    assert torch.equal(cached, model.generate(input_ids=ids, use_cache=False, **NO_STOP))


def test_images_are_encoded_once_however_long_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model()
    calls = []
    resample = model.resampler.forward
    monkeypatch.setattr(
        model.resampler, "forward", lambda *args: calls.append(args) or resample(*args)
    )
    write(model, num_beams=3)
    assert [tuple(args[0].shape[:2]) for args in calls] == [(2, 3)]


def test_the_image_token_is_never_written() -> None:
    model = tiny.model()
    with torch.no_grad():
        model.new_outputs.weight.zero_()
        model.new_outputs.weight[0] += 50.0 * model.language_model.get_output_embeddings().weight[5]
    assert (write(model)[:, 8:] != I).all()


def test_generation_checks_images_against_tags() -> None:
    with pytest.raises(UserError, match="row 1 of the batch: 3 <image> tags but 2 images"):
        write(tiny.model(), num_images=torch.tensor([2, 2]))


def test_completion_stops_at_the_end_of_the_chunk() -> None:
    processor = tiny.processor()
    model = tiny.model(vocab_size=300)
    picture = tiny.images(1, 1)[0, 0].permute(1, 2, 0).numpy()
    prompts = [[picture, "Output:"], [picture, "a", picture, "Output: some words"]]
    with torch.no_grad():  # the only thing this model can say is <|endofchunk|>
        model.language_model.get_output_embeddings().weight.zero_()
        model.new_outputs.weight.zero_()
    model.generation_config.suppress_tokens = [t for t in range(301)]
    assert complete(model, processor, prompts, max_new_tokens=5) == ["", ""]


PICTURES = [picture.permute(1, 2, 0).numpy() for picture in tiny.images(1, 5, seed=3)[0]]
SHOTS = [PICTURES[0], "Output: a word", PICTURES[1], "Output: two words"]
QUERIES = [
    [PICTURES[2], "Output:"],
    [PICTURES[3], "A longer question. Output:"],
    ["without a picture"],
    [PICTURES[4], "and", PICTURES[0].copy(), "Output:"],
]
PROMPTS = [[*SHOTS, *query] for query in QUERIES]


def letters_only(model: Any, processor: Any) -> Any:
    readable = {i for i in range(300) if processor.tokenizer.decode([i]).strip().isalnum()}
    model.generation_config.suppress_tokens = [i for i in range(302) if i not in readable]
    return model


@pytest.mark.parametrize("family", ["llama", "opt", "mpt"])
def test_a_shared_beginning_is_read_once_and_changes_no_text(family: str) -> None:
    processor = tiny.processor()
    model = letters_only(tiny.model(family, vocab_size=300), processor).train()
    options = {"max_new_tokens": 5, "num_beams": 3}
    together = complete(model, processor, PROMPTS, **options)
    assert complete_after(model, processor, SHOTS, QUERIES, **options) == together
    assert [complete(model, processor, [one], **options)[0] for one in PROMPTS] == together
    assert complete_after(model, processor, [], PROMPTS, **options) == together
    assert model.training
    assert all(text.isalnum() for text in together)


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
@pytest.mark.parametrize("attention", ["own", pytest.param("previous", marks=pytest.mark.slow)])
def test_logits_after_a_shared_beginning_are_those_of_whole_prompts(
    family: str, attention: str
) -> None:
    processor, model = (
        tiny.processor(),
        tiny.model(family, vocab_size=300, media_attention=attention),
    )
    queries = [[PICTURES[2], "Output:"], [PICTURES[3], "Answer:"]]

    def logits(**inputs: Any) -> torch.Tensor:
        options = NO_STOP | {"return_dict_in_generate": True, "output_logits": True}
        return torch.stack(model.generate(**inputs, **options).logits)

    whole = logits(**processor.prompts([[*SHOTS, *query] for query in queries]))
    after = logits(**inputs_after(model, processor, SHOTS, queries))
    torch.testing.assert_close(after, whole, atol=3e-5, rtol=3e-5)
    other = logits(**inputs_after(model, processor, [PICTURES[4], *SHOTS[1:]], queries))
    assert not torch.allclose(other, whole, atol=1e-3)


def test_equal_pictures_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    processor, model = tiny.processor(), tiny.model(vocab_size=300)
    sizes = []
    resample = model.resampler.forward
    monkeypatch.setattr(
        model.resampler, "forward", lambda *args: sizes.append(args[0].shape[1]) or resample(*args)
    )
    complete(model, processor, PROMPTS, max_new_tokens=2, num_beams=2)
    assert sizes == [5]  # of the 12 in the prompts
    complete_after(model, processor, SHOTS, QUERIES, max_new_tokens=2)
    assert sizes[1:] == [2, 4]


def test_a_static_cache_writes_the_same_text() -> None:
    processor, model = tiny.processor(), tiny.model(vocab_size=300)
    static = complete(model, processor, PROMPTS, max_new_tokens=5, static=True)
    assert static == complete(model, processor, PROMPTS, max_new_tokens=5)
