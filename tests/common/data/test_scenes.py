"""Scenes: splits, determinism, and pictures that show what the scene says."""

from inspect import unwrap
from itertools import product

import numpy as np
import pytest
from scipy.ndimage import label

from common.data.document import Image
from common.data.embedded.scenes import (
    ATTRIBUTES,
    COLOURS,
    COUNTS,
    HELD_OUT_PAIRS,
    SHAPES,
    Scene,
    draw_scene,
    render,
    scenes_in,
    split_of,
)
from common.data.randomness import generator_at

ALL_SCENES = [
    Scene(**dict(zip(ATTRIBUTES, words, strict=True))) for words in product(*ATTRIBUTES.values())
]


def picture_of(scene: Scene, *, index: int) -> Image:
    return render(scene, generator_at(seed=5, index=index, stream="test"))


def bright(picture: Image) -> np.ndarray:
    return picture.max(axis=2) > 110


def num_objects(picture: Image) -> int:
    """Connected bright regions; pixels that touch at a corner are connected."""
    return int(label(bright(picture), structure=np.ones((3, 3)))[1])


def test_the_splits_are_disjoint_and_complete() -> None:
    splits = [set(scenes_in(split)) for split in ("train", "unseen_scenes", "unseen_pairs")]
    assert sum(map(len, splits)) == len(set.union(*splits)) == len(ALL_SCENES)


def test_training_never_draws_a_held_out_pair_or_scene() -> None:
    for index in range(2000):
        generator = generator_at(seed=3, index=index, stream="test")
        scene = draw_scene(generator, split="train")
        assert (scene.colour, scene.shape) not in HELD_OUT_PAIRS
        assert split_of(scene) == "train"


def test_unseen_scenes_are_new_layouts_of_pairs_seen_in_training() -> None:
    seen = {(scene.colour, scene.shape) for scene in scenes_in("train")}
    unseen = [(scene.colour, scene.shape) for scene in scenes_in("unseen_scenes")]
    assert set(unseen) == seen
    assert 0.1 < len(unseen) / (len(unseen) + len(scenes_in("train"))) < 0.2


def test_every_colour_and_shape_keeps_several_partners_in_training() -> None:
    pairs = {(scene.colour, scene.shape) for scene in scenes_in("train")}
    for colour in COLOURS:
        assert sum(pair[0] == colour for pair in pairs) >= len(SHAPES) - 1
    for shape in SHAPES:
        assert sum(pair[1] == shape for pair in pairs) >= len(COLOURS) - 1


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="unseen_pairs"):
        unwrap(scenes_in)("test")  # beneath the type checks of the test run


def test_a_picture_depends_on_seed_index_and_stream_only() -> None:
    def picture(*, seed: int, index: int, stream: str) -> bytes:
        generator = generator_at(seed=seed, index=index, stream=stream)
        return render(draw_scene(generator, split="train"), generator).tobytes()

    first = picture(seed=1, index=2, stream="a")
    assert picture(seed=1, index=2, stream="a") == first
    others = [(2, 2, "a"), (1, 3, "a"), (1, 2, "b")]
    assert first not in [picture(seed=s, index=i, stream=name) for s, i, name in others]


def test_pictures_show_the_count_as_separate_objects() -> None:
    for index, scene in enumerate(ALL_SCENES):
        assert num_objects(picture_of(scene, index=index)) == COUNTS[scene.count], scene


def test_the_objects_lie_in_their_half_and_near_the_middle_of_the_other_axis() -> None:
    for index, scene in enumerate(ALL_SCENES):
        y, x = (np.argwhere(bright(picture_of(scene, index=index))).mean(axis=0) + 0.5) / 32 - 0.5
        across = {"left": -x, "right": x, "top": -y, "bottom": y}[scene.position]
        along = y if scene.position in ("left", "right") else x
        assert across > 0.15, scene
        assert across > abs(along) + 0.03, scene


@pytest.mark.parametrize("shape", SHAPES)
def test_every_large_object_is_clearly_larger_than_every_small_one(shape: str) -> None:
    areas: dict[str, list[float]] = {"small": [], "large": []}
    for index, scene in enumerate(scene for scene in ALL_SCENES if scene.shape == shape):
        light = picture_of(scene, index=index).max(axis=2).astype(float)
        ground = np.median(light)
        covered = ((light - ground) / (light.max() - ground)).clip(0.1).sum() - 0.1 * light.size
        areas[scene.size].append(covered / COUNTS[scene.count])
    assert min(areas["large"]) > 1.7 * max(areas["small"])


def test_the_objects_have_the_colour_of_the_scene() -> None:
    names, values = list(COLOURS), np.array(list(COLOURS.values()))
    for index, scene in enumerate(ALL_SCENES):
        picture = picture_of(scene, index=index)
        brightest = picture[bright(picture)].astype(float)
        strong = brightest[brightest.max(axis=1) >= np.percentile(brightest.max(axis=1), 70)]
        nearest = np.linalg.norm(values - np.median(strong, axis=0), axis=1).argmin()
        assert names[nearest] == scene.colour


def test_a_larger_picture_shows_the_same_scene_at_its_own_size() -> None:
    scene = Scene(colour="red", shape="ring", count="two", position="top", size="small")
    picture = render(scene, generator_at(seed=0, index=0, stream="test"), side=80)
    assert picture.shape == (80, 80, 3)
    assert num_objects(picture) == 2
