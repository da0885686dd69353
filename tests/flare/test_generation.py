"""Cached generation equals uncached, in every way a model is asked to write."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from common.data.document import Recording
from common.data.embedded.tokenizer import train_tokenizer
from common.errors import UserError
from flare.generation import complete
from flare.model import FlareForConditionalGeneration
from flare.processing import FlareProcessor
from tests.flare import tiny
from tests.flare.tiny import CLIP, IMAGE

# One row of an image and a clip, padded; one of two images around a clip.
IDS = torch.tensor([[0, 0, 0, 1, *IMAGE, 7, *CLIP, 8], [1, *IMAGE, 9, *CLIP, *IMAGE, 8]])
ATTENDED = (IDS != 0).long()
WIDTH = IDS.shape[1]
LENGTHS = torch.tensor([400, 260])
NO_STOP = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture(scope="module")
def model() -> FlareForConditionalGeneration:
    return tiny.model()


def write(model: FlareForConditionalGeneration, **kwargs: Any) -> torch.Tensor:
    inputs = {
        "input_ids": IDS,
        "attention_mask": ATTENDED,
        "pixel_values": tiny.images(3),
        "input_values": tiny.clips(2),
        "audio_lengths": LENGTHS,
    }
    return model.generate(**(inputs | NO_STOP | kwargs))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("counted", [True, False])
def test_cached_equals_uncached(
    model: FlareForConditionalGeneration, beams: int, counted: bool
) -> None:
    counts = {"num_images": torch.tensor([1, 2]), "num_audios": torch.tensor([1, 1])}
    given = counts if counted else {}
    cached = write(model, num_beams=beams, use_cache=True, **given)
    assert torch.equal(cached, write(model, num_beams=beams, use_cache=False, **given))
    for other in (
        {"pixel_values": tiny.images(3, seed=1)},
        {"input_values": tiny.clips(2, seed=1)},
    ):
        assert not torch.equal(cached, write(model, num_beams=beams, **given, **other))


@pytest.mark.parametrize("beams", [1, 3])
def test_a_static_cache_changes_nothing(model: FlareForConditionalGeneration, beams: int) -> None:
    static = write(model, num_beams=beams, cache_implementation="static")
    assert torch.equal(static, write(model, num_beams=beams))
    unpadded = {"input_ids": IDS[1:], "attention_mask": None, "pixel_values": tiny.images(2)}
    clip = {"input_values": tiny.clips(1), "audio_lengths": None, "num_beams": beams}
    static = write(model, cache_implementation="static", **unpadded, **clip)
    assert torch.equal(static, write(model, **unpadded, **clip))


def test_a_static_cache_can_be_fed_by_hand(model: FlareForConditionalGeneration) -> None:
    media = {
        "pixel_values": tiny.images(3),
        "input_values": tiny.clips(2),
        "audio_lengths": LENGTHS,
    }
    whole = model(IDS, attention_mask=ATTENDED, **media).logits
    cache = StaticCache(config=model.config, max_cache_len=WIDTH + 3)
    steps = [
        model(IDS[:, :-1], attention_mask=ATTENDED[:, :-1], past_key_values=cache, **media).logits
    ]
    new = {"attention_mask": ATTENDED, "past_key_values": cache}
    steps.append(model(IDS[:, -1:], **new).logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_left_padded_row_equals_the_row_alone(
    model: FlareForConditionalGeneration, beams: int
) -> None:
    alone = model.generate(
        input_ids=IDS[:1, 3:],
        pixel_values=tiny.images(3)[:1],
        input_values=tiny.clips(2)[:1],
        num_beams=beams,
        **NO_STOP,
    )
    assert torch.equal(write(model, num_beams=beams)[0, 3:], alone[0])


def test_chunks_fed_by_hand_equal_the_whole_text(model: FlareForConditionalGeneration) -> None:
    pixels, clips = tiny.images(2), tiny.clips(1)
    ids = torch.tensor([[1, *IMAGE, 7, 8, *CLIP, 9, *IMAGE, 4 + 6]])
    whole = model(ids, pixel_values=pixels, input_values=clips).logits
    first = model(ids[:, :5], pixel_values=pixels[:1], use_cache=True)
    rest = model(
        ids[:, 5:],
        pixel_values=pixels[1:],
        input_values=clips,
        past_key_values=first.past_key_values,
    )
    together = torch.cat([first.logits, rest.logits], dim=1)
    torch.testing.assert_close(together, whole, atol=2e-5, rtol=2e-5)


def test_a_cached_conversation_takes_new_media_in_a_later_turn(
    model: FlareForConditionalGeneration,
) -> None:
    pixels, clips = tiny.images(4), tiny.clips(2)
    first = torch.tensor([[1, *IMAGE, 7], [1, *IMAGE, 11]])
    turn = model.generate(
        input_ids=first, pixel_values=pixels[[0, 2]], return_dict_in_generate=True, **NO_STOP
    )
    assert isinstance(turn.past_key_values, DynamicCache)
    question = torch.tensor([[2, 1, *CLIP, *IMAGE, 9], [2, 1, *CLIP, *IMAGE, 30]])
    second = torch.cat([turn.sequences, question], dim=1)
    cached = model.generate(
        input_ids=second,
        pixel_values=pixels[[1, 3]],
        input_values=clips,
        past_key_values=turn.past_key_values,
        **NO_STOP,
    )
    fresh = model.generate(input_ids=second, pixel_values=pixels, input_values=clips, **NO_STOP)
    assert torch.equal(cached, fresh)


def test_text_without_media_is_written_too(model: FlareForConditionalGeneration) -> None:
    ids = torch.tensor([[1, 15, 16, 17]])
    cached = model.generate(input_ids=ids, **NO_STOP)
    assert torch.equal(cached, model.generate(input_ids=ids, use_cache=False, **NO_STOP))


def test_media_are_encoded_once_per_sample_however_many_beams(
    model: FlareForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    for name in ("vision_projector", "audio_projector"):
        part = getattr(model, name)
        run = part.forward
        monkeypatch.setattr(
            part,
            "forward",
            lambda *args, run=run, name=name: seen.append((name, len(args[0]))) or run(*args),
        )
    write(model, num_beams=3)
    assert seen == [("vision_projector", 3), ("audio_projector", 2)]


def test_sampling_repeats_with_its_seed(model: FlareForConditionalGeneration) -> None:
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(write(model, do_sample=True))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_media_and_control_tokens_are_never_written() -> None:
    model = tiny.model()
    favoured = torch.tensor([3, 4, 5, 6])
    with torch.no_grad():
        model.head.weight[favoured] = 50 * model.head.weight[10]
    logits = model(IDS[:, :1]).logits
    assert torch.isin(torch.cat([logits.argmax(-1), logits.argmin(-1)]), favoured).any()
    for beams in (1, 3):
        assert not torch.isin(write(model, num_beams=beams)[:, WIDTH:], favoured).any()


def test_media_are_checked_against_their_slots(model: FlareForConditionalGeneration) -> None:
    with pytest.raises(UserError, match="row 0 of the batch: 3 <image> slots but 2 items of 3"):
        write(model, num_images=torch.tensor([2, 1]))
    with pytest.raises(UserError, match=r"\[3, 6\] <image> slots per row but 2 items"):
        write(model, pixel_values=tiny.images(2))
    with pytest.raises(UserError, match=r"\[2, 2\] <audio> slots per row but 0 items"):
        write(model, input_values=None, audio_lengths=None)


def test_completion_stops_at_the_end_of_the_document() -> None:
    tokenizer = train_tokenizer(["a plain text"], vocab_size=263, max_length=512)
    processor = FlareProcessor.from_tokenizer(
        tokenizer,
        vocab_size=300,
        image_size=tiny.IMAGE_SIZE,
        image_queries=tiny.IMAGE_QUERIES,
        audio_queries=tiny.AUDIO_QUERIES,
    )
    ids = {f"{name}_token_id": getattr(processor, f"{name}_token_id") for name in NAMES}
    model = tiny.model(vocab_size=300, **ids).train()
    picture = tiny.images(1)[0].permute(1, 2, 0).numpy()
    clip = Recording(samples=tiny.clips(1)[0].numpy())
    prompts = [[picture, "What?"], [clip, "a", picture, "and a longer question"]]
    written = complete(model, processor, prompts, max_new_tokens=5)
    assert model.training
    assert len(written) == 2
    one_by_one = [complete(model, processor, [p], max_new_tokens=5)[0] for p in prompts]
    assert (
        written == one_by_one == complete(model, processor, prompts, max_new_tokens=5, static=True)
    )
    assert len(set(written)) == 2
    # The only thing this model can say is </s>.
    others = [i for i in range(300) if i != tokenizer.eos_token_id]
    model.generation_config.suppress_tokens = others
    assert complete(model, processor, prompts, max_new_tokens=5, num_beams=3) == ["", ""]
    torch.manual_seed(0)
    assert complete(model, processor, prompts, max_new_tokens=5, temperature=2.0) == ["", ""]


NAMES = ("image", "audio", "mask", "emb")
