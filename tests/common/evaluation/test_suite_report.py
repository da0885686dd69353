"""A report shows what a suite returned, each section only if there is something in it, and is drawn
again from its folder without any loss."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from common.data.document import Recording
from common.errors import UserError
from common.evaluation.scores import Sample, Score, SuiteResult
from common.evaluation.suite_files import begin, is_finished, read_result, weights_digest
from common.evaluation.suite_plots import samples_figure
from common.evaluation.suite_report import write_suite_report

SETTINGS = {"suite": "vqa", "settings": {"shots": [0, 4]}, "limit": None}


def score(value: float, *, shots: int | None = None, **fields: object) -> Score:
    return Score(metric="accuracy", value=value, num=1234, shots=shots, **fields)


def full_result() -> SuiteResult:
    scores = []
    for shots in (0, 4):
        for blind in (False, True):
            for method in ("random", "rices"):
                value = 50 + shots - 30 * blind + 0.25 * (method == "rices")
                own = score(
                    value,
                    shots=shots,
                    blind=blind,
                    interval=(value - 2, value + 3),
                    setting={"demonstrations": method},
                )
                parts = [replace(own, part={"answer type": kind}) for kind in ("number", "other")]
                scores += [own, *parts]
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    sound = Recording(samples=generator.uniform(-0.5, 0.5, 800).astype(np.float32))
    samples = [
        Sample(media=(image,), asked="what?", written="$1 a$", expected=("two",), is_hit=False),
        Sample(media=(sound,), asked="Output:", written="a\x1bbuzz", expected=(), is_hit=True),
        Sample(media=(), asked="a " * 90, written="", expected=tuple("abcd"), is_hit=False),
    ]
    return SuiteResult(
        name="VQAv2", scores=tuple(scores), samples=tuple(samples * 3), notes=("a remark",)
    )


def write(folder: Path, result: SuiteResult) -> str:
    return write_suite_report(folder, result, command="evaluate", settings=SETTINGS).read_text()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    write(folder, full_result())
    return folder


def test_the_blind_baseline_stands_beside_the_score_that_it_belongs_to(full: Path) -> None:
    text = (full / "report.md").read_text()
    assert "| metric | shots | demonstrations | value | 95 % | blind | examples |" in text
    row = "| accuracy | 4 | rices | 54.25 | 52.25 to 57.25 | 24.25 (22.25 to 27.25) | 1,234 |"
    assert row in text
    assert text.count("| accuracy | ") == 4
    chance = SuiteResult(
        name="One", scores=(score(20.0), score(9.0, setting={"baseline": "chance"}))
    )
    own = write(full.with_name("chance"), chance)
    assert "| metric | value | 95 % | chance | examples |" in own
    assert "| accuracy | 20.00 |  | 9.00 | 1,234 |" in own
    # A few parts stand across, many down, only those with the most shots.
    assert "|  | number | other |" in text
    many = [
        score(float(n), shots=shots, part={"class": f"class {n}"})
        for n in range(9)
        for shots in (0, 4)
    ]
    text = write(full.with_name("many"), SuiteResult(name="Classes", scores=tuple(many)))
    assert "| class | 4 shots | examples |" in text
    assert "| class 8 | 8.00 | 1,234 |" in text


def test_every_link_is_a_readable_picture_in_the_folder(full: Path) -> None:
    links = re.findall(r"!\[.*?\]\((.*?)\)", (full / "report.md").read_text())
    assert links == ["shots.png", "parts_0.png", "samples_1.png", "samples_2.png"]
    for link in links:
        with PIL.Image.open(full / link) as picture:
            picture.load()


def test_sections_without_data_are_left_out(tmp_path: Path) -> None:
    text = write(tmp_path, SuiteResult(name="Few", scores=(score(12.5),)))
    assert re.findall("^## (.*)$", text, flags=re.M) == ["Scores", "Commands and settings"]
    assert "| accuracy | 12.50 |  | 1,234 |" in text
    assert not list(tmp_path.glob("*.png"))


def test_hits_and_misses_have_colours_of_their_own(tmp_path: Path) -> None:
    sample = full_result().samples[0]
    green, red = (0x2A, 0x7A, 0x2A), (0xB0, 0x20, 0x20)
    for is_hit in (True, False):
        samples_figure([replace(sample, is_hit=is_hit)], tmp_path / "a.png")
        with PIL.Image.open(tmp_path / "a.png") as picture:
            pixels = np.array(picture.convert("RGB"))
        has = [bool((pixels == colour).all(axis=2).any()) for colour in (green, red)]
        assert has == [is_hit, not is_hit]


def test_a_result_comes_back_from_its_folder(full: Path, tmp_path: Path) -> None:
    assert is_finished(full)
    found, expected = read_result(full), full_result()
    assert (found.scores, found.notes, found.name) == (
        expected.scores,
        expected.notes,
        expected.name,
    )
    words = [
        [(item.asked, item.written, item.expected, item.is_hit) for item in result.samples]
        for result in (found, expected)
    ]
    assert words[0] == words[1]
    assert np.array_equal(found.samples[0].media[0], expected.samples[0].media[0])
    heard, sound = found.samples[1].media[0], expected.samples[1].media[0]
    assert isinstance(heard, Recording)
    assert isinstance(sound, Recording)
    assert np.array_equal(heard.samples, sound.samples)
    write(tmp_path, found)
    assert (tmp_path / "results.json").read_bytes() == (full / "results.json").read_bytes()
    (tmp_path / "results.json").write_text(json.dumps({"name": "VQAv2"}))
    with pytest.raises(UserError, match=r"results\.json is damaged"):
        read_result(tmp_path)


def test_a_folder_belongs_to_one_evaluation(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "vqa"
    begin(folder, SETTINGS)
    begin(folder, SETTINGS)
    other = SETTINGS | {"settings": {"shots": [0, 8], "seed": 1}}
    changes = re.escape(
        "(settings.shots was [0, 4], is [0, 8]; settings.seed was null, is 1); name another --out"
    )
    with pytest.raises(UserError, match=changes):
        begin(folder, other)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        begin(folder, SETTINGS)
    with pytest.raises(UserError, match="holds no evaluation, but other files"):
        begin(tmp_path, SETTINGS)


def test_one_changed_weight_is_another_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = bytearray(200_000)
    file = tmp_path / "model.safetensors"
    file.write_bytes(weights)
    before = weights_digest(tmp_path)
    (tmp_path / "README.md").touch()
    assert weights_digest(tmp_path) == before
    weights[123_456] = 1
    file.write_bytes(weights)
    assert weights_digest(tmp_path) != before
