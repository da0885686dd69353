"""English for scenes: full and partial captions, and questions with one-word answers. Captions
leave attributes out at random, so that each word has to be bound to what it alone names."""

from dataclasses import dataclass

import numpy as np

from common.data.embedded.scenes import ATTRIBUTES, Attribute, Scene

FULL_CAPTION_SHARE = 0.4  # of the drawn captions name every attribute
POSITION_PHRASES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "cross": "crosses",
    "ring": "rings",
    "bar": "bars",
    "shape": "shapes",
}
OPENINGS = ("", "", "", "a picture of ", "here we see ", "this shows ")
QUESTIONS: dict[Attribute, tuple[str, ...]] = {
    "colour": ("What colour is shown?", "Which colour do you see?"),
    "shape": ("What shape is shown?", "Which shape do you see?"),
    "count": ("How many shapes are there?", "How many shapes do you see?"),
    "position": ("On which side is it?", "Where is it?"),
    "size": ("What size is shown?", "Which size do you see?"),
}


@dataclass(frozen=True, kw_only=True)
class QuestionAnswer:
    """One question about a picture and its one-word answer."""

    attribute: Attribute
    question: str
    answer: str


def full_caption(scene: Scene) -> str:
    """The caption that names everything: `two small red circles on the left`."""
    return _phrase(scene, named=frozenset(ATTRIBUTES))


def caption(scene: Scene, generator: np.random.Generator) -> str:
    """A drawn caption: `a picture of two red circles`, `something large at the top`."""
    opening = OPENINGS[int(generator.integers(len(OPENINGS)))]
    return opening + partial_caption(scene, generator)


def partial_caption(scene: Scene, generator: np.random.Generator) -> str:
    """A phrase, true of the scene, that names all or at least one of its attributes."""
    if generator.random() < FULL_CAPTION_SHARE:
        return full_caption(scene)
    subset = int(generator.integers(1, 2 ** len(ATTRIBUTES)))
    named = frozenset(name for bit, name in enumerate(ATTRIBUTES) if subset >> bit & 1)
    return _phrase(scene, named=named)


def questions(scene: Scene) -> tuple[QuestionAnswer, ...]:
    """Every question about the scene with its answer, grouped by attribute in a fixed order."""
    return tuple(
        QuestionAnswer(attribute=attribute, question=question, answer=scene.value(attribute))
        for attribute, wordings in QUESTIONS.items()
        for question in wordings
    )


def _phrase(scene: Scene, *, named: frozenset[Attribute]) -> str:
    """A noun phrase with exactly the named attributes, in the order of English."""
    if not named & {"count", "shape"}:
        described = ["something"]
        described += [scene.value(name) for name in ("size", "colour") if name in named]
    else:
        described = [scene.value(name) for name in ("count", "size", "colour") if name in named]
        noun = scene.shape if "shape" in named else "shape"
        described.append(noun if scene.count == "one" else PLURALS[noun])
        if "count" not in named and scene.count == "one":
            described.insert(0, "an" if described[0][0] in "aeiou" else "a")
    if "position" in named:
        described.append(POSITION_PHRASES[scene.position])
    return " ".join(described)
