"""Copies of evaluated media are found wherever they lie, and nothing else is taken for one."""

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

from common.data.quality.hamming import near_pairs
from common.errors import UserError
from common.evaluation.shots.contamination import (
    Contamination,
    ContaminationConfig,
    find_contamination,
)
from common.evaluation.shots.exemplars import Exemplar, MediumKind
from common.evaluation.shots.perceptual_hash import perceptual_hash
from common.evaluation.shots.protocol import FewShot, ShotsConfig
from common.evaluation.work import Workplace
from tests.common.evaluation.shots.writers import save, scene


def found_in(
    queries: list[Path],
    pool: list[Path],
    folder: Path,
    *,
    kind: MediumKind = "image",
    config: ContaminationConfig | None = None,
) -> Contamination:
    def exemplar(path: Path) -> Exemplar:
        return Exemplar(key=str(path), medium=path, medium_id=str(path), text="")

    asking = FewShot(
        config=ShotsConfig(),
        kind=kind,
        queries=[exemplar(path) for path in queries],
        pool=[exemplar(path) for path in pool],
        choices={},
        work=Workplace(folder=folder, batch_size=100),
    )
    return find_contamination(asking, config=config or ContaminationConfig())


def resized(path: Path, copy: Path, *, factor: float) -> Path:
    picture = PIL.Image.open(path)
    sides = (int(side * factor) for side in picture.size)
    picture.resize(tuple(sides)).save(copy)
    return copy


def test_copies_encoded_anew_or_resized_are_found_among_500_scenes_and_no_other(
    tmp_path: Path,
) -> None:
    """Pairs of the 500 scenes are of the same objects in places that differ by a few pixels."""
    paths = [save(scene(number, side=96), tmp_path / f"{number}.bmp") for number in range(500)]
    evaluated, pool = paths[:250], paths[250:]
    assert found_in(evaluated, pool, tmp_path / "none").places == frozenset()
    copies = tmp_path / "copies"
    copies.mkdir()
    planted = [
        save(scene(30, side=96), copies / "encoded anew.jpg", quality=60),
        resized(paths[71], copies / "smaller.png", factor=0.6),
        resized(paths[112], copies / "larger.jpg", factor=1.7),
        Path(shutil.copy(paths[153], copies / "copy.bmp")),
    ]
    found = found_in(evaluated, [*pool, *planted], tmp_path / "some")
    assert found.places == {30, 71, 112, 153}
    assert found.notes == (
        "4 of 250 evaluated images lie in the demonstrations: 1 as the same file, 3 as near "
        "duplicates (30.bmp, 71.bmp, 112.bmp, 153.bmp).",
    )


def test_all_questions_about_an_image_in_a_training_shard_are_contaminated(tmp_path: Path) -> None:
    images = [save(scene(number), tmp_path / f"{number}.png") for number in range(3)]
    training = tmp_path / "training"
    (training / "deep").mkdir(parents=True)
    with tarfile.open(training / "deep" / "000.tar", "w") as shard:
        shard.add(save(scene(99), tmp_path / "99.jpg"), "a.jpg")
        shard.add(images[1], "b.seen.png")
    (training / "broken.jpg").write_bytes(b"no image")
    config = ContaminationConfig(training_folders=(training,))
    asked = [images[0], images[1], images[2], images[1]]
    found = found_in(asked, [], tmp_path / "work", config=config)
    assert found.places == {1, 3}
    assert f"1 of 3 evaluated images lie in {training}: 1 as the same file" in found.notes[0]
    assert found.notes[1].startswith("1 of 3 images in")


def test_a_copied_sound_is_found_by_its_bytes(tmp_path: Path) -> None:
    sounds = [tmp_path / f"{number}.wav" for number in range(3)]
    for number, path in enumerate(sounds):
        soundfile.write(path, np.random.default_rng(number).normal(size=700) / 9, 16_000)
    copy = Path(shutil.copy(sounds[2], tmp_path / "copy.wav"))
    found = found_in(sounds, [copy], tmp_path / "work", kind="sound")
    assert found.places == {2}
    assert "near" not in found.notes[0]


def test_bands_find_every_pair_of_hashes_within_the_distance() -> None:
    generator = np.random.default_rng(0)
    first = generator.integers(0, 2**64, 60, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in generator.choice(64, n % 12, False)) for n in range(90)]
    second = first[np.arange(90) % 60] ^ np.array(flips, dtype=np.uint64)
    distances = np.bitwise_count(first[:, None] ^ second[None])
    for most in (0, 3, 6, 16):
        expected = set(map(tuple, np.argwhere(distances <= most).tolist()))
        assert set(near_pairs(first, second, distance=most)) == expected
        assert expected


def test_a_hash_says_what_is_seen_not_how_bright_or_large_it_is() -> None:
    image = scene(5, side=96)
    darker = (image * 0.7).astype(np.uint8)
    larger = np.repeat(np.repeat(image, 3, axis=0), 3, axis=1)
    own = perceptual_hash(image)
    assert (own ^ perceptual_hash(darker)).bit_count() <= 4
    assert (own ^ perceptual_hash(larger)).bit_count() <= 4
    assert (own ^ perceptual_hash(image[::-1])).bit_count() > 16


def test_what_was_not_looked_for_is_said(tmp_path: Path) -> None:
    off = ContaminationConfig(check_contamination=False)
    path = save(scene(0), tmp_path / "0.png")
    for config, pool in ((off, [path]), (ContaminationConfig(), [])):
        found = found_in([path], pool, tmp_path / "work", config=config)
        assert found.notes == ("Evaluated media were not looked for in training data.",)
    absent = ContaminationConfig(training_folders=(tmp_path / "absent",))
    with pytest.raises(UserError, match="does not exist"):
        found_in([path], [], tmp_path / "work", config=absent)
    with pytest.raises(UserError, match="switched off"):
        replace(off, training_folders=(tmp_path,))
