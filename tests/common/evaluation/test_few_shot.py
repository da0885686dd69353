"""Few-shot evaluation judges writers whose accuracy is known beforehand."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from common.data.document import Image
from common.data.embedded.episodes import ANSWERS, EpisodeAttribute, answer_prior, draw_episode
from common.data.embedded.scenes import ATTRIBUTES
from common.errors import UserError
from common.evaluation.few_shot import (
    SOURCES,
    FewShotConfig,
    FewShotEvaluation,
    Generate,
    evaluate_few_shot,
    normalise,
)

CONFIG = FewShotConfig(num_episodes=40, batch_size=7, shots=(0, 1, 3), control_shots=(0, 3))
Parts = Sequence[str | Image]


class Oracle:
    """Knows every image by heart, and reads from the shots what is asked."""

    def __init__(self, *, config: FewShotConfig, num_shots: int) -> None:
        self.words: dict[bytes, dict[EpisodeAttribute, str]] = {}
        settings = [(split, name) for split, names in SOURCES.values() for name in names]
        for (split, asked), index in product(settings, range(config.num_episodes)):
            episode = draw_episode(
                config.seed, index, split, num_shots=num_shots, attributes=(asked,)
            )
            for shot in (*episode.shots, episode.query):
                self.words.setdefault(shot.image.tobytes(), {})[asked] = shot.answer

    def __call__(self, documents: Sequence[Parts], *, max_new_tokens: int) -> list[str]:
        return [self._write(parts) for parts in documents]

    def _write(self, parts: Parts) -> str:
        images = [part.tobytes() for part in parts if isinstance(part, np.ndarray)]
        if not images:
            return " nothing"
        shown = {part.split()[-1] for part in parts if isinstance(part, str)}
        known = self.words[images[-1]]
        # "two" counts shapes and names a digit: the picture tells which.
        asked = [name for name in known if shown & set(ANSWERS[name])]
        return f" {known[asked[0]] if asked else known.get('colour', 'unknown')}.\n".upper()


@pytest.fixture(scope="module")
def oracle() -> FewShotEvaluation:
    return evaluate_few_shot(Oracle(config=CONFIG, num_shots=3), config=CONFIG)


def constant(answer: str) -> Generate:
    def generate(documents: Sequence[Parts], *, max_new_tokens: int) -> list[str]:
        return [answer for _ in documents]

    return generate


def test_an_oracle_that_reads_shots_is_always_right_with_a_shot(oracle: FewShotEvaluation) -> None:
    for split in CONFIG.splits:
        for shots in (1, 3):
            assert oracle.result(split, shots=shots).total.accuracy == 1


def test_without_shots_the_oracle_knows_only_the_attribute_that_it_assumes(
    oracle: FewShotEvaluation,
) -> None:
    row = oracle.result("unseen_scenes", shots=0)
    assert row.per_attribute["colour"].accuracy == 1
    assert row.total.correct == row.per_attribute["colour"].correct


def test_shuffled_images_leave_an_oracle_of_images_at_the_prior(oracle: FewShotEvaluation) -> None:
    for split in ("unseen_scenes", "digits"):
        row = oracle.result(split, shots=3, control="images_shuffled")
        assert row.total.interval[0] < row.prior
        assert row.total.accuracy < 0.5


def test_shots_removed_is_the_query_alone_and_equals_zero_shots(oracle: FewShotEvaluation) -> None:
    removed = oracle.result("unseen_pairs", shots=3, control="shots_removed")
    zero = oracle.result("unseen_pairs", shots=0)
    assert removed.per_attribute == zero.per_attribute


def test_text_only_shows_no_image(oracle: FewShotEvaluation) -> None:
    assert oracle.result("unseen_scenes", shots=3, control="text_only").total.correct == 0


def test_the_constant_most_frequent_answer_reaches_the_prior() -> None:
    answer = max(ATTRIBUTES["size"], key=lambda word: _share_of("size", word))
    config = FewShotConfig(
        splits=("unseen_scenes",), shots=(0,), control_shots=(), num_episodes=400
    )
    row = evaluate_few_shot(constant(answer), config=config).result("unseen_scenes", shots=0)
    low, high = row.per_attribute["size"].interval
    assert low < answer_prior("size", "unseen_scenes") < high
    assert row.per_attribute["colour"].correct == 0


def _share_of(attribute: EpisodeAttribute, word: str) -> float:
    episodes = [
        draw_episode(9, index, "unseen_scenes", num_shots=0, attributes=(attribute,))
        for index in range(300)
    ]
    return sum(episode.query.answer == word for episode in episodes) / 300


def test_chance_and_prior_are_averaged_over_the_attributes_that_were_asked(
    oracle: FewShotEvaluation,
) -> None:
    row = oracle.result("unseen_scenes", shots=1)
    numbers = {name: tally.num for name, tally in row.per_attribute.items()}
    assert sum(numbers.values()) == CONFIG.num_episodes
    expected = sum(num / len(ANSWERS[name]) for name, num in numbers.items()) / 40
    assert row.chance == pytest.approx(expected)
    assert oracle.result("digits", shots=1).chance == pytest.approx(0.1)


def test_shuffling_keeps_every_text_and_no_image_of_its_own_episode() -> None:
    seen: list[Parts] = []

    def record(documents: Sequence[Parts], *, max_new_tokens: int) -> list[str]:
        seen.extend(documents)
        return ["" for _ in documents]

    config = FewShotConfig(
        splits=("digits",), shots=(2,), control_shots=(2,), num_episodes=11, batch_size=4
    )
    evaluate_few_shot(record, config=config)
    plain, shuffled = seen[:11], seen[11:22]
    for ours, theirs in zip(plain, shuffled, strict=True):
        own = {part.tobytes() for part in ours if not isinstance(part, str)}
        given = [part.tobytes() for part in theirs if not isinstance(part, str)]
        assert [p for p in ours if isinstance(p, str)] == [p for p in theirs if isinstance(p, str)]
        assert len(given) == 3
        assert not own & set(given)


def test_case_punctuation_and_spacing_of_an_answer_do_not_count() -> None:
    assert normalise("  Two  red\nCircles!") == "two red circles"
    assert normalise("red or blue") != normalise("red")


def test_a_writer_that_drops_a_prompt_is_an_error() -> None:
    with pytest.raises(ValueError, match="6 texts for 7 prompts"):
        evaluate_few_shot(lambda documents, *, max_new_tokens: ["red"] * 6, config=CONFIG)


def test_impossible_settings_are_told_in_one_line() -> None:
    with pytest.raises(UserError, match="none negative"):
        FewShotConfig(shots=(-1,))
    with pytest.raises(UserError, match="two episodes"):
        FewShotConfig(num_episodes=1)
