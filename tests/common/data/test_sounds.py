"""Generated sounds: what is held out, and that every attribute can be measured in the recording."""

from itertools import combinations

import numpy as np
import pytest
from scipy.ndimage import uniform_filter1d
from scipy.signal import hilbert
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from common.data.document import SAMPLE_RATE_HZ
from common.data.embedded.sound_captions import (
    full_sound_caption,
    partial_sound_caption,
    sound_questions,
)
from common.data.embedded.sounds import (
    EVENT_COUNTS,
    HELD_OUT_SOUND_PAIRS,
    PITCHES_HZ,
    SOUND_ATTRIBUTES,
    Sound,
    SoundSplit,
    draw_sound,
    render_sound,
    sounds_in,
)

FRAME = 160  # samples of 10 ms


def recording_of(sound: Sound, seed: int = 0) -> np.ndarray:
    return render_sound(sound, np.random.default_rng(seed)).samples


def events_of(samples: np.ndarray) -> list[tuple[int, int]]:
    """First and last frame of every stretch that is louder than the noise."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    loudness = np.sqrt((frames**2).mean(axis=1))
    # Every recording has silent frames. Clicks leave a frame or two silent between them.
    noise = np.percentile(loudness, 10)
    loud = np.flatnonzero(loudness > max(0.12 * loudness.max(), 1.5 * noise))
    starts = [loud[0], *loud[1:][np.diff(loud) > 4]]
    ends = [*loud[:-1][np.diff(loud) > 4], loud[-1]]
    return list(zip(starts, ends, strict=True))


def first_event(samples: np.ndarray) -> np.ndarray:
    first, last = events_of(samples)[0]
    return samples[first * FRAME : (last + 1) * FRAME].astype(float)


def lowest_strong(event: np.ndarray) -> float:
    """Frequency (Hz) of the lowest partial."""
    power = np.abs(np.fft.rfft(event * np.hanning(len(event)))) ** 2
    bin_ = np.flatnonzero(power > 0.2 * power.max())[0]
    return float(bin_ * SAMPLE_RATE_HZ / len(event))


def timbre(event: np.ndarray) -> list[float]:
    """Numbers that tell kinds apart whatever the pitch: rise and wavering of the pitch, overtones,
    wavering of the loudness, and how many partials share the power."""
    analytic = hilbert(event)
    pieces = (analytic[1:] * analytic[:-1].conj())[: len(event) // 80 * 80 - 80]
    turn = pieces.reshape(-1, 80).sum(axis=1)  # 5 ms each
    weight = np.abs(turn) / np.abs(turn).sum()
    hertz = np.angle(turn) / (weight @ np.angle(turn)) - 1
    time = np.linspace(-1, 1, len(hertz))
    time -= weight @ time
    rise = (weight @ (hertz * time)) / (weight @ time**2)
    wavering = np.sqrt(weight @ (hertz - rise * time) ** 2)

    power = np.abs(np.fft.rfft(event * np.hanning(len(event)))) ** 2
    power /= power.sum()
    overtones = power[round(1.6 * lowest_strong(event) * len(event) / SAMPLE_RATE_HZ) :].sum()
    partials = -(power * np.log(power + 1e-12)).sum()

    loudness = uniform_filter1d(np.abs(analytic), 32)
    unrest = np.log((loudness / uniform_filter1d(loudness, 1200)).std())
    return [3 * rise, 5 * wavering, 2 * overtones, unrest, partials]


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
    for seed, sound in enumerate((*sounds_in("unseen_sounds"), *sounds_in("unseen_pairs"))):
        samples = recording_of(sound, seed=seed)
        assert len(events_of(samples)) == EVENT_COUNTS[sound.count], sound
        event = first_event(samples)
        assert (len(event) / SAMPLE_RATE_HZ > 0.14) == (sound.pace == "slow"), sound
        half = len(event) // 2
        louder_first = (event[:half] ** 2).sum() > (event[half:] ** 2).sum()
        assert louder_first == (sound.shape == "fading"), sound


def test_pitch_can_be_measured() -> None:
    for seed, sound in enumerate((*sounds_in("unseen_sounds"), *sounds_in("unseen_pairs"))):
        lowest = lowest_strong(first_event(recording_of(sound, seed=seed)))
        nearest = min(PITCHES_HZ, key=lambda name: abs(np.log(lowest / PITCHES_HZ[name])))
        assert nearest == sound.pitch, sound


def test_the_kind_can_be_measured_where_kind_and_pitch_were_never_heard_together() -> None:
    def measured(split: SoundSplit) -> tuple[np.ndarray, list[str]]:
        sounds = [sound for sound in sounds_in(split) for _ in range(2)]
        recordings = [recording_of(sound, seed=seed) for seed, sound in enumerate(sounds)]
        table = [timbre(first_event(samples)) for samples in recordings]
        return np.array(table), [sound.kind for sound in sounds]

    classifier = QuadraticDiscriminantAnalysis(reg_param=0.01).fit(*measured("train"))
    assert classifier.score(*measured("unseen_sounds")) > 0.93
    assert classifier.score(*measured("unseen_pairs")) > 0.93


def test_loudness_says_nothing() -> None:
    levels: dict[str, list[float]] = {
        word: [] for words in SOUND_ATTRIBUTES.values() for word in words
    }
    for seed, sound in enumerate(sounds_in("train") * 4):
        peak = float(np.abs(recording_of(sound, seed=seed)).max())
        for name in SOUND_ATTRIBUTES:
            levels[sound.value(name)].append(peak)
    assert all(np.mean(peaks) == pytest.approx(0.55, abs=0.09) for peaks in levels.values())
    assert all(np.ptp(peaks) > 0.7 for peaks in levels.values())


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
