"""Training augmentation of decoded images: a random crop scaled back to the image's size, and
colour jitter. It never flips and never turns hues, since captions speak of left, right and
colours."""

import math
from dataclasses import dataclass, fields

import numpy as np

from common.data.document import Image
from common.data.images import resize_box
from common.errors import UserError

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Strengths of `augment`; a strength of 0.2 draws a factor from 0.8 to 1.2."""

    min_crop_area: float = 0.8  # smallest crop, as a fraction of the image's area
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise UserError(f"{field.name}={value} is not a fraction; use a value from 0 to 1")
        if self.min_crop_area == 0:
            raise UserError("min_crop_area=0 leaves no image; use 1 to switch cropping off")

    def least_side(self, size: int) -> int:
        """Pixels that an image needs on its short side, so that no crop has fewer than `size`."""
        return math.ceil(size / self.min_crop_area**0.5)


def augment(image: Image, generator: np.random.Generator, *, config: AugmentConfig) -> Image:
    """The image after a random crop scaled back to its size, and random colour jitter."""
    return _jitter(_random_crop(image, generator, config=config), generator, config=config)


def _random_crop(image: Image, generator: np.random.Generator, *, config: AugmentConfig) -> Image:
    """A crop of the image's own aspect ratio, since ratios of sides are visible attributes."""
    height, width = image.shape[:2]
    scale = generator.uniform(config.min_crop_area, 1) ** 0.5
    top, left = generator.uniform(0, 1 - scale, 2)
    box = (left * width, top * height, (left + scale) * width, (top + scale) * height)
    return resize_box(image, box=box, width=width, height=height)


def _jitter(image: Image, generator: np.random.Generator, *, config: AugmentConfig) -> Image:
    """Brightness, contrast and saturation at once.

    saturated = grey + saturation (image - grey)
    result    = brightness (mean + contrast (saturated - mean))
    """
    strengths = np.array([config.brightness, config.contrast, config.saturation])
    brightness, contrast, saturation = (
        1 + strengths * generator.uniform(-1, 1, len(strengths))
    ).tolist()
    pixels = image.astype(np.float32)
    grey = pixels @ LUMA
    offset = grey * (brightness * contrast * (1 - saturation))
    offset += brightness * (1 - contrast) * float(grey.mean())
    pixels *= brightness * contrast * saturation
    pixels += offset[:, :, None]
    pixels += 0.5  # astype rounds down
    return pixels.clip(0, 255, out=pixels).astype(np.uint8)
