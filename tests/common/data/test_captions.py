"""Captions and questions tell the truth about their scenes."""

import re

from common.data.embedded.captions import PLURALS, caption, full_caption, questions
from common.data.embedded.scenes import ATTRIBUTES, Scene, scenes_in
from common.data.randomness import generator_at

WORDS = {word: name for name, words in ATTRIBUTES.items() for word in words}
WORDS |= {plural: "shape" for singular, plural in PLURALS.items() if singular in WORDS}
SCENE = Scene(colour="red", shape="circle", count="two", position="left", size="small")


def named_attributes(text: str, scene: Scene) -> set[str]:
    """The attributes that a text names, each checked against the scene."""
    found = set()
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in WORDS:
            name = WORDS[word]
            assert word in (scene.value(name), PLURALS.get(scene.value(name))), (text, scene)
            found.add(name)
    return found


def drawn_captions() -> list[tuple[str, Scene]]:
    return [
        (caption(scene, generator_at(seed=1, index=index, stream="test")), scene)
        for index, scene in enumerate(scenes_in("train"))
    ]


def test_drawn_captions_are_true_and_say_something() -> None:
    for text, scene in drawn_captions():
        described = named_attributes(text, scene)
        plural = any(noun in text.split() for noun in PLURALS.values())
        assert described or plural, text
        assert not (plural and scene.count == "one"), text


def test_some_captions_name_all_attributes_and_others_only_one() -> None:
    sizes = [len(named_attributes(text, scene)) for text, scene in drawn_captions()]
    assert sizes.count(5) > len(sizes) / 3
    assert sizes.count(1) > len(sizes) / 20


def test_every_attribute_is_sometimes_left_out_and_sometimes_named() -> None:
    described = [named_attributes(text, scene) for text, scene in drawn_captions()]
    for name in ATTRIBUTES:
        assert 0.5 < sum(name in names for names in described) / len(described) < 0.9


def test_full_captions_are_as_distinct_as_their_scenes() -> None:
    scenes = scenes_in("train")
    assert len({full_caption(scene) for scene in scenes}) == len(scenes)
    assert full_caption(SCENE) == "two small red circles on the left"


def test_questions_have_one_word_answers_for_every_attribute() -> None:
    asked = questions(SCENE)
    assert {answer.attribute for answer in asked} == set(ATTRIBUTES)
    assert all(answer.answer == SCENE.value(answer.attribute) for answer in asked)
    assert len({answer.question for answer in asked}) == len(asked)


def test_articles_agree_with_the_next_word() -> None:
    texts = [text for text, _ in drawn_captions()]
    assert any(" an orange" in f" {text}" for text in texts)
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", text) for text in texts)
