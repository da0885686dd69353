"""Decoding images strictly and in bounds, and augmenting images without falsifying them."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from common.data import images
from common.data.augmentation import AugmentConfig, augment
from common.data.document import Image
from common.data.faults import BadSample
from common.data.images import decode_image, read_image, resize_and_centre_crop
from common.data.randomness import generator_at
from common.errors import UserError
from tests.timing import within

UNCHANGED = AugmentConfig(min_crop_area=1.0, brightness=0.0, contrast=0.0, saturation=0.0)


def photo(*, height: int = 24, width: int = 40) -> Image:
    generator = generator_at(seed=0, index=0, stream="test")
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: PIL.Image.Image, form: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def smooth(*, height: int, width: int) -> PIL.Image.Image:
    y, x = np.mgrid[:height, :width]
    colours = [255 * x / width, 255 * y / height, 127 + 120 * np.sin(x / 29) * np.sin(y / 31)]
    return PIL.Image.fromarray(np.stack(colours, axis=2).astype(np.uint8))


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG with its length and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(extra: bytes) -> bytes:
    """A small PNG with chunks behind its header."""
    data = encoded(PIL.Image.fromarray(photo()), "PNG")
    return data[:33] + extra + data[33:]


def tiff(fields: dict[int, tuple[int, int, int]]) -> bytes:
    """A TIFF directory of fields: type, count, value."""
    entries = [struct.pack("<HHII", tag, *fields[tag]) for tag in sorted(fields)]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(entries) + bytes(4)


def with_jpeg_size(data: bytes, *, height: int, width: int) -> bytes:
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


def cause_of(data: bytes) -> str:
    with pytest.raises(BadSample, match=r"image shard/7\.jpg") as fault:
        decode_image(data, name="shard/7.jpg")
    assert "\n" not in str(fault.value)
    return fault.value.cause


def generator() -> np.random.Generator:
    return generator_at(seed=1, index=1, stream="test")


def test_a_png_is_read_exactly(tmp_path: Path) -> None:
    PIL.Image.fromarray(photo()).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), photo())


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, k=2)),
        (4, np.flipud),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, k=-1)),
        (7, lambda a: np.rot90(a, k=2).swapaxes(0, 1)),
        (8, np.rot90),
        (9, lambda a: a),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_the_exif_orientation_is_applied(
    form: str, orientation: int, upright: Callable[[Image], Image]
) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PIL.Image.fromarray(photo()), form, exif=exif)
    assert np.array_equal(decode_image(data, name="a"), upright(photo()))


def test_a_damaged_note_beside_the_orientation_does_no_harm() -> None:
    exif = b"Exif\0\0" + tiff({0x0112: (3, 1, 6), 0x0100: (2, 1, 0)})  # a width that is text
    data = encoded(PIL.Image.fromarray(photo()), "PNG", exif=exif)
    assert np.array_equal(decode_image(data, name="a"), np.rot90(photo(), k=-1))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 90, (90, 90, 90)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("I;16", 40_000, (156, 156, 156)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_every_colour_mode_becomes_rgb(
    tmp_path: Path, mode: str, colour: object, expected: tuple[int, int, int]
) -> None:
    PIL.Image.new(mode, (6, 4), colour).save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    assert picture.shape == (4, 6, 3)
    assert tuple(picture[2, 3].tolist()) == expected


def test_a_missing_file_is_a_user_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read image .*a\.png: .*; check the path"):
        read_image(tmp_path / "a.png")


@pytest.mark.proves("S4", "truncated files", 1)
@pytest.mark.parametrize("keep", [0, 20, 300])
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp"])
def test_a_truncated_file_is_a_user_error_with_its_path(
    tmp_path: Path, suffix: str, keep: int
) -> None:
    path = tmp_path / f"a.{suffix}"
    PIL.Image.fromarray(photo()).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"cannot decode image .*a\.{suffix}: ") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_an_image_of_too_many_pixels_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 900)
    PIL.Image.fromarray(photo()).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"image .*a\.png has more than .* scale it down"):
        read_image(tmp_path / "a.png")


def test_what_pil_takes_for_a_decompression_bomb_is_refused_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PIL.Image.fromarray(photo()).save(tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="has more than 64 million pixels"):
        read_image(tmp_path / "a.png")


def test_sixteen_bit_colours_keep_their_upper_byte() -> None:
    levels = np.arange(4 * 6 * 3, dtype=np.uint16).reshape(4, 6, 3) * 900
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    picture = decode_image(b"\x89PNG\r\n\x1a\n" + header + body, name="a")
    assert np.array_equal(picture, levels >> 8)


def test_print_colours_become_rgb_in_both_encodings_of_jpeg() -> None:
    cmyk = PIL.Image.new("CMYK", (32, 48), (30, 160, 90, 20))
    luma = PIL.Image.new("RGB", (32, 48), (30, 160, 90)).convert("YCbCr")
    channels = [channel.point(lambda level: 255 - level) for channel in luma.split()]
    ycck = PIL.Image.merge("CMYK", [*channels, cmyk.getchannel("K")])
    data = bytearray(encoded(ycck, "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = 2  # the four channels are luma, chroma and black
    expected = np.array(cmyk.convert("RGB")).astype(int)
    for form in (encoded(cmyk, "JPEG", quality=95), bytes(data)):
        assert np.abs(decode_image(form, name="a") - expected).max() <= 4


def test_white_shines_through_the_clear_parts_of_a_palette() -> None:
    image = PIL.Image.new("P", (6, 4), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((2, 3), 0)
    picture = decode_image(encoded(image, "PNG", transparency=0), name="a")
    assert picture[3, 2].tolist() == [255, 255, 255]
    assert picture[0, 0].tolist() == [200, 100, 50]


@pytest.mark.proves("S4", "animations", 1)
@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_is_read(form: str) -> None:
    frames = [PIL.Image.new("RGB", (40, 24), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    red, green, blue = decode_image(data, name="a")[5, 7].tolist()
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.proves("S4", "numbers without a set white", 1)
@pytest.mark.parametrize(("mode", "level"), [("F", 0.5), ("I", 70_000), ("I", -1)])
def test_numbers_without_a_set_white_are_refused(mode: str, level: float) -> None:
    assert cause_of(encoded(PIL.Image.new(mode, (6, 4), level), "TIFF")) == "image_corrupt"


@pytest.mark.proves("S4", "formats that are not ours", 1)
@pytest.mark.parametrize("form", ["ICO", "PPM", "JPEG2000"])
def test_formats_that_are_not_ours_are_not_opened(form: str) -> None:
    assert cause_of(encoded(PIL.Image.new("RGB", (32, 32)), form)) == "image_corrupt"


def test_a_photo_that_lacks_its_last_rows_is_refused() -> None:
    data = encoded(smooth(height=96, width=130), "JPEG")
    assert cause_of(data[: len(data) * 9 // 10]) == "image_corrupt"


@pytest.mark.parametrize(
    ("width", "height", "cause"),
    [
        (1, 3, "image_side"),
        (16_385, 1_000, "image_side"),
        (16_384, 819, "image_aspect"),
        (41, 2, "image_aspect"),
        (2, 41, "image_aspect"),
    ],
)
def test_sides_and_their_ratio_are_limited(width: int, height: int, cause: str) -> None:
    assert cause_of(encoded(PIL.Image.new("RGB", (width, height)), "PNG")) == cause


def test_sides_at_the_limits_are_read() -> None:
    for size in ((2, 2), (40, 2), (2, 40), (16_384, 820)):
        picture = decode_image(encoded(PIL.Image.new("RGB", size), "PNG"), name="a")
        assert picture.shape == (size[1], size[0], 3)


def bombs() -> dict[str, tuple[bytes, str]]:
    """Small files that would become huge, each with its cause."""
    blank = PIL.Image.new("1", (20_000, 20_000))
    gif = encoded(PIL.Image.new("P", (40, 24)), "GIF")
    jpeg = encoded(PIL.Image.new("RGB", (40, 24)), "JPEG")
    lossless = PIL.Image.new("RGB", (2_100, 2_100))
    scans = encoded(smooth(height=24, width=40), "JPEG", progressive=True)
    last = scans.rindex(b"\xff\xda")
    notes = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))
    flood = zlib.compress(bytes(100_000_000))
    sides = {0x0100: (4, 1, 60_000), 0x0101: (4, 1, 60_000), 0x0102: (3, 1, 8), 0x0103: (3, 1, 1)}
    rest = {0x0106: (3, 1, 1), 0x0111: (4, 1, 8), 0x0115: (3, 1, 1), 0x0117: (4, 1, 12)}
    return {
        "blank png": (encoded(blank, "PNG"), "image_pixels"),
        "gif": (gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:], "image_pixels"),
        "webp": (encoded(lossless, "WEBP", lossless=True), "image_pixels"),
        "tiff": (tiff(sides | rest), "image_pixels"),
        "jpeg": (with_jpeg_size(jpeg, height=65_500, width=65_500), "image_pixels"),
        "dense jpeg": (with_jpeg_size(jpeg, height=7_900, width=7_900), "image_pixels"),
        "scans": (scans[:-2] + scans[last:-2] * 100 + scans[-2:], "image_corrupt"),
        "text": (png_with(chunk(b"zTXt", b"a\0\0" + flood)), "image_corrupt"),
        "profile": (png_with(chunk(b"iCCP", b"a\0\0" + flood)), "image_corrupt"),
        "texts": (png_with(notes * 70), "image_corrupt"),
    }


@pytest.mark.proves("S4", "bombs", 10)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_at_once() -> None:
    for name, (data, cause) in bombs().items():
        assert within(0.5, partial(cause_of, data), of=name) == cause, name


def test_faults_of_fields_and_chunks_are_faults_of_the_image() -> None:
    sides = {0x0100: (4, 1, 4), 0x0101: (4, 1, 3), 0x0102: (3, 1, 8), 0x0103: (3, 1, 1)}
    rest = {0x0106: (3, 1, 1), 0x0111: (4, 1, 8), 0x0115: (3, 1, 1), 0x0117: (4, 1, 12)}
    data = tiff(sides | rest)
    assert decode_image(data, name="a").shape == (3, 4, 3)
    strips_as_text = {0x0116: (2, 1, 3)}
    profile_cut_short = chunk(b"iCCP", b"a\0")
    assert cause_of(tiff(sides | rest | strips_as_text)) == "image_corrupt"
    behind_the_pixels = encoded(PIL.Image.fromarray(photo()), "PNG")[:-12] + profile_cut_short
    assert cause_of(behind_the_pixels + chunk(b"IEND", b"")) == "image_corrupt"


@pytest.mark.parametrize(
    ("least_side", "short"), [(None, 203), (203, 203), (102, 203), (101, 102), (50, 51), (1, 26)]
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_decoded_no_larger_than_needed(
    least_side: int | None, short: int, orientation: int
) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth(height=203, width=410), "JPEG", quality=95, exif=exif)
    picture = decode_image(data, name="a", least_side=least_side)
    assert min(picture.shape[:2]) == short
    assert (picture.shape[0] > picture.shape[1]) == (orientation == 6)


def test_a_reduced_jpeg_shows_the_same_and_other_formats_stay_whole() -> None:
    image = smooth(height=210, width=330)
    data = encoded(image, "JPEG", quality=95)
    whole = resize_and_centre_crop(decode_image(data, name="a"), size=64)
    reduced = resize_and_centre_crop(decode_image(data, name="a", least_side=64), size=64)
    assert not np.array_equal(reduced, whole)
    assert np.abs(reduced.astype(int) - whole).mean() < 1.5
    assert decode_image(encoded(image, "PNG"), name="a", least_side=64).shape == (210, 330, 3)


def test_the_centre_crop_keeps_the_middle_square() -> None:
    picture = photo()
    assert np.array_equal(resize_and_centre_crop(picture, size=24), picture[:, 8:32])
    assert resize_and_centre_crop(photo(height=50, width=9), size=17).shape == (17, 17, 3)


def test_zero_strength_leaves_the_image_as_it_is() -> None:
    assert np.array_equal(augment(photo(), generator(), config=UNCHANGED), photo())


def test_augmentation_keeps_the_shape_and_follows_its_generator() -> None:
    config = AugmentConfig()
    first = augment(photo(), generator(), config=config)
    assert first.shape == (24, 40, 3)
    assert np.array_equal(augment(photo(), generator(), config=config), first)
    other = generator_at(seed=1, index=2, stream="test")
    assert not np.array_equal(augment(photo(), other, config=config), first)


def test_augmentation_never_writes_into_its_input() -> None:
    picture = photo()
    augment(picture, generator(), config=AugmentConfig())
    assert np.array_equal(picture, photo())


def test_a_crop_never_mirrors_and_keeps_most_of_the_image() -> None:
    ramp = np.zeros((24, 40, 3), dtype=np.uint8)
    ramp[:] = np.linspace(0, 200, 40, dtype=np.uint8)[None, :, None]
    config = AugmentConfig(min_crop_area=0.5, brightness=0.0, contrast=0.0, saturation=0.0)
    for index in range(30):
        crop = augment(ramp, generator_at(seed=0, index=index, stream="test"), config=config)
        span = int(crop[12, -1, 0]) - int(crop[12, 0, 0])
        assert 0.65 * 200 < span <= 200


@pytest.mark.parametrize("strength", ["brightness", "contrast", "saturation"])
def test_jitter_keeps_the_order_of_channels_so_no_hue_turns(strength: str) -> None:
    purple = np.full((8, 6, 3), (165, 45, 215), dtype=np.uint8)
    purple[:4] //= 2
    strengths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, strength: 0.5}
    config = AugmentConfig(min_crop_area=1.0, **strengths)
    changed = augment(purple, generator(), config=config)
    assert not np.array_equal(changed, purple)
    red, green, blue = changed.reshape(-1, 3).astype(int).T
    assert (blue > red).all()
    assert (red > green).all()


def test_impossible_strengths_are_refused() -> None:
    with pytest.raises(UserError, match=r"brightness=2\.0 is not a fraction"):
        AugmentConfig(brightness=2.0)
    with pytest.raises(UserError, match=r"min_crop_area=0 leaves no image"):
        AugmentConfig(min_crop_area=0.0)
