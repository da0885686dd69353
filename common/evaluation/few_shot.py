"""Few-shot evaluation on embedded episodes: open-ended answers compared word for word, at several
numbers of shots, beside the accuracy of guessing and of the most frequent answer, and under
controls that take away what the model should be using. It knows no model, only a function that
writes on.

| control           | prompt                                                                      |
|-------------------|-----------------------------------------------------------------------------|
| `none`            | shots and query as they are                                                 |
| `images_shuffled` | each image replaced by one drawn from other episodes; all text kept         |
| `shots_removed`   | the query alone, where an unharmed model would have had its shots           |
| `text_only`       | all text kept, no image                                                     |
"""

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, runtime_checkable

from common.data.document import Image, text_and_images
from common.data.embedded.episodes import (
    ANSWERS,
    Episode,
    EpisodeAttribute,
    answer_prior,
    draw_episode,
)
from common.data.embedded.scenes import ATTRIBUTES, Split
from common.data.randomness import generator_at
from common.errors import UserError
from common.evaluation.intervals import wilson_interval

FewShotSplit = Literal["unseen_scenes", "unseen_pairs", "digits"]
Control = Literal["none", "images_shuffled", "shots_removed", "text_only"]

# Digits of a scene split other than "train" are held-out digits.
SOURCES: dict[FewShotSplit, tuple[Split, tuple[EpisodeAttribute, ...]]] = {
    "unseen_scenes": ("unseen_scenes", tuple(ATTRIBUTES)),
    "unseen_pairs": ("unseen_pairs", tuple(ATTRIBUTES)),
    "digits": ("unseen_scenes", ("digit",)),
}


@runtime_checkable
class Generate(Protocol):
    """Writes on after each prompt to the end of the chunk: `[[image, "Output:"]] -> [" red"]`."""

    def __call__(
        self, documents: Sequence[Sequence[str | Image]], *, max_new_tokens: int
    ) -> list[str]: ...


@dataclass(frozen=True, kw_only=True)
class FewShotConfig:
    """What is asked, how often, and where the controls are run."""

    splits: tuple[FewShotSplit, ...] = get_args(FewShotSplit)
    shots: tuple[int, ...] = (0, 1, 2, 4, 8)
    control_shots: tuple[int, ...] = (0, 1, 4)
    num_episodes: int = 256  # per split, number of shots and control
    batch_size: int = 64
    max_new_tokens: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.splits or not self.shots or min(*self.shots, *self.control_shots, 0) < 0:
            raise UserError(f"few-shot {self.splits=} {self.shots=}: name some, none negative")
        if min(self.num_episodes - 1, self.batch_size, self.max_new_tokens) < 1:
            raise UserError(
                f"few-shot {self.num_episodes=} {self.batch_size=} {self.max_new_tokens=}: "
                "two episodes, one prompt and one token are the least"
            )


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Right answers among all answers."""

    correct: int
    num: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.num

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, Wilson."""
        return wilson_interval(self.correct, self.num)


