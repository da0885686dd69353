"""What the filters kept, copied byte for byte, and what they left out, counted."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from common.data.quality.sample import SampleSource
from common.data.quality.survey import Reasons, Survey

# Takes a sample's key and encoded members, as `ShardWriter.write` does.
Writer: TypeAlias = Callable[[str, Mapping[str, bytes]], None]


def write_kept(
    source: SampleSource, survey: Survey, reasons: Reasons, *, write: Writer, skip: int = 0
) -> int:
    """Writes all samples without a reason, in order, but the first `skip` of them, which an
    earlier run has written; says how many it wrote.

    Raises:
        BadSample: a sample cannot be read any more.
    """
    kept = np.flatnonzero(reasons == "")[skip:]
    for index in kept.tolist():
        write(str(survey.keys[index]), source.members(index))
    return len(kept)


def count_reasons(reasons: Reasons) -> Counter[str]:
    """How many samples were left out, by reason."""
    return Counter(reason for reason in reasons.tolist() if reason)
