"""Decoding image files strictly, and augmenting images without falsifying them."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from common.data import images
from common.data.document import Image
from common.data.images import AugmentConfig, augment, read_image, resize_and_centre_crop
from common.data.randomness import generator_at
from common.errors import UserError

UNCHANGED = AugmentConfig(min_crop_area=1.0, brightness=0.0, contrast=0.0, saturation=0.0)


def photo(*, height: int = 24, width: int = 40) -> Image:
    generator = generator_at(seed=0, index=0, stream="test")
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def generator() -> np.random.Generator:
    return generator_at(seed=1, index=1, stream="test")


def test_a_png_is_read_exactly(tmp_path: Path) -> None:
    PIL.Image.fromarray(photo()).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), photo())


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    PIL.Image.fromarray(photo()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(photo(), k=-1))


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
