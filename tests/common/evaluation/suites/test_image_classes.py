"""Zero-shot classes of images: prompts averaged as CLIP's, counted in all and per class."""

from pathlib import Path

import pytest
import torch.nn.functional as F

from common.errors import UserError
from common.evaluation.intervals import wilson_interval
from common.evaluation.suites.image_classes import ImageClassesConfig, run_image_classes
from common.evaluation.work import Workplace
from tests.common.evaluation.suites.known_media import confused, oracle, write_image

# Class -> numbers of its images; classes are known by the numbers in their names.
IMAGES = {"kind 3": (3, 3, 4), "kind 4": (4,), "kind 8": (8, 3)}
TEMPLATES = ("a photo of a {}.", "drawn: {}")


@pytest.fixture
def config(tmp_path: Path) -> ImageClassesConfig:
    for place, (_, numbers) in enumerate(IMAGES.items()):
        for count, number in enumerate(numbers):
            write_image(tmp_path / "val" / f"n{place}" / f"{count}.png", number)
    lines = [f"n{place} {name}, another name" for place, name in enumerate(IMAGES)]
    (tmp_path / "names.txt").write_text("\n".join(lines))
    (tmp_path / "templates.txt").write_text("\n".join(TEMPLATES))
    return ImageClassesConfig(
        images=tmp_path / "val",
        names=tmp_path / "names.txt",
        templates=tmp_path / "templates.txt",
        at=(1, 2),
    )


def test_an_oracle_misses_only_what_is_labelled_wrongly(
    config: ImageClassesConfig, tmp_path: Path
) -> None:
    result = run_image_classes(config, oracle(), Workplace(folder=tmp_path, batch_size=4))
    top1, chance1, top2, chance2, *classes = result.scores
    assert (top1.metric, top1.value, top1.num) == ("top-1 accuracy", pytest.approx(400 / 6), 6)
    low, high = wilson_interval(4, 6)
    assert top1.interval == pytest.approx((100 * low, 100 * high))
    assert [chance1.value, chance2.value] == pytest.approx([100 / 3, 200 / 3])
    assert [c.setting for c in (chance1, chance2)] == [{"baseline": "chance"}] * 2
    # All other classes are equally unlike, and equals count against the right one.
    assert top2.value == top1.value
    assert {score.part["class"]: round(score.value) for score in classes} == {
        "kind 3": 67,
        "kind 4": 100,
        "kind 8": 50,
    }
    assert [sample.is_hit for sample in result.samples] == [True, False, True, False, True, True]
    assert result.samples[1].expected == ("kind 3",)
    assert result.samples[1].written == "kind 4"
    assert result.notes == ("3 classes in prompts as 'a photo of a {}.' and 1 more",)


@pytest.mark.parametrize("seed", range(3))
def test_vectors_of_prompts_are_averaged_and_of_length_one_again(
    config: ImageClassesConfig, tmp_path: Path, seed: int
) -> None:
    model = confused(seed)
    result = run_image_classes(config, model, Workplace(folder=tmp_path, batch_size=4))
    means = {
        name: F.normalize(model.text_vectors([t.format(name) for t in TEMPLATES]).mean(0), dim=0)
        for name in IMAGES
    }
    hits = {1: 0, 2: 0}
    for name, numbers in IMAGES.items():
        for number in numbers:
            order = sorted(means, key=lambda other: -float(means[other] @ model.media(number)))
            for k in hits:
                hits[k] += name in order[:k]
    found = {s.metric: s.value for s in result.scores if not s.setting and not s.part}
    assert found == pytest.approx({f"top-{k} accuracy": 100 * n / 6 for k, n in hits.items()})


def test_a_limit_leaves_all_classes_to_choose_from(
    config: ImageClassesConfig, tmp_path: Path
) -> None:
    work = Workplace(folder=tmp_path, batch_size=4, limit=1)
    result = run_image_classes(config, oracle(), work)
    assert [score.num for score in result.scores if score.part] == [1]
    assert result.scores[0].num == 1
    assert result.scores[1].value == pytest.approx(100 / 3)


def test_an_impossible_k_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="numbers from 1 on"):
        ImageClassesConfig(images=tmp_path, at=(0, 5))
