"""Small pictures of coloured shapes: a scene is one to three equal objects in one half of the
picture, told by five attributes, and a picture of it is drawn by signed distances with jitter and
noise. Some colour-shape pairs and some whole attribute combinations never occur in training."""

from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import product
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float32

from common.data.document import Image

Attribute = Literal["colour", "shape", "count", "position", "size"]
Split = Literal["train", "unseen_scenes", "unseen_pairs"]

COLOURS = {
    "red": (225, 25, 30),
    "orange": (255, 135, 10),
    "yellow": (250, 240, 50),
    "green": (25, 170, 45),
    "cyan": (50, 225, 235),
    "blue": (40, 70, 245),
    "purple": (165, 45, 215),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar")
COUNTS = {"one": 1, "two": 2, "three": 3}
POSITIONS = ("left", "right", "top", "bottom")
DIAMETERS = {"small": 0.16, "large": 0.28}  # as fractions of the picture's side
IMAGE_SIZE = 32  # pixels, of all embedded pictures
ATTRIBUTES: dict[Attribute, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "count": tuple(COUNTS),
    "position": POSITIONS,
    "size": tuple(DIAMETERS),
}
# Each shape and six of the eight colours lose one partner, so all of them still have at least five.
HELD_OUT_PAIRS = frozenset(
    {
        ("red", "triangle"),
        ("blue", "circle"),
        ("green", "square"),
        ("yellow", "cross"),
        ("purple", "ring"),
        ("white", "bar"),
    }
)
HELD_OUT_LAYOUTS = 4  # of the 24 combinations of count, position and size, for each seen pair


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a picture shows; each value is the word for it."""

    colour: str
    shape: str
    count: str
    position: str
    size: str

    def value(self, attribute: Attribute) -> str:
        """The word for one attribute: `scene.value("colour") == "red"`."""
        return str(getattr(self, attribute))


def split_of(scene: Scene) -> Split:
    """The one split in which a scene occurs."""
    if (scene.colour, scene.shape) in HELD_OUT_PAIRS:
        return "unseen_pairs"
    held_out = _held_out_layouts(scene.colour, scene.shape)
    layout = (scene.count, scene.position, scene.size)
    return "unseen_scenes" if layout in held_out else "train"


@cache
def scenes_in(split: Split) -> tuple[Scene, ...]:
    """All scenes of a split, in a fixed order."""
    if split not in get_args(Split):
        raise ValueError(f"{split=} is not one of {', '.join(get_args(Split))}")
    combinations = product(*ATTRIBUTES.values())
    scenes = (Scene(**dict(zip(ATTRIBUTES, words, strict=True))) for words in combinations)
    return tuple(scene for scene in scenes if split_of(scene) == split)


def draw_scene(generator: np.random.Generator, *, split: Split) -> Scene:
    """One scene of the split, all equally likely."""
    scenes = scenes_in(split)
    return scenes[int(generator.integers(len(scenes)))]


def render(scene: Scene, generator: np.random.Generator, *, side: int = IMAGE_SIZE) -> Image:
    """A picture of the scene, `side` pixels wide: bright objects on a dark, noisy ground."""
    diameter = DIAMETERS[scene.size] * generator.uniform(0.96, 1.04) * side
    offsets = _pixel_offsets(_centres(scene, generator) * side, side=side)
    distance = _unit_distance(scene.shape, *(offsets * (2 / diameter))) * (diameter / 2)
    cover = (0.5 - distance.min(axis=0)).clip(0, 1)[:, :, None]
    ground = np.float32(generator.uniform(8, 48))
    colour = COLOURS[scene.colour] + generator.normal(0, 4, 3)
    picture = generator.random((side, side, 3), dtype=np.float32)
    picture *= 16  # noise
    picture += cover * (colour.astype(np.float32) - ground)
    picture += ground - 8
    return picture.clip(0, 255, out=picture).astype(np.uint8)


@cache
def _held_out_layouts(colour: str, shape: str) -> frozenset[tuple[str, ...]]:
    """The layouts of a pair with the smallest hashes: arbitrary, fixed, equally many for all."""

    def digest(layout: tuple[str, ...]) -> bytes:
        return blake2b(" ".join((colour, shape, *layout)).encode(), digest_size=8).digest()

    layouts = product(COUNTS, POSITIONS, DIAMETERS)
    return frozenset(sorted(layouts, key=digest)[:HELD_OUT_LAYOUTS])


def _centres(scene: Scene, generator: np.random.Generator) -> Float[np.ndarray, "m 2"]:
    """Centres (y, x) of the objects as fractions of the side, in a loose row inside the half."""
    count = COUNTS[scene.count]
    slack = DIAMETERS["large"] - DIAMETERS[scene.size]
    spacing = (0.40 if count == 2 else 0.335) - generator.uniform(0, slack)
    # A lone object stays off the corners: the corner top left would be both "top" and "left".
    shift = generator.uniform(-0.05, 0.05) * (3 - count)
    along = 0.5 + shift + spacing * (np.arange(count) - (count - 1) / 2)
    along += generator.uniform(-0.2, 0.2, count) * slack * (count > 1)
    # Neighbours step in and out, which keeps three large objects apart.
    step = 0.055 * (count > 1) * (1 - 2 * generator.integers(2))
    across = 0.24 + generator.uniform(-0.025, 0.025, count)
    across[0::2] += step
    across[1::2] -= step
    if scene.position in ("right", "bottom"):
        across = 1 - across
    upright = scene.position in ("left", "right")
    return np.stack((along, across) if upright else (across, along), axis=1)


def _pixel_offsets(
    centres: Float[np.ndarray, "m 2"], *, side: int
) -> Float32[np.ndarray, "2 m y x"]:
    """Offsets (vertical, horizontal) in pixels of every pixel's middle from every centre."""
    middle = np.arange(side, dtype=np.float32) + 0.5
    offsets = middle - centres.astype(np.float32)[:, :, None]
    grid = np.empty((2, len(centres), side, side), dtype=np.float32)
    grid[0] = offsets[:, 0, :, None]
    grid[1] = offsets[:, 1, None, :]
    return grid


def _unit_distance(
    shape: str, v: Float32[np.ndarray, "m y x"], u: Float32[np.ndarray, "m y x"]
) -> Float32[np.ndarray, "m y x"]:
    """Signed distance to a shape of half extent 1, negative inside; v points down, u right."""
    if shape in ("circle", "ring"):
        radius = np.sqrt(u * u + v * v)
        return radius - 1 if shape == "circle" else np.abs(radius - 0.72) - 0.28
    across = np.abs(u)
    if shape == "triangle":
        return np.maximum(v - 0.85, 0.88 * across - 0.48 * v - 0.46)
    upright = np.abs(v)
    if shape == "square":
        return np.maximum(across, upright) - 0.88
    if shape == "bar":
        return np.maximum(across - 1, upright - 0.4)
    inner, outer = np.minimum(across, upright), np.maximum(across, upright)
    return np.maximum(inner - 0.33, outer - 1)
