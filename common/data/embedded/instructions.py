"""Questions and orders with one-word answers about scenes, about sounds and about nothing but the
text itself. Training and evaluation share no wording; held-out items also ask about scenes and
sounds that training never shows. An answer counts when it is exactly the word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np

from common.data.document import Image, Recording
from common.data.embedded.scenes import ATTRIBUTES, COLOURS, COUNTS, draw_scene, render
from common.data.embedded.scenes import SHAPES as SCENE_SHAPES
from common.data.embedded.sounds import (
    KINDS,
    PITCHES_HZ,
    SOUND_ATTRIBUTES,
    draw_sound,
    render_sound,
)
from common.data.randomness import generator_at

ItemT = TypeVar("ItemT")
About = Literal["scene", "sound", "text"]
InstructionSplit = Literal["train", "held_out"]

# Attribute -> wordings; `text` is about a word in the wording itself, in the place of {}.
WORDINGS: Mapping[About, Mapping[str, Sequence[str]]] = {
    "scene": {
        "colour": (
            "What colour is shown?",
            "Which colour do you see?",
            "Name the colour.",
            "Tell me the colour of it.",
        ),
        "shape": (
            "What shape is shown?",
            "Which shape do you see?",
            "Name the shape.",
            "Tell me the shape of it.",
        ),
        "count": (
            "How many shapes are there?",
            "How many shapes do you see?",
            "Count the shapes.",
            "Tell me the number of shapes.",
        ),
        "position": (
            "On which side is it?",
            "Where is it?",
            "Name the side.",
            "Tell me where it is.",
        ),
        "size": (
            "What size is shown?",
            "Which size do you see?",
            "Name the size.",
            "Tell me the size of it.",
        ),
    },
    "sound": {
        "kind": (
            "What kind of sound is heard?",
            "Which sound do you hear?",
            "Name the kind of sound.",
            "Tell me what sounds.",
        ),
        "pitch": (
            "What pitch is heard?",
            "Which pitch do you hear?",
            "Name the pitch.",
            "Tell me the pitch of it.",
        ),
        "count": (
            "How many sounds are there?",
            "How many sounds do you hear?",
            "Count the sounds.",
            "Tell me the number of sounds.",
        ),
        "pace": (
            "Is it slow or fast?",
            "What pace do you hear?",
            "Name the pace.",
            "Tell me the pace of it.",
        ),
        "shape": (
            "Is it fading or swelling?",
            "How does the loudness change?",
            "Name the change of loudness.",
            "Tell me how the loudness goes.",
        ),
    },
    "text": {
        "word": (
            "Repeat the word {}.",
            "Say {} again.",
            "Write the word {}.",
            "Answer with the word {}.",
        ),
        "opening": (
            "Which comes first, {}?",
            "Name the first of {}.",
            "Tell me the first of {}.",
            "Of {}, which is first?",
        ),
    },
}
HELD_OUT_WORDINGS: Mapping[About, Mapping[str, Sequence[str]]] = {
    "scene": {
        "colour": ("Name the colour of it.", "Which colour is shown?"),
        "shape": ("Name the shape of it.", "Which shape is shown?"),
        "count": ("Tell me how many shapes there are.", "Name the number of shapes."),
        "position": ("Tell me the side.", "On which side do you see it?"),
        "size": ("Name the size of it.", "Which size is shown?"),
    },
    "sound": {
        "kind": ("Which kind of sound do you hear?", "Tell me the kind of sound."),
        "pitch": ("Name the pitch of it.", "Which pitch is heard?"),
        "count": ("Tell me how many sounds there are.", "Name the number of sounds."),
        "pace": ("Tell me if it is slow or fast.", "Which pace do you hear?"),
        "shape": ("Tell me if it is fading or swelling.", "Name how the loudness changes."),
    },
    "text": {
        "word": ("Say the word {}.", "Repeat {}."),
        "opening": ("Which of {} is first?", "Tell me which comes first, {}."),
    },
}
# What text-only instructions are about.
WORDS = (*COLOURS, *SCENE_SHAPES, *COUNTS, *KINDS, *PITCHES_HZ)


@dataclass(frozen=True, kw_only=True, eq=False)
class Instruction:
    """One thing to answer, about its medium if it has one."""

    about: About
    attribute: str
    medium: Image | Recording | None
    text: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """A list without end in practice: each is drawn from its place, so any may be read in any
    order. The three subjects and their attributes come about equally often."""

    split: InstructionSplit
    seed: int
    num: int
    subjects: tuple[About, ...] = get_args(About)

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Instruction:
        if not 0 <= index < self.num:
            raise IndexError(f"instruction {index} of {self.num}")
        stream = f"instructions/{self.split}"
        generator = generator_at(seed=self.seed, index=index, stream=stream)
        return draw_instruction(generator, split=self.split, about=_one(generator, self.subjects))


def draw_instruction(
    generator: np.random.Generator, *, split: InstructionSplit, about: About
) -> Instruction:
    """One instruction; those that are held out have their own wordings, scenes and sounds."""
    wordings = (WORDINGS if split == "train" else HELD_OUT_WORDINGS)[about]
    attribute = _one(generator, tuple(wordings))
    wording = _one(generator, wordings[attribute])
    medium: Image | Recording | None
    if about == "scene":
        scene = draw_scene(generator, split="train" if split == "train" else "unseen_scenes")
        medium, answer = render(scene, generator), str(getattr(scene, attribute))
    elif about == "sound":
        sound = draw_sound(generator, split="train" if split == "train" else "unseen_sounds")
        medium, answer = render_sound(sound, generator), str(getattr(sound, attribute))
    else:
        first, second = generator.choice(WORDS, 2, replace=False).tolist()
        medium, answer = None, first
        wording = wording.format(first if attribute == "word" else f"{first} and {second}")
    return Instruction(about=about, attribute=attribute, medium=medium, text=wording, answer=answer)


def values_of(about: About, attribute: str) -> tuple[str, ...]:
    """The possible answers."""
    if about == "scene":
        return next(values for name, values in ATTRIBUTES.items() if name == attribute)
    if about == "sound":
        return next(values for name, values in SOUND_ATTRIBUTES.items() if name == attribute)
    return WORDS


def exact_matches(
    instructions: Sequence[Instruction], answers: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Right answers and questions by subject and attribute: `{"scene colour": (9, 10)}`.

    Case and a closing full stop do not matter; any other word does.
    """
    table: dict[str, tuple[int, int]] = {}
    for instruction, answer in zip(instructions, answers, strict=True):
        name = f"{instruction.about} {instruction.attribute}"
        right, num = table.get(name, (0, 0))
        is_right = answer.strip().lower().removesuffix(".") == instruction.answer
        table[name] = (right + is_right, num + 1)
    return dict(sorted(table.items()))


def _one(generator: np.random.Generator, items: Sequence[ItemT]) -> ItemT:
    return items[int(generator.integers(len(items)))]
