"""Files of exemplars whose images can be told apart, and writers whose answers are known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image

from common.data.document import Image
from common.data.embedded.scenes import draw_scene, render
from common.data.randomness import generator_at
from common.evaluation.models import Prompt
from common.evaluation.shots.exemplars import Exemplar


def scene(number: int, *, side: int = 32, stream: str = "tests/shots") -> Image:
    """A generated picture."""
    generator = generator_at(seed=0, index=number, stream=stream)
    return render(draw_scene(generator, split="train"), generator, side=side)


def save(image: Image, path: Path, **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path, **options)
    return path


def exemplars(folder: Path, num: int, *, first: int = 0) -> list[Exemplar]:
    """Each with a picture and words of its own."""
    return [
        Exemplar(
            key=f"k{number}",
            medium=save(scene(number), folder / f"{number}.png"),
            medium_id=f"m{number}",
            text=f"Question: {number}? Short answer:",
            answer=f"answer {number}",
        )
        for number in range(first, first + num)
    ]


def words(prompt: Prompt) -> list[tuple[int, str, str | None]]:
    """A prompt with the number of media in their place."""
    return [(len(turn.media), turn.text, turn.answer) for turn in prompt]


def shown(prompt: Prompt) -> list[bytes]:
    """All media of a prompt in reading order."""
    media = [medium for turn in prompt for medium in turn.media]
    return [medium.tobytes() for medium in media if isinstance(medium, np.ndarray)]


@dataclass(kw_only=True)
class Answering:
    """A writer that answers each prompt by a function, and remembers what it was asked."""

    answer: Callable[[Prompt], str]
    weigh: Callable[[Prompt, str], float] = lambda prompt, answer: 0.0
    asked: list[Prompt] = field(default_factory=list)
    calls_left: int = 1_000_000

    def write(self, prompts: Sequence[Prompt], *, max_new_tokens: int, num_beams: int) -> list[str]:
        if self.calls_left == 0:
            raise RuntimeError("stopped")
        self.calls_left -= 1
        self.asked += prompts
        return [self.answer(prompt) for prompt in prompts]

    def log_likelihoods(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        self.asked += prompts
        return [
            [self.weigh(prompt, answer) for answer in own]
            for prompt, own in zip(prompts, answers, strict=True)
        ]
