"""Families: neighbours of one member, the same draws for Flamingo's pairs as ever."""

from collections.abc import Callable

import pytest

from common.data.embedded.captions import full_caption
from common.data.embedded.families import Member, member_at, scene_of, sound_of
from common.data.embedded.scenes import ATTRIBUTES, Scene, split_of
from common.data.embedded.sounds import SOUND_ATTRIBUTES, Sound, split_of_sound

SIZE = 4
# Drawn when families were part of Flamingo's pairs: runs of the same seed stay comparable.
GOLDEN = [
    "two small green rings at the bottom",
    "two small green triangles at the bottom",
    "one small green ring at the bottom",
    "three small blue crosses on the right",
    "three small purple crosses on the right",
    "three large blue crosses on the right",
]


def described(thing: Scene | Sound) -> tuple[list[str], str]:
    """The words of all attributes, and the split."""
    if isinstance(thing, Scene):
        return [thing.value(name) for name in ATTRIBUTES], split_of(thing)
    return [thing.value(name) for name in SOUND_ATTRIBUTES], split_of_sound(thing)


@pytest.mark.parametrize("thing_of", [scene_of, sound_of])
def test_members_of_a_family_differ_from_the_first_in_one_attribute(
    thing_of: Callable[[Member], Scene | Sound],
) -> None:
    changed = set()
    for family in range(60):
        (first, _), *others = (
            described(thing_of(member_at(seed=5, index=i, family_size=SIZE, stream="test")))
            for i in range(SIZE * family, SIZE * (family + 1))
        )
        for words, split in others:
            places = [
                i for i, pair in enumerate(zip(first, words, strict=True)) if len({*pair}) > 1
            ]
            assert len(places) == 1
            assert split == "train"
            changed.update(places)
    assert changed == set(range(5))


def test_members_share_the_draws_of_their_family_and_have_their_own() -> None:
    def draws(index: int) -> tuple[int, float, float]:
        member = member_at(seed=2, index=index, family_size=SIZE, stream="test")
        return member.place, member.family.random(), member.own.random()

    places, of_family, own = zip(*map(draws, range(2 * SIZE)), strict=True)
    assert places == (0, 1, 2, 3, 0, 1, 2, 3)
    assert len(set(of_family[:SIZE])) == len(set(of_family[SIZE:])) == 1
    assert of_family[0] != of_family[-1]
    assert len(set(own)) == 2 * SIZE
    assert draws(6) == draws(6)


def test_the_scenes_of_a_seed_stay_the_same() -> None:
    members = (member_at(seed=3, index=i, family_size=3, stream="pairs") for i in range(6))
    assert [full_caption(scene_of(member)) for member in members] == GOLDEN
