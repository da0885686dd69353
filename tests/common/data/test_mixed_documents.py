"""Documents of text, pictures and recordings; spoken digits with and without a synthesiser."""

import subprocess

import numpy as np
import pytest

from common.data.document import Document, Recording
from common.data.embedded import mixed_documents, speech
from common.data.embedded.digits import DIGIT_WORDS
from common.errors import UserError

KINDS = (
    mixed_documents.image_caption,
    mixed_documents.sound_caption,
    mixed_documents.digit_caption,
    mixed_documents.image_question,
    mixed_documents.sound_question,
    mixed_documents.scene_and_sound,
)
needs_speech = pytest.mark.skipif(not speech.is_available(), reason="espeak-ng is not installed")


def media(document: Document) -> list[np.ndarray]:
    return [
        part.samples if isinstance(part, Recording) else part
        for part in document.parts
        if not isinstance(part, str)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_is_a_function_of_its_place(kind: object) -> None:
    one, again, next_one, held_out = (
        kind(3, index, split)  # type: ignore[operator]  # one of KINDS
        for index, split in ((5, "train"), (5, "train"), (6, "train"), (5, "unseen"))
    )
    assert one.key == again.key
    texts = [[part for part in d.parts if isinstance(part, str)] for d in (one, again)]
    assert texts[0] == texts[1]
    assert all(np.array_equal(a, b) for a, b in zip(media(one), media(again), strict=True))
    assert len({one.key, next_one.key, held_out.key}) == 3
    assert not np.array_equal(media(one)[0], media(held_out)[0])


def test_only_a_document_of_one_medium_has_a_caption_to_contrast() -> None:
    for kind in KINDS:
        document = kind(0, 0, "train")
        if document.caption is not None:
            assert len(media(document)) == 1
            assert document.parts[-1].endswith(document.caption)
    assert mixed_documents.scene_and_sound(0, 0, "train").caption is None


def test_scene_and_sound_speaks_of_each_medium_right_after_it() -> None:
    orders = set()
    for index in range(20):
        document = mixed_documents.scene_and_sound(0, index, "train")
        first, seen, second, heard, both = document.parts
        assert isinstance(first, Recording) != isinstance(second, Recording)
        orders.add(isinstance(first, Recording))
        assert all(isinstance(text, str) for text in (seen, heard, both))
        assert "picture" in both
        assert "sound" in both
    assert orders == {True, False}


def test_without_a_synthesiser_speech_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not speech.is_available()
    speech.speak.cache_clear()
    with pytest.raises(UserError, match="install it"):
        mixed_documents.spoken_digit(0, 0, "train")


def test_a_synthesiser_that_hangs_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout=20)

    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr("subprocess.run", hang)
    with pytest.raises(UserError, match=r"cannot speak as en-xx: .*timed out") as error:
        speech.speak("seven", speaker=speech.Speaker(voice="en-xx", speed=160, pitch=50))
    assert "\n" not in str(error.value)


@needs_speech
def test_every_voice_speaks_and_one_is_held_out() -> None:
    generator = np.random.default_rng(0)
    assert not set(speech.VOICES["train"]) & set(speech.VOICES["held_out"])
    spoken = {
        voice: speech.speak("seven", speaker=speech.Speaker(voice=voice, speed=160, pitch=50))
        for voices in speech.VOICES.values()
        for voice in voices
    }
    lengths = {voice: len(recording.samples) for voice, recording in spoken.items()}
    assert all(4_000 < length < 24_000 for length in lengths.values())
    recording, word = speech.draw_spoken_digit(generator, split="held_out")
    assert word in DIGIT_WORDS
    assert 0.1 < np.abs(recording.samples).max() <= 1


@needs_speech
def test_a_spoken_digit_has_its_caption() -> None:
    document = mixed_documents.spoken_digit(0, 4, "unseen")
    assert document.caption is not None
    assert document.caption.split()[-1] in DIGIT_WORDS
