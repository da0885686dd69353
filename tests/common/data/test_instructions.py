"""Instructions tell the truth, and what is held out is never trained on."""

import re

import pytest

from common.data.document import Recording
from common.data.embedded.instructions import (
    HELD_OUT_WORDINGS,
    WORDINGS,
    Instructions,
    exact_matches,
    values_of,
)

TRAIN = Instructions(split="train", seed=3, num=300)
HELD_OUT = Instructions(split="held_out", seed=3, num=300)


def test_held_out_wordings_are_none_of_the_trained_ones_and_ask_for_the_same() -> None:
    for about, attributes in WORDINGS.items():
        assert attributes.keys() == HELD_OUT_WORDINGS[about].keys()
        trained = {wording for wordings in attributes.values() for wording in wordings}
        held_out = [w for wordings in HELD_OUT_WORDINGS[about].values() for w in wordings]
        assert not trained & {*held_out}
        # A wording names its attribute: none may ask for two.
        assert len({*held_out}) == len(held_out)
        assert len(trained) == sum(len(wordings) for wordings in attributes.values())


def test_every_answer_is_a_value_of_what_is_asked_for() -> None:
    asked = set()
    for instruction in [
        *map(TRAIN.__getitem__, range(300)),
        *map(HELD_OUT.__getitem__, range(300)),
    ]:
        assert instruction.answer in values_of(instruction.about, instruction.attribute)
        is_heard = isinstance(instruction.medium, Recording)
        assert (instruction.medium is None) == (instruction.about == "text")
        assert is_heard == (instruction.about == "sound")
        asked.add((instruction.about, instruction.attribute))
    assert asked == {(about, name) for about, names in WORDINGS.items() for name in names}


def test_text_instructions_hold_their_answers() -> None:
    texts = Instructions(split="held_out", seed=1, num=40, subjects=("text",))
    for index in range(40):
        instruction = texts[index]
        named = re.findall(r"[a-z]+", instruction.text)
        places = [named.index(word) for word in named if word in values_of("text", "word")]
        assert instruction.answer == named[min(places)]


def test_instructions_are_the_same_in_any_order() -> None:
    assert TRAIN[7].text == Instructions(split="train", seed=3, num=8)[7].text
    assert len({TRAIN[index].text for index in range(50)}) > 20
    with pytest.raises(IndexError):
        HELD_OUT[300]


def test_only_the_word_itself_is_a_match() -> None:
    three = [TRAIN[0]] * 4
    word = TRAIN[0].answer
    (counts,) = exact_matches(three, [word, f" {word.upper()}.", f"{word} {word}", ""]).values()
    assert counts == (2, 4)
