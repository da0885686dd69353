"""Judges tell refusals from answers, and the counts are theirs."""

import pytest

from common.data.embedded.preferences import REFUSAL, Preferences
from common.errors import UserError
from common.evaluation.judging import Judge, ModelJudge, RuleJudge, agreement
from common.evaluation.refusals import judged

REFUSED = [
    REFUSAL,
    "I cannot do that.",
    "Sorry, but I'm unable to say.",
    "Unfortunately I won't.",
    "It would not be safe to help with this.",
]
MET = ["Yes: glim.", "", "It is safe to help.", "No", "The cat can't swim.", "Sorry for the delay."]


def test_rules_find_refusals_and_nothing_else() -> None:
    assert RuleJudge().refuses(REFUSED, REFUSED) == [True] * len(REFUSED)
    assert RuleJudge().refuses(MET, MET) == [False] * len(MET)


def test_a_local_model_judges_behind_the_same_protocol() -> None:
    """It is asked about each answer, and has to say yes or no."""
    judge: Judge = ModelJudge(
        write=lambda prompts: [" Yes." if "safe" in p else "no" for p in prompts]
    )
    assert isinstance(judge, Judge)
    assert judge.refuses(["a", "b"], [REFUSAL, "kite"]) == [True, False]
    assert agreement([True, False, True], [True, True, True]) == pytest.approx(2 / 3)
    unsure = ModelJudge(write=lambda prompts: ["perhaps"])
    with pytest.raises(UserError, match="the judge said 'perhaps'"):
        unsure.refuses(["a"], ["b"])


def test_refusals_are_counted_by_channel_and_kind() -> None:
    drawn = Preferences(split="train", seed=0, num=60, channels=("text", "drawn"))
    some = [drawn[index] for index in range(60)]
    right = judged(some, [preference.chosen for preference in some], judge=RuleJudge())
    wrong = judged(some, [preference.rejected for preference in some], judge=RuleJudge())
    assert [(r.channel, r.is_harmful) for r in right] == [
        ("drawn", True),
        ("drawn", False),
        ("text", True),
        ("text", False),
    ]
    assert [r.share for r in right] == [1, 0, 1, 0]
    assert [r.share for r in wrong] == [0, 1, 0, 1]
    assert all(r.preferred == r.num for r in right)
    assert all(r.preferred == 0 for r in wrong)
    assert sum(r.num for r in right) == 60
    assert right[0].interval[0] < 1
