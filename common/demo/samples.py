"""Inputs to try at once: scenes and sounds of the embedded data, none of them trained on, as files
in a folder, with what can be asked about them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import PIL.Image

from common.data.document import SAMPLE_RATE_HZ, Recording
from common.data.embedded.captions import full_caption
from common.data.embedded.scenes import draw_scene, render
from common.data.embedded.sound_captions import full_sound_caption
from common.data.embedded.sounds import draw_sound, render_sound

SIDE = 224  # of the pictures, larger than the models' own so that they look well
NUM = 6  # of pictures and of sounds, no two of which have the same caption


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A file and what is to be seen or heard in it."""

    file: Path
    caption: str
    word: str  # the colour of a scene, the kind of a sound


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What the page offers to a visitor who brings nothing."""

    pictures: list[Sample]
    sounds: list[Sample]


def write_samples(folder: Path) -> Samples:
    """Draw them and write them into the folder."""
    return Samples(pictures=_different(_picture, folder), sounds=_different(_sound, folder))


def _different(draw: Callable[[Path, int], Sample], folder: Path) -> list[Sample]:
    found: dict[str, Sample] = {}
    for number in count():
        sample = draw(folder, number)
        found.setdefault(sample.caption, sample)
        if len(found) == NUM:
            break
    return list(found.values())


def _picture(folder: Path, number: int) -> Sample:
    generator = np.random.default_rng([1, number])
    scene = draw_scene(generator, split="unseen_scenes")
    file = folder / f"scene_{number}.png"
    PIL.Image.fromarray(render(scene, generator, side=SIDE)).save(file)
    return Sample(file=file, caption=full_caption(scene), word=scene.colour)


def _sound(folder: Path, number: int) -> Sample:
    generator = np.random.default_rng([2, number])
    sound = draw_sound(generator, split="unseen_sounds")
    file = folder / f"sound_{number}.wav"
    _write_sound(render_sound(sound, generator), file)
    return Sample(file=file, caption=full_sound_caption(sound), word=sound.kind)


def _write_sound(recording: Recording, file: Path) -> None:
    import soundfile  # noqa: PLC0415 -- loads a library; most of the code never needs it

    soundfile.write(file, recording.samples, SAMPLE_RATE_HZ)
