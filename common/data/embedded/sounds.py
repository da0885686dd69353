"""Short synthetic sounds: a sound is one to three equal events, told by five attributes, and a
recording of it is rendered with jitter and noise. Some kind-pitch pairs and some whole attribute
combinations never occur in training. Loudness carries nothing: every recording has its own."""

from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import product
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Float64

from common.data.document import SAMPLE_RATE_HZ, Recording

SoundAttribute = Literal["kind", "pitch", "count", "pace", "shape"]
SoundSplit = Literal["train", "unseen_sounds", "unseen_pairs"]

KINDS = ("tone", "buzz", "hiss", "warble", "chirp", "rattle")
# Even the sweep of a chirp stays clear of the next pitch, and two harmonics fit below 8 kHz.
PITCHES_HZ = {"low": 300.0, "middle": 720.0, "high": 1650.0, "shrill": 3650.0}
EVENT_COUNTS = {"one": 1, "two": 2, "three": 3}
PACES_S = {"slow": (0.22, 0.11), "fast": (0.10, 0.07)}  # length of an event, gap to the next
SHAPES = ("fading", "swelling")
SOUND_ATTRIBUTES: dict[SoundAttribute, tuple[str, ...]] = {
    "kind": KINDS,
    "pitch": tuple(PITCHES_HZ),
    "count": tuple(EVENT_COUNTS),
    "pace": tuple(PACES_S),
    "shape": SHAPES,
}
# Each kind loses one pitch of four; each pitch keeps at least four of the six kinds.
HELD_OUT_SOUND_PAIRS = frozenset(
    {
        ("tone", "shrill"),
        ("buzz", "middle"),
        ("hiss", "high"),
        ("warble", "high"),
        ("chirp", "middle"),
        ("rattle", "low"),
    }
)
HELD_OUT_SOUND_LAYOUTS = 4  # of the 12 combinations of count, pace and shape, for each seen pair
SHORTEST_S, LONGEST_S = 0.5, 1.0  # of all embedded sounds
HARMONICS = np.arange(1, 7, dtype=np.float32)[:, None, None]  # of a buzz


@dataclass(frozen=True, kw_only=True)
class Sound:
    """What a recording lets hear; each value is the word for it."""

    kind: str
    pitch: str
    count: str
    pace: str
    shape: str

    def value(self, attribute: SoundAttribute) -> str:
        """The word for one attribute: `sound.value("pitch") == "low"`."""
        return str(getattr(self, attribute))


def split_of_sound(sound: Sound) -> SoundSplit:
    """The one split in which a sound occurs."""
    if (sound.kind, sound.pitch) in HELD_OUT_SOUND_PAIRS:
        return "unseen_pairs"
    held_out = _held_out_layouts(sound.kind, sound.pitch)
    layout = (sound.count, sound.pace, sound.shape)
    return "unseen_sounds" if layout in held_out else "train"


@cache
def sounds_in(split: SoundSplit) -> tuple[Sound, ...]:
    """All sounds of a split, in a fixed order."""
    if split not in get_args(SoundSplit):
        raise ValueError(f"{split=} is not one of {', '.join(get_args(SoundSplit))}")
    combinations = product(*SOUND_ATTRIBUTES.values())
    sounds = (Sound(**dict(zip(SOUND_ATTRIBUTES, words, strict=True))) for words in combinations)
    return tuple(sound for sound in sounds if split_of_sound(sound) == split)


def draw_sound(generator: np.random.Generator, *, split: SoundSplit) -> Sound:
    """One sound of the split, all equally likely."""
    sounds = sounds_in(split)
    return sounds[int(generator.integers(len(sounds)))]


def render_sound(sound: Sound, generator: np.random.Generator) -> Recording:
    """A recording of the sound, 0.5 to 1 s long: clear events on a noisy ground."""
    count = EVENT_COUNTS[sound.count]
    event_s, gap_s = np.array(PACES_S[sound.pace]) * generator.uniform(0.94, 1.06, 2)
    pitch = PITCHES_HZ[sound.pitch] * generator.uniform(0.95, 1.05)
    pitches = pitch * generator.uniform(0.99, 1.01, count)  # events differ a little
    events = _waves(sound.kind, pitches, generator, num_samples=round(event_s * SAMPLE_RATE_HZ))
    events *= _envelope(sound.shape, num_samples=events.shape[1])

    length_s = max(SHORTEST_S, count * event_s + (count - 1) * gap_s + 0.04)
    length_s = min(length_s + generator.uniform(0, 0.12), LONGEST_S)
    samples = generator.standard_normal(round(length_s * SAMPLE_RATE_HZ), dtype=np.float32)
    samples *= generator.uniform(0.01, 0.04)  # noise
    step = events.shape[1] + round(gap_s * SAMPLE_RATE_HZ)
    slack = len(samples) - (count - 1) * step - events.shape[1]
    start = int(generator.integers(slack + 1))
    for event in events:
        samples[start : start + len(event)] += event
        start += step
    samples *= generator.uniform(0.15, 0.95) / np.abs(samples).max()
    return Recording(samples=samples)


