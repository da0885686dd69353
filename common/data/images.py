"""Images from files to arrays, and training augmentation of arrays. Decoding is strict: what is
damaged, too large or not an image is a `UserError` with the file's name. Augmentation never flips
and never turns hues, since captions speak of left, right and colours."""

import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import UInt8

from common.data.document import Image
from common.errors import UserError

MAX_PIXELS = 64_000_000
# What PIL's decoders raise on damaged files, beside its own errors (which are OSErrors).
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError)
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


def read_image(path: Path) -> Image:
    """The first frame of an image file as upright RGB.

    Raises:
        UserError: the file is missing, damaged, too large or no image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read image {path}: {error.strerror}; check the path") from error
    return decode_image(data, name=str(path))


def decode_image(data: bytes, *, name: str) -> Image:
    """Encoded bytes as upright RGB; transparent parts become white. `name` appears in errors."""
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(name)
            return np.array(_to_rgb(PIL.ImageOps.exif_transpose(image)))
    except PIL.Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except UserError:
        raise
    except DECODING_ERRORS as error:
        raise UserError(
            f"cannot decode image {name}: {error}; replace it or remove it from the data"
        ) from error


def resize_and_centre_crop(image: Image, *, size: int) -> UInt8[np.ndarray, "{size} {size} c"]:
    """The largest central square, scaled to size x size."""
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return _resized(image, box=(left, top, left + side, top + side), width=size, height=size)


def augment(image: Image, generator: np.random.Generator, *, config: AugmentConfig) -> Image:
    """The image after a random crop scaled back to its size, and random colour jitter."""
    return _jitter(_random_crop(image, generator, config=config), generator, config=config)


def _random_crop(image: Image, generator: np.random.Generator, *, config: AugmentConfig) -> Image:
    """A crop of the image's own aspect ratio, since ratios of sides are visible attributes."""
    height, width = image.shape[:2]
    scale = generator.uniform(config.min_crop_area, 1) ** 0.5
    top, left = generator.uniform(0, 1 - scale, 2)
    box = (left * width, top * height, (left + scale) * width, (top + scale) * height)
    return _resized(image, box=box, width=width, height=height)


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


def _resized(
    image: Image, *, box: tuple[float, float, float, float], width: int, height: int
) -> UInt8[np.ndarray, "{height} {width} c"]:
    """The box (left, top, right, bottom) of an image, scaled with antialiasing."""
    picture = PIL.Image.fromarray(image)
    return np.array(picture.resize((width, height), PIL.Image.Resampling.BICUBIC, box=box))


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey; PIL's own conversion would cut everything above 255 to white.
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        ground = PIL.Image.new("RGBA", solid.size, "white")
        return PIL.Image.alpha_composite(ground, solid).convert("RGB")
    return image.convert("RGB")


def _too_large(name: str) -> UserError:
    limit = MAX_PIXELS // 1_000_000
    return UserError(f"image {name} has more than {limit} million pixels; scale it down first")
