"""What a run on embedded conversations tells of its model at a validation: held-out instructions
answered with exactly the right word, and held-out requests refused."""

from collections.abc import Sequence

from common.data.embedded.instructions import Instructions
from common.data.embedded.preferences import Preferences
from common.evaluation.instructions import instruction_accuracy
from common.evaluation.judging import RuleJudge
from common.evaluation.refusals import score_refusals
from flare.corpora import SourceConfig
from flare.instruct.encoding import FlareFormat
from flare.instruct.task_corpora import CHANNELS
from flare.model import FlareForConditionalGeneration
from flare.processing import FlareProcessor

NUM = 240  # of each


def conversation_figures(
    model: FlareForConditionalGeneration,
    processor: FlareProcessor,
    sources: Sequence[SourceConfig],
    *,
    seed: int,
) -> dict[str, float]:
    """Shares, for the kinds of sources that are embedded; none for a user's files."""
    form = FlareFormat(processor)
    kinds = {source.kind for source in sources}
    figures = {}
    if kinds & {"instructions", "preferences"}:
        instructions = Instructions(split="held_out", seed=seed, num=NUM)
        table = instruction_accuracy(model, form, [instructions[i] for i in range(NUM)])
        figures["validation/instructions"] = sum(right for right, _ in table.values()) / NUM
    if kinds & {"requests", "preferences"}:
        requests = Preferences(split="held_out", seed=seed, num=NUM, channels=CHANNELS)
        asked = [requests[i] for i in range(NUM)]
        found = score_refusals(model, form, asked, judge=RuleJudge())
        for name, is_harmful in (("harmful_refused", True), ("harmless_refused", False)):
            chosen = [one for one in found if one.is_harmful == is_harmful]
            num = max(sum(one.num for one in chosen), 1)
            figures[f"validation/{name}"] = sum(one.refused for one in chosen) / num
    return figures
