"""Embedded training data that mixes text, pictures and recordings. Every function maps (seed,
index, split) to one document and nothing else decides what it holds; its texts speak of the media
right before them. A document of one medium also has the caption to contrast with that medium."""

from typing import Literal, TypeAlias

import numpy as np

from common.data.document import Document, Image, Recording
from common.data.embedded import digits
from common.data.embedded.captions import full_caption, partial_caption, questions
from common.data.embedded.documents import digit_split
from common.data.embedded.scenes import Scene, Split, draw_scene, render
from common.data.embedded.sound_captions import (
    full_sound_caption,
    partial_sound_caption,
    sound_questions,
)
from common.data.embedded.sounds import Sound, SoundSplit, draw_sound, render_sound
from common.data.embedded.speech import draw_spoken_digit, spoken_caption
from common.data.prompts import OUTPUT_PROMPT, completed, question_prompt
from common.data.randomness import generator_at

MixedSplit = Literal["train", "unseen", "unseen_pairs"]
Part: TypeAlias = str | Image | Recording

SCENE_SPLITS: dict[MixedSplit, Split] = {
    "train": "train",
    "unseen": "unseen_scenes",
    "unseen_pairs": "unseen_pairs",
}
SOUND_SPLITS: dict[MixedSplit, SoundSplit] = {
    "train": "train",
    "unseen": "unseen_sounds",
    "unseen_pairs": "unseen_pairs",
}


def image_caption(seed: int, index: int, split: MixedSplit) -> Document:
    """One scene and its full caption: `[image, "Output: two small red circles on the left"]`."""
    key, generator = _start("image_caption", seed=seed, index=index, split=split)
    scene = draw_scene(generator, split=SCENE_SPLITS[split])
    return scene_document(scene, generator, key=key)


def sound_caption(seed: int, index: int, split: MixedSplit) -> Document:
    """One sound and its full caption: `[recording, "Output: two slow fading low buzzes"]`."""
    key, generator = _start("sound_caption", seed=seed, index=index, split=split)
    sound = draw_sound(generator, split=SOUND_SPLITS[split])
    return sound_document(sound, generator, key=key)


def digit_caption(seed: int, index: int, split: MixedSplit) -> Document:
    """One real digit and its caption: `[image, "Output: a handwritten seven"]`."""
    key, generator = _start("digit_caption", seed=seed, index=index, split=split)
    image, word = digits.draw_digit(generator, split=digit_split(SCENE_SPLITS[split]))
    return captioned(image, digits.digit_caption(word), key=key)


def spoken_digit(seed: int, index: int, split: MixedSplit) -> Document:
    """One spoken digit and its caption: `[recording, "Output: a voice says seven"]`.

    Splits other than `train` are spoken by a voice that training never hears.

    Raises:
        UserError: no speech synthesiser is installed; `speech.is_available()` tells.
    """
    key, generator = _start("spoken_digit", seed=seed, index=index, split=split)
    voices: Literal["train", "held_out"] = "train" if split == "train" else "held_out"
    recording, word = draw_spoken_digit(generator, split=voices)
    return captioned(recording, spoken_caption(word), key=key)


def image_question(seed: int, index: int, split: MixedSplit) -> Document:
    """One scene and one question: `[image, "Question: ... Short answer: red"]`."""
    key, generator = _start("image_question", seed=seed, index=index, split=split)
    scene = draw_scene(generator, split=SCENE_SPLITS[split])
    asked = questions(scene)
    chosen = asked[int(generator.integers(len(asked)))]
    text = completed(question_prompt(chosen.question), chosen.answer)
    return Document(key=key, parts=(render(scene, generator), text))


def sound_question(seed: int, index: int, split: MixedSplit) -> Document:
    """One sound and one question: `[recording, "Question: ... Short answer: low"]`."""
    key, generator = _start("sound_question", seed=seed, index=index, split=split)
    sound = draw_sound(generator, split=SOUND_SPLITS[split])
    asked = sound_questions(sound)
    chosen = asked[int(generator.integers(len(asked)))]
    text = completed(question_prompt(chosen.question), chosen.answer)
    return Document(key=key, parts=(render_sound(sound, generator), text))


def scene_and_sound(seed: int, index: int, split: MixedSplit) -> Document:
    """A scene and a sound in either order, each followed by its caption, then a sentence on both.

    `[image, "Output: two red circles", recording, "Output: a low buzz",
    "The picture shows something red, the sound is two slow low buzzes."]`
    """
    key, generator = _start("scene_and_sound", seed=seed, index=index, split=split)
    scene = draw_scene(generator, split=SCENE_SPLITS[split])
    sound = draw_sound(generator, split=SOUND_SPLITS[split])
    seen = completed(OUTPUT_PROMPT, partial_caption(scene, generator))
    heard = completed(OUTPUT_PROMPT, partial_sound_caption(sound, generator))
    picture: tuple[Part, ...] = (render(scene, generator), seen)
    noise: tuple[Part, ...] = (render_sound(sound, generator), heard)
    media = picture + noise if generator.random() < 0.5 else noise + picture
    sentence = (
        f"The picture shows {partial_caption(scene, generator)}, "
        f"the sound is {partial_sound_caption(sound, generator)}."
    )
    return Document(key=key, parts=(*media, sentence))


def scene_document(scene: Scene, generator: np.random.Generator, *, key: str) -> Document:
    """A picture of the scene with its full caption."""
    return captioned(render(scene, generator), full_caption(scene), key=key)


def sound_document(sound: Sound, generator: np.random.Generator, *, key: str) -> Document:
    """A recording of the sound with its full caption."""
    return captioned(render_sound(sound, generator), full_sound_caption(sound), key=key)


def captioned(medium: Image | Recording, caption: str, *, key: str) -> Document:
    """A medium and its caption, to be continued from the medium and to be contrasted with it."""
    parts = (medium, completed(OUTPUT_PROMPT, caption))
    return Document(key=key, parts=parts, caption=caption)


def _start(
    kind: str, *, seed: int, index: int, split: MixedSplit
) -> tuple[str, np.random.Generator]:
    key = f"{kind}/{split}/{seed}/{index}"
    return key, generator_at(seed=seed, index=index, stream=f"mixed/{kind}/{split}")
