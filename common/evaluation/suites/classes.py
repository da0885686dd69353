"""Classification by likelihood: of all classes' names the one that a model finds most probable
after some demonstrations and the query, as Flamingo's close-ended tasks. Folders of image classes
as ImageNet's, and ESC-50."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal

import numpy as np
import tyro

from common.data.prompts import OUTPUT_PROMPT
from common.data.randomness import generator_at
from common.errors import UserError
from common.evaluation.benchmarks.image_classes import read_classified_images
from common.evaluation.benchmarks.items import LabelledSound
from common.evaluation.benchmarks.sounds import ESC50_FOLDS, read_esc50
from common.evaluation.intervals import wilson_interval
from common.evaluation.models import Prompt, Writer
from common.evaluation.scores import Sample, Score, SuiteResult
from common.evaluation.shots.contamination import ContaminationConfig, find_contamination
from common.evaluation.shots.demonstrations import part_of
from common.evaluation.shots.exemplars import Exemplar, MediumKind, read_medium
from common.evaluation.shots.figures import in_turn, over_seeds, score_of, seeds_note, views
from common.evaluation.shots.protocol import Setting, ShotsConfig, few_shot, settings_of
from common.evaluation.work import Workplace

METRIC = "top-1 accuracy"
TITLES = {"images": "Image classes", "esc50": "ESC-50"}
NUM_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class ClassesConfig:
    """Classes of images or sounds by the likelihood of their names."""

    # images: a folder of images for each class, as ImageNet's; esc50: ESC-50's folder.
    dataset: Literal["images", "esc50"]
    # Folder that holds the folders of classes, or ESC-50's meta and audio.
    folder: Path
    # The same of images from which demonstrations are made.
    train_folder: Path | None = None
    # Lines `n01440764 tench, Tinca tinca` (LOC_synset_mapping.txt); none: folders bear the names.
    names: Path | None = None
    # ESC-50's folds to evaluate; demonstrations come from the others.
    esc50_folds: tuple[int, ...] = (5,)
    # Orders of the demonstrations over which a class's log-probabilities are meaned.
    permutations: int = 6
    # Divide a name's log-probability by its length in characters.
    per_character: bool = False
    shots: Annotated[ShotsConfig, tyro.conf.arg(name="")] = field(default_factory=ShotsConfig)
    contamination: Annotated[ContaminationConfig, tyro.conf.arg(name="")] = field(
        default_factory=ContaminationConfig
    )

    def __post_init__(self) -> None:
        if self.permutations < 1:
            raise UserError(f"{self.permutations=}: use at least 1")
        rest = set(ESC50_FOLDS) - set(self.esc50_folds)
        if not self.esc50_folds or len(rest) + len(self.esc50_folds) != len(ESC50_FOLDS):
            raise UserError(f"{self.esc50_folds=}: name some of {ESC50_FOLDS}, each once")
        if self.dataset == "esc50" and self.shots.needs_pool and not rest:
            raise UserError("demonstrations come from folds that are not evaluated; leave one")
        if self.dataset == "esc50" and (self.train_folder or self.names):
            raise UserError(
                "ESC-50 names its classes itself and demonstrations come from its other folds; "
                "leave out --train-folder and --names"
            )


def run_classes(config: ClassesConfig, model: Writer, work: Workplace) -> SuiteResult:
    """Weigh every class after every medium in every setting.

    Raises:
        UserError: a file is missing or malformed, or a setting asks for what was not named.
    """
    found = _read(config)
    # Drawn, if not all of them: in their order most classes would be left out.
    evaluated = part_of(found.evaluated, work.limit)
    asking = few_shot(
        config.shots,
        kind=found.kind,
        queries=[_exemplar(item, found.names) for item in evaluated],
        pool=[_exemplar(item, found.names) for item in found.train],
        model=model,
        work=work,
    )
    seen = find_contamination(asking, config=config.contamination)
    settings = settings_of(config.shots)
    shown = max((row for row in settings if not row.blind), key=lambda row: row.shots)
    scores, samples, notes = list[Score](), list[Sample](), [*seen.notes, *_notes(config, found)]
    for setting in settings:
        weigh = partial(_most_likely, model, names=found.names, config=config)
        labels = asking.ask(setting, weigh)
        is_right = [
            [float(label == item.label) for label, item in zip(chosen, evaluated, strict=True)]
            for chosen in labels
        ]
        scores += _scores(over_seeds(is_right), setting=setting, contaminated=seen.places)
        notes += seeds_note(METRIC, [100 * fmean(own) for own in is_right], setting=setting)
        if setting == shown:
            samples = _samples(evaluated, labels[0], found)
    return SuiteResult(
        name=f"{TITLES[config.dataset]} by likelihood",
        scores=tuple(scores),
        samples=tuple(samples),
        notes=tuple(notes),
    )


def orders(num_examples: int, *, num: int) -> list[tuple[int, ...]]:
    """Different orders of some examples, the given one first; all where there are no more of them.

    They are the same for every query.
    """
    if math.factorial(num_examples) <= num:
        return list(itertools.permutations(range(num_examples)))
    generator = generator_at(seed=0, index=num_examples, stream="classes/orders")
    found = {tuple(range(num_examples)): None}
    while len(found) < num:
        found[tuple(generator.permutation(num_examples).tolist())] = None
    return list(found)


@dataclass(frozen=True, kw_only=True)
class _Classified:
    key: str
    medium: Path
    label: int


@dataclass(frozen=True, kw_only=True)
class _Classes:
    kind: MediumKind
    names: tuple[str, ...]
    evaluated: Sequence[_Classified]
    train: Sequence[_Classified]


def _read(config: ClassesConfig) -> _Classes:
    if config.dataset == "images":
        names, evaluated = _read_images(config.folder, config.names)
        train: Sequence[_Classified] = ()
        if config.train_folder is not None:
            others, train = _read_images(config.train_folder, config.names)
            if others != names:
                raise UserError(
                    f"{config.train_folder} and {config.folder} hold different classes; name "
                    "folders of one data set"
                )
        return _Classes(kind="image", names=names, evaluated=evaluated, train=train)
    rest = tuple(fold for fold in ESC50_FOLDS if fold not in config.esc50_folds)
    found = read_esc50(config.folder, folds=config.esc50_folds)
    return _Classes(
        kind="sound",
        names=found.names,
        evaluated=_sounds(found.sounds),
        train=_sounds(read_esc50(config.folder, folds=rest).sounds) if rest else (),
    )


def _read_images(folder: Path, names: Path | None) -> tuple[tuple[str, ...], list[_Classified]]:
    found = read_classified_images(folder, names=names)
    return found.names, [
        _Classified(
            key=item.image.relative_to(folder).as_posix(), medium=item.image, label=item.label
        )
        for item in found.images
    ]


def _sounds(sounds: Sequence[LabelledSound]) -> list[_Classified]:
    return [_Classified(key=item.key, medium=item.sound, label=item.labels[0]) for item in sounds]


def _exemplar(item: _Classified, names: Sequence[str]) -> Exemplar:
    return Exemplar(
        key=item.key,
        medium=item.medium,
        medium_id=str(item.medium.resolve()),
        text=OUTPUT_PROMPT,
        answer=names[item.label],
    )


def _notes(config: ClassesConfig, found: _Classes) -> list[str]:
    length = ", divided by the characters of its name" if config.per_character else ""
    return [
        f"Of {len(found.names)} classes (chance: {100 / len(found.names):.1f} %) the one of the "
        f"highest log-probability counts{length}, "
        f"meaned over up to {config.permutations} orders of the demonstrations.",
        f"Intervals: 95 %, Wilson, over {found.kind}s; right answers are meaned over the seeds "
        "first.",
    ]


def _most_likely(
    model: Writer, prompts: Sequence[Prompt], *, names: Sequence[str], config: ClassesConfig
) -> list[int]:
    """The place of the most likely name after each prompt; of equal ones the first."""
    ways = orders(len(prompts[0]) - 1, num=config.permutations)
    answers = [names] * len(prompts)
    weights = np.mean(
        [
            model.log_likelihoods([_reordered(prompt, way) for prompt in prompts], answers)
            for way in ways
        ],
        axis=0,
    )
    if config.per_character:
        weights = weights / [len(name) for name in names]
    return [int(label) for label in weights.argmax(axis=1)]


def _reordered(prompt: Prompt, order: Sequence[int]) -> Prompt:
    return (*(prompt[place] for place in order), prompt[-1])


def _scores(
    is_right: Sequence[float], *, setting: Setting, contaminated: frozenset[int]
) -> list[Score]:
    scores = []
    for places, part in views(len(is_right), contaminated=contaminated):
        correct, num = math.fsum(is_right[place] for place in places), len(places)
        low, high = wilson_interval(correct, num)
        interval = (100 * low, 100 * high)
        scores.append(
            score_of(
                METRIC, 100 * correct / num, setting=setting, num=num, interval=interval, part=part
            )
        )
    return scores


def _samples(
    evaluated: Sequence[_Classified], labels: Sequence[int], found: _Classes
) -> list[Sample]:
    is_hit = [item.label == label for item, label in zip(evaluated, labels, strict=True)]
    return [
        Sample(
            media=(read_medium(evaluated[place].medium, kind=found.kind),),
            asked=f"the most likely of {len(found.names)} classes",
            written=found.names[labels[place]],
            expected=(found.names[evaluated[place].label],),
            is_hit=is_hit[place],
        )
        for place in in_turn(is_hit, num=NUM_SAMPLES)
    ]