@cache
def _held_out_layouts(kind: str, pitch: str) -> frozenset[tuple[str, ...]]:
    """The layouts of a pair with the smallest hashes: arbitrary, fixed, equally many for all."""

    def digest(layout: tuple[str, ...]) -> bytes:
        return blake2b(" ".join((kind, pitch, *layout)).encode(), digest_size=8).digest()

    layouts = product(EVENT_COUNTS, PACES_S, SHAPES)
    return frozenset(sorted(layouts, key=digest)[:HELD_OUT_SOUND_LAYOUTS])


def _envelope(shape: str, *, num_samples: int) -> Float32[np.ndarray, " t"]:
    """Full loudness falling steadily to a tenth, or the reverse, with edges of 4 ms."""
    fall = np.linspace(1, 0.1, num_samples, dtype=np.float32)
    edge = SAMPLE_RATE_HZ // 250
    ramp = np.linspace(0, 1, edge, dtype=np.float32)
    fall[:edge] *= ramp
    fall[-edge:] *= ramp[::-1]
    return fall if shape == "fading" else fall[::-1]


def _waves(
    kind: str,
    pitches: Float64[np.ndarray, " m"],
    generator: np.random.Generator,
    *,
    num_samples: int,
) -> Float32[np.ndarray, "m t"]:
    """One wave of even loudness, about 1 at its peaks, for each pitch (Hz)."""
    if kind == "hiss":
        return _band_noise(pitches, generator, num_samples=num_samples)
    time = np.arange(num_samples, dtype=np.float32) / SAMPLE_RATE_HZ
    radians = (2 * np.pi * pitches[:, None]).astype(np.float32)  # per second
    start = generator.uniform(0, 2 * np.pi, (len(pitches), 1)).astype(np.float32)
    if kind == "tone":
        return np.sin(radians * time + start)
    if kind == "buzz":
        audible = HARMONICS[HARMONICS[:, 0, 0] * pitches.max() < SAMPLE_RATE_HZ / 2]
        return (np.sin(audible * (radians * time + start)) / np.sqrt(audible)).sum(axis=0) / 2
    if kind == "warble":
        rate = 2 * np.pi * generator.uniform(18, 22)
        # The pitch swings by 20 % either way; its integral is the phase.
        swing = 0.2 / rate * np.sin(rate * time + start).astype(np.float32)
        return np.sin(radians * (time + swing))
    if kind == "chirp":
        # From pitch / 1.3 to pitch * 1.3, by equal intervals in equal times.
        duration, octaves = time[-1], 2 * np.log(1.3)
        sweep = duration / octaves * np.exp(octaves * (time / duration - 0.5))
        return np.sin(radians * sweep.astype(np.float32) + start)
    return _clicks(time, radians, every_s=generator.uniform(0.026, 0.030))


def _band_noise(
    pitches: Float64[np.ndarray, " m"], generator: np.random.Generator, *, num_samples: int
) -> Float32[np.ndarray, "m t"]:
    """Noise in a bell-shaped band around each pitch, a fifth of the pitch to either side."""
    period = 1 << (num_samples - 1).bit_length()
    frequencies = np.fft.rfftfreq(period, 1 / SAMPLE_RATE_HZ)
    centre = pitches[:, None]
    bell = np.exp(-0.5 * ((frequencies - centre) / (0.2 * centre)) ** 2)
    spectrum = generator.standard_normal((2, *bell.shape)) * bell
    noise = np.fft.irfft(spectrum[0] + 1j * spectrum[1], axis=1)[:, :num_samples]
    noise /= 2 * noise.std(axis=1, keepdims=True)
    return noise.astype(np.float32)


def _clicks(
    time: Float32[np.ndarray, " t"], radians: Float32[np.ndarray, "m 1"], *, every_s: float
) -> Float32[np.ndarray, "m t"]:
    """A train of clicks: pulses that ring at the pitch and die within a few milliseconds."""
    since_click = np.mod(time, np.float32(every_s))
    return np.sin(radians * since_click) * np.exp(since_click / np.float32(-0.004))
