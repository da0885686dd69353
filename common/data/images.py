"""Images from encoded bytes to arrays. Decoding is strict and bounded: what is damaged, too large
or not an image is a `BadSample` with the image's name, and the header alone decides whether pixels
are decoded at all. Colour profiles are not applied."""

import io
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
from jaxtyping import UInt8
from PIL.Image import Transpose

from common.data.document import Image
from common.data.faults import BadSample
from common.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # what PIL may open
MAX_PIXELS = 64_000_000
MIN_SIDE, MAX_SIDE = 2, 16_384
MAX_ASPECT = 20
# A few bytes can claim a huge picture. Beyond FREE_PIXELS a file must hold its share of bytes; the
# densest JPEG of one colour has 512 pixels a byte.
FREE_PIXELS = 4_000_000
MAX_PIXELS_PER_BYTE = 1_000
# Every scan of a progressive JPEG costs a pass over the whole picture. Encoders write up to 20.
MAX_SCANS = 100
# By the value of the EXIF orientation, what sets the picture upright.
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
# What PIL raises on damaged files, beside its own errors (which are OSErrors). Type errors come
# from TIFF fields of unforeseen types, index errors from PNG chunks cut short.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError)


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


def decode_image(data: bytes, *, name: str, least_side: int | None = None) -> Image:
    """The first frame of an encoded image as upright RGB; transparent parts become white.

    `name` appears in errors. `least_side`: the caller will scale the short side to no less than
    this, so a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size where that still suffices.

    Raises:
        BadSample: `image_corrupt`, `image_pixels`, `image_side` or `image_aspect`.
    """
    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, num_bytes=len(data), name=name)
            _check_scans(data, name=name)
            if least_side is not None:
                # Whole-number division of both sides: never below the size asked for. Equal sides,
                # so that a rotation to come does not matter. Only JPEGs heed it.
                image.draft(None, (least_side, least_side))
            return np.array(_to_rgb(_upright(image)))
    except BadSample:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise _too_many_pixels(name) from error
    except PIL.UnidentifiedImageError as error:  # its own text names a buffer
        raise _corrupt(name, f"it is no {', '.join(FORMATS)} file") from error
    except DECODING_ERRORS as error:
        raise _corrupt(name, " ".join(str(error).split())) from error


def resize_and_centre_crop(image: Image, *, size: int) -> UInt8[np.ndarray, "{size} {size} c"]:
    """The largest central square, scaled to size x size; an image of this size itself."""
    height, width = image.shape[:2]
    if height == width == size:
        return image
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return resize_box(image, box=(left, top, left + side, top + side), width=size, height=size)


def resize_box(
    image: Image, *, box: tuple[float, float, float, float], width: int, height: int
) -> UInt8[np.ndarray, "{height} {width} c"]:
    """The box (left, top, right, bottom) of an image, scaled with antialiasing."""
    picture = PIL.Image.fromarray(image)
    return np.array(picture.resize((width, height), PIL.Image.Resampling.BICUBIC, box=box))


def _check_size(image: PIL.Image.Image, *, num_bytes: int, name: str) -> None:
    short, long = sorted(image.size)
    pixels = short * long
    if pixels > MAX_PIXELS:
        raise _too_many_pixels(name)
    if pixels > max(FREE_PIXELS, num_bytes * MAX_PIXELS_PER_BYTE):
        fault = (
            f"claims {pixels} pixels in {num_bytes} bytes; it is blank or made to exhaust memory"
        )
        raise BadSample("image_pixels", f"image {name} {fault}, remove it")
    if short < MIN_SIDE or long > MAX_SIDE:
        fault = f"has sides of {short} and {long} pixels; use {MIN_SIDE} to {MAX_SIDE}"
        raise BadSample("image_side", f"image {name} {fault}")
    if long > MAX_ASPECT * short:
        fault = f"is more than {MAX_ASPECT} times as long as wide ({long}:{short}); cut it"
        raise BadSample("image_aspect", f"image {name} {fault}")


def _check_scans(data: bytes, *, name: str) -> None:
    if not data.startswith(b"\xff\xd8"):
        return
    # Inside compressed data every 0xff is followed by a zero, so these bytes mark a scan.
    # bytes.count would take four times as long.
    octets = np.frombuffer(data, np.uint8)
    if np.count_nonzero((octets[:-1] == 0xFF) & (octets[1:] == 0xDA)) > MAX_SCANS:
        raise _corrupt(name, f"it has more than {MAX_SCANS} scans")


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """PIL's own `exif_transpose` writes the metadata anew and fails where these are damaged."""
    image.load()  # TIFFs are turned here, and say so in their metadata
    turn = UPRIGHT.get(image.getexif().get(PIL.ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I"):
        return _grey_of_16_bits(np.asarray(image)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no set white")
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        ground = PIL.Image.new("RGBA", solid.size, "white")
        return PIL.Image.alpha_composite(ground, solid).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_of_16_bits(levels: np.ndarray) -> PIL.Image.Image:
    """PIL's own conversion would cut everything above 255 to white."""
    if levels.min() < 0 or levels.max() >= 1 << 16:
        raise ValueError("pixels of more than 16 bits have no set white")
    return PIL.Image.fromarray((levels >> 8).astype(np.uint8))


def _too_many_pixels(name: str) -> BadSample:
    limit = MAX_PIXELS // 1_000_000
    fault = f"has more than {limit} million pixels; scale it down first"
    return BadSample("image_pixels", f"image {name} {fault}")


def _corrupt(name: str, reason: str) -> BadSample:
    fault = f"{reason}; replace it or remove it from the data"
    return BadSample("image_corrupt", f"cannot decode image {name}: {fault}")
