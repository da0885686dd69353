"""Few-shot episodes: pictures with one-word answers, all about one attribute that nothing in the
prompt names. Only the shots show what is asked, so without shots the question is ambiguous and with
one shot it is not."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from common.data.document import Document, Image
from common.data.embedded.digits import DIGIT_WORDS, digits_in, draw_digit
from common.data.embedded.documents import digit_split
from common.data.embedded.scenes import (
    ATTRIBUTES,
    Attribute,
    Split,
    draw_scene,
    render,
    scenes_in,
)
from common.data.prompts import OUTPUT_PROMPT, completed
from common.data.randomness import generator_at

EpisodeAttribute = Attribute | Literal["digit"]

ANSWERS: dict[EpisodeAttribute, tuple[str, ...]] = {
    "colour": ATTRIBUTES["colour"],
    "shape": ATTRIBUTES["shape"],
    "count": ATTRIBUTES["count"],
    "position": ATTRIBUTES["position"],
    "size": ATTRIBUTES["size"],
    "digit": DIGIT_WORDS,
}
IMAGES_PER_DOCUMENT = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """A picture and its answer."""

    image: Image
    answer: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """Shots, and the query to be answered in their manner."""

    key: str
    attribute: EpisodeAttribute
    shots: tuple[Shot, ...]
    query: Shot

    def prompt(self) -> Document:
        """What a model is given: `[image, "Output: red", ..., image, "Output:"]`."""
        return Document(key=self.key, parts=(*self._shot_parts(), self.query.image, OUTPUT_PROMPT))

    def document(self) -> Document:
        """The prompt with the query's answer, for training."""
        text = completed(OUTPUT_PROMPT, self.query.answer)
        return Document(key=self.key, parts=(*self._shot_parts(), self.query.image, text))

    def _shot_parts(self) -> list[str | Image]:
        return [
            part
            for shot in self.shots
            for part in (shot.image, completed(OUTPUT_PROMPT, shot.answer))
        ]


def draw_episode(
    seed: int,
    index: int,
    split: Split,
    *,
    num_shots: int,
    attributes: Sequence[EpisodeAttribute] = tuple(ANSWERS),
) -> Episode:
    """The episode at a position, about one of `attributes`.

    The query does not depend on `num_shots`, the first shots do not depend on how many follow, and
    the scenes do not depend on the attribute: curves over shots compare like with like.
    """
    stream = f"episode/{split}"
    chooser = generator_at(seed=seed, index=index, stream=stream)
    attribute = attributes[int(chooser.integers(len(attributes)))]
    query, *shots = (
        _draw_shot(seed, index, split, attribute=attribute, stream=f"{stream}/{place}")
        for place in range(num_shots + 1)
    )
    key = f"{stream}/{seed}/{index}/{attribute}/{num_shots}"
    return Episode(key=key, attribute=attribute, shots=tuple(shots), query=query)


def episode_document(seed: int, index: int, split: Split) -> Document:
    """An episode of six pictures, for training."""
    return draw_episode(seed, index, split, num_shots=IMAGES_PER_DOCUMENT - 1).document()


@cache
def answer_prior(attribute: EpisodeAttribute, split: Split) -> float:
    """Accuracy of always giving the attribute's most frequent answer of the split."""
    if attribute == "digit":
        answers = Counter(digit.word for digit in digits_in(digit_split(split)))
    else:
        answers = Counter(scene.value(attribute) for scene in scenes_in(split))
    return max(answers.values()) / answers.total()


def _draw_shot(
    seed: int, index: int, split: Split, *, attribute: EpisodeAttribute, stream: str
) -> Shot:
    generator = generator_at(seed=seed, index=index, stream=stream)
    if attribute == "digit":
        image, word = draw_digit(generator, split=digit_split(split))
        return Shot(image=image, answer=word)
    scene = draw_scene(generator, split=split)
    return Shot(image=render(scene, generator), answer=scene.value(attribute))
