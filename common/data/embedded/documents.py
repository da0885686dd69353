"""Embedded training data: image-caption pairs and interleaved documents of scenes and digits. Every
function maps (seed, index, split) to one example and nothing else decides what it holds. In every
document a text speaks of the image right before it."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from common.data.document import Document, Image
from common.data.embedded.captions import (
    full_caption,
    partial_caption,
    questions,
)
from common.data.embedded.digits import DigitSplit, digit_caption, draw_digit
from common.data.embedded.scenes import ATTRIBUTES, Scene, Split, draw_scene, render
from common.data.prompts import OUTPUT_PROMPT, completed, question_prompt
from common.data.randomness import generator_at

Example: TypeAlias = tuple[Image, str]

ORDINALS = ("first", "second", "third", "fourth", "fifth")


def caption_document(seed: int, index: int, split: Split) -> Document:
    """One scene and its full caption: `[image, "Output: two small red circles on the left"]`."""

    def example(generator: np.random.Generator) -> Example:
        scene = draw_scene(generator, split=split)
        text = completed(OUTPUT_PROMPT, full_caption(scene))
        return render(scene, generator), text

    return _repeated("caption", example, seed=seed, index=index, split=split, num_images=1)


def digit_document(seed: int, index: int, split: Split) -> Document:
    """One digit and its caption: `[image, "Output: a handwritten seven"]`."""

    def example(generator: np.random.Generator) -> Example:
        image, word = draw_digit(generator, split=digit_split(split))
        return image, completed(OUTPUT_PROMPT, digit_caption(word))

    return _repeated("digit", example, seed=seed, index=index, split=split, num_images=1)


def question_document(seed: int, index: int, split: Split) -> Document:
    """Three scenes, each with one question: `[image, "Question: ... Short answer: red", ...]`."""

    def example(generator: np.random.Generator) -> Example:
        scene = draw_scene(generator, split=split)
        asked = questions(scene)
        chosen = asked[int(generator.integers(len(asked)))]
        return render(scene, generator), completed(question_prompt(chosen.question), chosen.answer)

    return _repeated("question", example, seed=seed, index=index, split=split, num_images=3)


def interleaved_document(seed: int, index: int, split: Split) -> Document:
    """Two to five scenes in prose: `[image, "The first picture shows two red circles.", ...]`."""
    key, generator = _start("interleaved", seed=seed, index=index, split=split)
    parts: list[str | Image] = []
    for ordinal in ORDINALS[: int(generator.integers(2, len(ORDINALS) + 1))]:
        scene = draw_scene(generator, split=split)
        parts += [render(scene, generator), _sentence(scene, generator, ordinal=ordinal)]
    return Document(key=key, parts=tuple(parts))


def digit_split(split: Split) -> DigitSplit:
    """The digits that go with a split of the scenes."""
    return "train" if split == "train" else "held_out"


def _start(kind: str, *, seed: int, index: int, split: Split) -> tuple[str, np.random.Generator]:
    key = f"{kind}/{split}/{seed}/{index}"
    return key, generator_at(seed=seed, index=index, stream=f"{kind}/{split}")


def _repeated(
    kind: str,
    example: Callable[[np.random.Generator], Example],
    *,
    seed: int,
    index: int,
    split: Split,
    num_images: int,
) -> Document:
    key, generator = _start(kind, seed=seed, index=index, split=split)
    parts = [part for _ in range(num_images) for part in example(generator)]
    return Document(key=key, parts=tuple(parts))


def _sentence(scene: Scene, generator: np.random.Generator, *, ordinal: str) -> str:
    """One sentence of prose about the picture before it."""
    style = int(generator.integers(3))
    if style == 0:
        return f"The {ordinal} picture shows {partial_caption(scene, generator)}."
    if style == 1:
        return f"Above we see {partial_caption(scene, generator)}."
    first, second = generator.permutation(list(ATTRIBUTES))[:2].tolist()
    return (
        f"In the {ordinal} picture the {first} is {scene.value(first)} "
        f"and the {second} is {scene.value(second)}."
    )
