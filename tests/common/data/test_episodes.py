"""Few-shot episodes: one attribute throughout, told by the shots alone."""

from collections import Counter

import numpy as np
import pytest

from common.data.embedded.episodes import (
    ANSWERS,
    Episode,
    answer_prior,
    draw_episode,
    episode_document,
)
from common.data.embedded.scenes import ATTRIBUTES


def answers_of(episode: Episode) -> list[str]:
    return [shot.answer for shot in (*episode.shots, episode.query)]


def test_an_episode_asks_one_attribute_throughout() -> None:
    for index in range(60):
        episode = draw_episode(0, index, "train", num_shots=4)
        assert set(answers_of(episode)) <= set(ANSWERS[episode.attribute])


def test_every_attribute_is_asked() -> None:
    episodes = [draw_episode(0, index, "train", num_shots=0) for index in range(120)]
    asked = Counter(episode.attribute for episode in episodes)
    assert set(asked) == set(ANSWERS)
    assert min(asked.values()) > 8


def test_no_two_scene_attributes_share_an_answer_so_one_shot_tells_which_is_asked() -> None:
    words = [word for attribute in ATTRIBUTES for word in ANSWERS[attribute]]
    assert len(words) == len(set(words))


def test_without_shots_the_prompts_of_all_scene_attributes_are_identical() -> None:
    prompts = [
        draw_episode(0, 7, "unseen_scenes", num_shots=0, attributes=(attribute,)).prompt().parts
        for attribute in ATTRIBUTES
    ]
    for image, text in prompts:
        assert np.array_equal(image, prompts[0][0])
        assert text == "Output:"


def test_more_shots_keep_the_query_and_the_first_shots() -> None:
    few = draw_episode(2, 3, "unseen_pairs", num_shots=2)
    many = draw_episode(2, 3, "unseen_pairs", num_shots=5)
    assert few.attribute == many.attribute
    assert few.query.image.tobytes() == many.query.image.tobytes()
    pairs = zip(few.shots, many.shots[:2], strict=True)
    assert all(a.image.tobytes() == b.image.tobytes() for a, b in pairs)


def test_the_prompt_is_the_document_up_to_the_answer() -> None:
    episode = draw_episode(1, 1, "train", num_shots=3)
    prompt, document = episode.prompt().parts, episode.document().parts
    assert len(prompt) == len(document) == 8
    assert document[-1] == f"{prompt[-1]} {episode.query.answer}"
    assert prompt[1] == f"Output: {episode.shots[0].answer}"


def test_a_training_document_holds_six_images() -> None:
    parts = episode_document(0, 0, "train").parts
    assert sum(isinstance(part, np.ndarray) for part in parts) == 6


@pytest.mark.parametrize("attribute", list(ANSWERS))
def test_the_answer_prior_is_the_share_of_the_most_frequent_answer(attribute: str) -> None:
    answers = Counter(
        draw_episode(0, index, "unseen_scenes", num_shots=0, attributes=(attribute,)).query.answer
        for index in range(400)
    )
    prior = answer_prior(attribute, "unseen_scenes")
    assert 1 / len(ANSWERS[attribute]) <= prior
    assert max(answers.values()) / 400 == pytest.approx(prior, abs=0.08)
