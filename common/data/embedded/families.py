"""Families of neighbours for contrastive training: all members differ from the first of their
family in at most one attribute, so that an update holds captions which can only be told apart by
looking or listening closely. Among captions drawn at random a few easy attributes nearly always
suffice, and the others would be learnt late or never."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from common.data.embedded.scenes import ATTRIBUTES, Attribute, Scene, draw_scene, split_of
from common.data.embedded.sounds import (
    SOUND_ATTRIBUTES,
    Sound,
    SoundAttribute,
    draw_sound,
    split_of_sound,
)
from common.data.randomness import generator_at

# What sets neighbours apart. To a convolutional network shapes are by far the hardest to learn, the
# rest comes by itself.
SCENE_NEIGHBOUR_ODDS: Mapping[Attribute, float] = {
    "colour": 0.125,
    "shape": 0.5,
    "count": 0.125,
    "position": 0.125,
    "size": 0.125,
}
# A vision transformer pools patches before it has any sense of where they lie.
PLACE_FIRST_ODDS: Mapping[Attribute, float] = {
    "colour": 0.1,
    "shape": 0.3,
    "count": 0.1,
    "position": 0.4,
    "size": 0.1,
}
SOUND_NEIGHBOUR_ODDS: Mapping[SoundAttribute, float] = {
    "kind": 0.3,
    "pitch": 0.1,
    "count": 0.15,
    "pace": 0.1,
    "shape": 0.35,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One place in a family, with two sources of chance: the family's and its own.

    Every member sees the family's draws from their beginning: draw what all share from `family`.
    """

    place: int  # 0: the one whose neighbours the others are
    family: np.random.Generator
    own: np.random.Generator


def member_at(*, seed: int, index: int, family_size: int, stream: str) -> Member:
    """The member at an index: `family_size` consecutive indices make a family."""
    family, place = divmod(index, family_size)
    return Member(
        place=place,
        family=generator_at(seed=seed, index=family, stream=f"{stream}/family"),
        own=generator_at(seed=seed, index=index, stream=f"{stream}/member"),
    )


def scene_of(member: Member, *, odds: Mapping[Attribute, float] = SCENE_NEIGHBOUR_ODDS) -> Scene:
    """The training scene of a member: the family's own, or a neighbour of it."""
    scene = draw_scene(member.family, split="train")
    return scene if member.place == 0 else scene_neighbour(scene, member.own, odds=odds)


def sound_of(member: Member) -> Sound:
    """The training sound of a member: the family's own, or a neighbour of it."""
    sound = draw_sound(member.family, split="train")
    return sound if member.place == 0 else sound_neighbour(sound, member.own)


def scene_neighbour(
    scene: Scene, generator: np.random.Generator, *, odds: Mapping[Attribute, float]
) -> Scene:
    """A training scene that differs in one attribute."""
    names, shares = list(odds), list(odds.values())
    while True:
        name = names[int(generator.choice(len(names), p=shares))]
        values = ATTRIBUTES[name]
        value = values[int(generator.integers(len(values)))]
        neighbour = replace(scene, **{name: value})
        if value != scene.value(name) and split_of(neighbour) == "train":
            return neighbour


def sound_neighbour(sound: Sound, generator: np.random.Generator) -> Sound:
    """A training sound that differs in one attribute."""
    names, odds = list(SOUND_NEIGHBOUR_ODDS), list(SOUND_NEIGHBOUR_ODDS.values())
    while True:
        name = names[int(generator.choice(len(names), p=odds))]
        values = SOUND_ATTRIBUTES[name]
        value = values[int(generator.integers(len(values)))]
        neighbour = replace(sound, **{name: value})
        if value != sound.value(name) and split_of_sound(neighbour) == "train":
            return neighbour