@dataclass(frozen=True, kw_only=True)
class FewShotResult:
    """One row of the table: a split at a number of shots under a control."""

    split: FewShotSplit
    shots: int
    control: Control
    total: Tally
    per_attribute: Mapping[EpisodeAttribute, Tally]
    chance: float  # accuracy of drawing among an attribute's answers, averaged over those asked
    prior: float  # accuracy of an attribute's most frequent answer, averaged over those asked


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What was written for one episode."""

    episode: Episode
    text: str

    @property
    def is_correct(self) -> bool:
        return normalise(self.text) == normalise(self.episode.query.answer)


@dataclass(frozen=True, kw_only=True, eq=False)
class FewShotEvaluation:
    """All rows, and the answers without control per split and number of shots."""

    config: FewShotConfig
    results: tuple[FewShotResult, ...]
    answers: Mapping[tuple[FewShotSplit, int], tuple[Answer, ...]]

    def result(
        self, split: FewShotSplit, *, shots: int, control: Control = "none"
    ) -> FewShotResult:
        """The row with these three names."""
        wanted = (split, shots, control)
        rows = [row for row in self.results if (row.split, row.shots, row.control) == wanted]
        if not rows:
            raise KeyError(f"{wanted} was not evaluated; see splits, shots and control_shots")
        return rows[0]


def evaluate_few_shot(generate: Generate, *, config: FewShotConfig) -> FewShotEvaluation:
    """Ask every split at every number of shots, and the controls at theirs."""
    results = []
    answers = {}
    for split, shots, control in _settings(config):
        given = _ask(generate, split, shots=shots, control=control, config=config)
        results.append(_result(given, split, shots=shots, control=control))
        if control == "none":
            answers[split, shots] = given
    return FewShotEvaluation(config=config, results=tuple(results), answers=answers)


def normalise(text: str) -> str:
    """Case, punctuation and spacing do not count: `" Red.\n" -> "red"`."""
    plain = text.casefold().translate(str.maketrans("", "", string.punctuation))
    return " ".join(plain.split())


def _settings(config: FewShotConfig) -> list[tuple[FewShotSplit, int, Control]]:
    # Without its shots a query is the same prompt however many they were: asked once.
    removed = [shots for shots in config.control_shots[-1:] if shots > 0]
    where: dict[Control, Sequence[int]] = {
        "none": config.shots,
        "images_shuffled": config.control_shots,
        "shots_removed": removed,
        "text_only": config.control_shots,
    }
    return [
        (split, shots, control)
        for split in config.splits
        for control, numbers in where.items()
        for shots in numbers
    ]


def _ask(
    generate: Generate,
    split: FewShotSplit,
    *,
    shots: int,
    control: Control,
    config: FewShotConfig,
) -> tuple[Answer, ...]:
    source, attributes = SOURCES[split]
    episodes = [
        draw_episode(config.seed, index, source, num_shots=shots, attributes=attributes)
        for index in range(config.num_episodes)
    ]
    prompts = _prompts(episodes, control=control, seed=config.seed)
    texts: list[str] = []
    for start in range(0, len(prompts), config.batch_size):
        batch = prompts[start : start + config.batch_size]
        written = generate(batch, max_new_tokens=config.max_new_tokens)
        if len(written) != len(batch):
            raise ValueError(f"generate returned {len(written)} texts for {len(batch)} prompts")
        texts += written
    pairs = zip(episodes, texts, strict=True)
    return tuple(Answer(episode=episode, text=text) for episode, text in pairs)


def _prompts(
    episodes: Sequence[Episode], *, control: Control, seed: int
) -> list[tuple[str | Image, ...]]:
    if control == "shots_removed":
        episodes = [replace(episode, shots=()) for episode in episodes]
    prompts = [text_and_images(episode.prompt()) for episode in episodes]
    if control == "images_shuffled":
        return _with_images_of_others(prompts, seed=seed)
    if control == "text_only":
        return [tuple(part for part in parts if isinstance(part, str)) for parts in prompts]
    return prompts


def _with_images_of_others(
    prompts: Sequence[tuple[str | Image, ...]], *, seed: int
) -> list[tuple[str | Image, ...]]:
    images = [[part for part in parts if not isinstance(part, str)] for parts in prompts]
    shuffled = []
    for index, parts in enumerate(prompts):
        generator = generator_at(seed=seed, index=index, stream="few_shot/images_shuffled")
        # A step of 1 to n - 1 around the circle of episodes never ends at the own one.
        steps = generator.integers(1, len(prompts), size=len(parts)).tolist()
        places = generator.integers(len(images[index]), size=len(parts)).tolist()
        shuffled.append(
            tuple(
                part if isinstance(part, str) else images[(index + step) % len(prompts)][place]
                for part, step, place in zip(parts, steps, places, strict=True)
            )
        )
    return shuffled


def _result(
    answers: Sequence[Answer], split: FewShotSplit, *, shots: int, control: Control
) -> FewShotResult:
    asked = Counter(answer.episode.attribute for answer in answers)
    right = Counter(answer.episode.attribute for answer in answers if answer.is_correct)
    source, attributes = SOURCES[split]
    guesses = sum(num / len(ANSWERS[attribute]) for attribute, num in asked.items())
    frequent = sum(num * answer_prior(attribute, source) for attribute, num in asked.items())
    return FewShotResult(
        split=split,
        shots=shots,
        control=control,
        total=Tally(correct=right.total(), num=asked.total()),
        per_attribute={
            attribute: Tally(correct=right[attribute], num=asked[attribute])
            for attribute in attributes
            if asked[attribute]
        },
        chance=guesses / asked.total(),
        prior=frequent / asked.total(),
    )
