"""Generated sounds: what is held out, and that every attribute can be measured in the recording."""

from itertools import combinations

import numpy as np
import pytest

from common.data.document import SAMPLE_RATE_HZ
from common.data.embedded.families import member_at, sound_of
from common.data.embedded.sound_captions import (
    full_sound_caption,
    partial_sound_caption,
    sound_questions,
)
from common.data.embedded.sounds import (
    EVENT_COUNTS,
    HELD_OUT_SOUND_PAIRS,
    KINDS,
    PITCHES_HZ,
    SOUND_ATTRIBUTES,
    Sound,
    draw_sound,
    render_sound,
    sounds_in,
    split_of_sound,
)

FRAME = 160  # samples of 10 ms


def recording_of(sound: Sound, seed: int = 0) -> np.ndarray:
    return render_sound(sound, np.random.default_rng(seed)).samples


def events_of(samples: np.ndarray) -> list[tuple[int, int]]:
    """First and last frame of every stretch that is louder than the noise."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    loudness = np.sqrt((frames**2).mean(axis=1))
    # Clicks leave a frame or two silent between them; noise stays below a tenth of the loudest.
    loud = np.flatnonzero(loudness > 0.12 * loudness.max())
    starts = [loud[0], *loud[1:][np.diff(loud) > 4]]
    ends = [*loud[:-1][np.diff(loud) > 4], loud[-1]]
    return list(zip(starts, ends, strict=True))


def test_splits_are_disjoint_and_hold_enough_captions_to_compete() -> None:
    splits = {name: set(sounds_in(name)) for name in ("train", "unseen_sounds", "unseen_pairs")}
    assert {name: len(sounds) for name, sounds in splits.items()} == {
        "train": 144,
        "unseen_sounds": 72,
        "unseen_pairs": 72,
    }
    for one, other in combinations(splits.values(), 2):
        assert not one & other
    captions = {full_sound_caption(s) for sounds in splits.values() for s in sounds}
    assert len(captions) == 288


def test_what_is_never_heard_together_is_heard_apart() -> None:
    trained = sounds_in("train")
    assert not HELD_OUT_SOUND_PAIRS & {(s.kind, s.pitch) for s in trained}
    for kind, pitch in HELD_OUT_SOUND_PAIRS:
        assert sum(s.kind == kind for s in trained) >= 16
        assert sum(s.pitch == pitch for s in trained) >= 16


def test_a_recording_is_a_function_of_its_generator_and_fits_a_second() -> None:
    for sound in sounds_in("unseen_sounds"):
        samples = recording_of(sound)
        assert samples.dtype == np.float32
        assert 0.5 <= len(samples) / SAMPLE_RATE_HZ <= 1.0
        assert 0.1 < np.abs(samples).max() <= 1
        assert np.array_equal(samples, recording_of(sound))
        assert not np.array_equal(samples[:4000], recording_of(sound, seed=1)[:4000])


def test_count_pace_and_shape_can_be_measured() -> None:
    right = {"count": 0, "pace": 0, "shape": 0}
    sounds = [s for split in ("unseen_sounds", "unseen_pairs") for s in sounds_in(split)]
    for sound in sounds:
        samples = recording_of(sound)
        events = events_of(samples)
        right["count"] += len(events) == EVENT_COUNTS[sound.count]
        first, last = events[0]
        event = samples[first * FRAME : (last + 1) * FRAME]
        right["pace"] += (len(event) / SAMPLE_RATE_HZ > 0.14) == (sound.pace == "slow")
        half = len(event) // 2
        louder_first = (event[:half] ** 2).sum() > (event[half:] ** 2).sum()
        right["shape"] += louder_first == (sound.shape == "fading")
    assert {name: number / len(sounds) for name, number in right.items()} == {
        name: pytest.approx(1, abs=0.06) for name in right
    }


def test_pitch_can_be_measured() -> None:
    sounds = [s for s in sounds_in("unseen_sounds") if s.kind in ("tone", "hiss", "chirp")]
    assert len(sounds) > 20
    for sound in sounds:
        samples = recording_of(sound)
        power = np.abs(np.fft.rfft(samples)) ** 2
        hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
        middle = (hertz * power).sum() / power.sum()
        nearest = min(PITCHES_HZ, key=lambda name: abs(np.log(middle / PITCHES_HZ[name])))
        assert nearest == sound.pitch


def test_kinds_of_the_same_pitch_sound_different() -> None:
    spectra = {}
    for kind in KINDS:
        sound = Sound(kind=kind, pitch="low", count="one", pace="slow", shape="fading")
        power = np.abs(np.fft.rfft(recording_of(sound)[:8000])) ** 2
        spectra[kind] = power / np.linalg.norm(power)
    for one, other in combinations(KINDS, 2):
        assert spectra[one] @ spectra[other] < 0.9


def test_members_of_a_family_differ_in_one_attribute() -> None:
    for family in range(30):
        first, *others = (
            sound_of(member_at(seed=5, index=4 * family + i, family_size=4, stream="x"))
            for i in range(4)
        )
        for other in others:
            values = [(first.value(name), other.value(name)) for name in SOUND_ATTRIBUTES]
            assert sum(a != b for a, b in values) == 1
            assert split_of_sound(other) == "train"


def test_partial_captions_and_answers_are_true() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        sound = draw_sound(generator, split="train")
        words = partial_sound_caption(sound, generator).split()
        for name, values in SOUND_ATTRIBUTES.items():
            named = [value for value in values if value in words]
            assert named in ([], [sound.value(name)])
        for question in sound_questions(sound):
            assert question.answer == sound.value(question.attribute)
