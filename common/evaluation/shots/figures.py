"""Figures of one setting: a mean over examples with its interval, of all of them, of parts, and of
those whose medium was not seen in training; and which examples a reader is shown."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, islice, zip_longest
from statistics import fmean

from common.evaluation.intervals import RESAMPLES, bootstrap_interval
from common.evaluation.scores import Score
from common.evaluation.shots.protocol import Setting

UNCONTAMINATED = {"examples": "uncontaminated"}  # the part of a score without those seen before


def score_of(
    metric: str,
    value: float,
    *,
    setting: Setting,
    num: int,
    interval: tuple[float, float] | None = None,
    part: Mapping[str, str] | None = None,
) -> Score:
    """A figure as it is reported."""
    return Score(
        metric=metric,
        value=value,
        num=num,
        interval=interval,
        shots=setting.shots,
        blind=setting.blind,
        setting={"demonstrations": setting.method},
        part=part or {},
    )


def mean_scores(
    metric: str,
    values: Sequence[float],
    *,
    setting: Setting,
    contaminated: frozenset[int],
    parts: Mapping[str, Sequence[str]] | None = None,
) -> list[Score]:
    """The mean of one value per example, and that of each part of them.

    Args:
        contaminated: places of examples; without them the mean stands there once more.
        parts: by name, each example's: `{"answer type": ["number", "other", "number"]}`.
    """

    def score(places: Sequence[int], part: Mapping[str, str]) -> Score:
        own = [values[place] for place in places]
        interval = bootstrap_interval(own)
        return score_of(
            metric, fmean(own), setting=setting, num=len(own), interval=interval, part=part
        )

    scores = [score(*view) for view in views(len(values), contaminated=contaminated)]
    for name, labels in (parts or {}).items():
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for place, label in enumerate(labels):
            groups[label].append(place)
        scores += [score(groups[label], {name: label}) for label in sorted(groups)]
    return scores


def views(
    num: int, *, contaminated: frozenset[int]
) -> list[tuple[Sequence[int], Mapping[str, str]]]:
    """The places of all examples, and of the uncontaminated ones where some are not."""
    clean = [place for place in range(num) if place not in contaminated]
    some = [(clean, UNCONTAMINATED)] if 0 < len(clean) < num else []
    return [(range(num), {}), *some]


def over_seeds(per_seed: Sequence[Sequence[float]]) -> list[float]:
    """Each example's mean over the seeds."""
    return [fmean(values) for values in zip(*per_seed, strict=True)]


def seeds_note(metric: str, per_seed: Sequence[float], *, setting: Setting) -> list[str]:
    """What the demonstrations of each seed gave, where there are several."""
    if len(per_seed) < 2 or setting.blind:
        return []
    listed = ", ".join(f"{value:.1f}" for value in per_seed)
    seeds = ", ".join(map(str, setting.seeds))
    return [f"{metric} with {setting.shots} random shots under seeds {seeds}: {listed}."]


def interval_note(examples: str) -> str:
    """What the intervals of means are: `interval_note("questions")`."""
    return (
        f"Intervals: 95 %, percentile bootstrap over {examples} ({RESAMPLES} resamples), values "
        f"meaned over the seeds first: they tell how far other {examples}, not other "
        "demonstrations, would move a figure."
    )


def in_turn(is_hit: Sequence[bool], *, num: int) -> list[int]:
    """Places of a hit, a miss, a hit ... as they come: `[0, 1, 1, 1], num=3 -> 1 0 2`."""
    hits = [place for place, hit in enumerate(is_hit) if hit]
    misses = [place for place, hit in enumerate(is_hit) if not hit]
    pairs = chain.from_iterable(zip_longest(hits, misses))
    return list(islice((place for place in pairs if place is not None), num))
