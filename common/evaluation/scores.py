"""What a suite returns: figures with the settings that they were taken under, a few examples to
look at, and what a reader has to know. A suite draws and prints nothing; its result is rendered
elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.evaluation.models import Medium


@dataclass(frozen=True, kw_only=True)
class Score:
    """One figure in the unit that its field quotes: shares in per cent, CIDEr-D times 100."""

    metric: str  # "VQA accuracy", "CIDEr-D", "R@1 image to text"
    value: float
    num: int  # examples behind it
    interval: tuple[float, float] | None = None  # 95 %, in the unit of the value
    shots: int | None = None
    blind: bool = False  # the same prompts without any medium
    setting: Mapping[str, str] = field(default_factory=dict)  # {"demonstrations": "rices"}
    part: Mapping[str, str] = field(default_factory=dict)  # {"answer type": "number"}; {}: of all


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One example as a reader of the report sees it."""

    media: tuple[Medium, ...]
    asked: str
    written: str
    expected: tuple[str, ...]
    is_hit: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class SuiteResult:
    """All figures of one benchmark, examples of hits and misses, and remarks."""

    name: str  # "VQAv2"
    scores: tuple[Score, ...]
    samples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()  # e.g. "3 of 975 clips were missing"
