"""Spoken digits, zero to nine, by the speech synthesiser espeak-ng where it is installed: several
voices at several speeds and pitches, one of the voices held out. Each is spoken once and kept."""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from common.data.audio import read_audio
from common.data.document import Recording
from common.data.embedded.digits import DIGIT_WORDS
from common.errors import UserError

VoiceSplit = Literal["train", "held_out"]

PROGRAM = "espeak-ng"
VOICES: dict[VoiceSplit, tuple[str, ...]] = {
    "train": ("en-gb", "en-us", "en-gb-scotland", "en-029", "en-us+f3"),
    "held_out": ("en-gb-x-rp+f2",),
}
SPEEDS = (130, 160, 190)  # words per minute
PITCHES = (35, 50, 65)  # of the program's 0 to 99
TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A manner of speaking."""

    voice: str
    speed: int
    pitch: int


def is_available() -> bool:
    """Whether the synthesiser is installed."""
    return shutil.which(PROGRAM) is not None


def speakers_in(split: VoiceSplit) -> tuple[Speaker, ...]:
    """All manners of speaking of a split, in a fixed order."""
    return tuple(
        Speaker(voice=voice, speed=speed, pitch=pitch)
        for voice, speed, pitch in product(VOICES[split], SPEEDS, PITCHES)
    )


def draw_spoken_digit(
    generator: np.random.Generator, *, split: VoiceSplit
) -> tuple[Recording, str]:
    """A recording with its own loudness and noise, and the word that is spoken.

    Raises:
        UserError: the synthesiser is not installed or fails.
    """
    speakers = speakers_in(split)
    word = DIGIT_WORDS[int(generator.integers(len(DIGIT_WORDS)))]
    spoken = speak(word, speaker=speakers[int(generator.integers(len(speakers)))]).samples
    loudness = generator.uniform(0.15, 0.95) / max(float(np.abs(spoken).max()), 1e-6)
    noise = generator.standard_normal(len(spoken), dtype=np.float32)
    samples = loudness * (spoken + generator.uniform(0.001, 0.01) * noise)
    return Recording(samples=np.clip(samples, -1, 1).astype(np.float32)), word


def spoken_caption(word: str) -> str:
    """`a voice says seven`"""
    return f"a voice says {word}"


@cache
def speak(word: str, *, speaker: Speaker) -> Recording:
    """The word as the synthesiser says it. Do not write into its samples.

    Raises:
        UserError: the synthesiser is not installed or fails.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise UserError(f"speech needs the program {PROGRAM}; install it or leave speech out")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spoken.wav"
        manner = ["-v", speaker.voice, "-s", str(speaker.speed), "-p", str(speaker.pitch)]
        command = [program, *manner, "-w", str(file), word]
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=TIMEOUT_S)
        except (subprocess.SubprocessError, OSError) as error:
            raise UserError(f"{PROGRAM} cannot speak as {speaker.voice}: {error}") from error
        return read_audio(file)
