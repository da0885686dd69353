"""The prompts that reach a model are those that Flamingo and OpenFlamingo publish."""

from dataclasses import replace
from pathlib import Path

import pytest

from common.data.images import read_image
from common.errors import UserError
from common.evaluation.shots.exemplars import Exemplar
from common.evaluation.shots.protocol import FewShot, Setting, ShotsConfig, few_shot, settings_of
from common.evaluation.work import Workplace
from tests.common.evaluation.shots.writers import exemplars, shown, words

CONFIG = ShotsConfig(shots=(0, 3, 5), seeds=(4, 7))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Exemplar]:
    return exemplars(tmp_path_factory.mktemp("pool"), 20, first=100)


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> list[Exemplar]:
    return exemplars(tmp_path_factory.mktemp("queries"), 6)


def asking(queries: list[Exemplar], pool: list[Exemplar], config: ShotsConfig = CONFIG) -> FewShot:
    work = Workplace(folder=Path("unused"), batch_size=4)
    return few_shot(config, kind="image", queries=queries, pool=pool, model=None, work=work)


def row(shots: int, *, blind: bool = False) -> Setting:
    return Setting(shots=shots, method="random", seeds=CONFIG.seeds, blind=blind)


def test_examples_stand_before_the_query_each_with_its_own_image_text_and_answer(
    queries: list[Exemplar], pool: list[Exemplar]
) -> None:
    (prompt,) = asking(queries, pool).prompts(row(3), 4, [2])
    *examples, query = prompt
    by_text = {example.text: example for example in pool}
    used = [by_text[turn.text] for turn in examples]
    assert len({example.key for example in used}) == 3
    assert [turn.answer for turn in examples] == [example.answer for example in used]
    pictures = [read_image(one.medium).tobytes() for one in [*used, queries[2]]]
    assert shown(prompt) == pictures
    assert (query.text, query.answer) == ("Question: 2? Short answer:", None)


def test_zero_shots_are_two_examples_without_images_or_none_at_all(
    queries: list[Exemplar], pool: list[Exemplar]
) -> None:
    (prompt,) = asking(queries, pool).prompts(row(0), 4, [1])
    assert [num for num, _, _ in words(prompt)] == [0, 0, 1]
    assert all(answer is not None for _, _, answer in words(prompt)[:2])
    alone = ShotsConfig(shots=(0,), text_only_examples=0, demonstrations=("random", "rices"))
    settings = settings_of(alone)
    assert [(setting.method, setting.blind) for setting in settings] == [
        ("none", False),
        ("none", True),
    ]
    (prompt,) = asking(queries, [], alone).prompts(settings[0], None, [1])
    assert words(prompt) == [(1, "Question: 1? Short answer:", None)]


def test_blind_prompts_are_the_same_words_without_any_image(
    queries: list[Exemplar], pool: list[Exemplar]
) -> None:
    fewer = asking(queries, pool)
    for shots in (0, 3):
        seen = fewer.prompts(row(shots), 7, range(6))
        blind = fewer.prompts(row(shots, blind=True), 7, range(6))
        for ours, theirs in zip(seen, blind, strict=True):
            assert [part[1:] for part in words(ours)] == [part[1:] for part in words(theirs)]
            assert shown(ours)
            assert not shown(theirs)


def test_more_shots_end_in_the_fewer_ones_and_seeds_and_queries_differ(
    queries: list[Exemplar], pool: list[Exemplar]
) -> None:
    fewer = asking(queries, pool)

    def texts(shots: int, seed: int, place: int) -> list[str]:
        (prompt,) = fewer.prompts(row(shots), seed, [place])
        return [turn.text for turn in prompt[:-1]]

    assert texts(5, 4, 0)[2:] == texts(3, 4, 0)
    assert texts(3, 4, 0)[1:] == texts(0, 4, 0)
    assert len({tuple(texts(5, seed, place)) for seed in (4, 7) for place in range(6)}) == 12


def test_a_random_draw_never_shows_the_querys_own_image(
    queries: list[Exemplar], pool: list[Exemplar]
) -> None:
    others = pool[:5]
    own = [replace(query, key=f"own {query.key}") for query in queries]
    few = asking(queries, [*own, *others])
    for place in range(6):
        (prompt,) = few.prompts(row(5), 4, [place])
        assert len(set(shown(prompt))) == 6
    tiny = ShotsConfig(shots=(4,), seeds=(0,))
    with pytest.raises(UserError, match="4 demonstrations were asked for, but 3 examples"):
        asking(queries, [own[0], *pool[:3]], tiny).prompts(row(4), 0, [0])


def test_settings_are_a_row_per_method_and_number_of_shots_each_with_its_blind_one() -> None:
    config = ShotsConfig(shots=(0, 4), demonstrations=("random", "rices"), seeds=(1, 2))
    names = [setting.name(seed) for setting in settings_of(config) for seed in setting.seeds]
    assert names == [
        "0-shot_random_seed-1",
        "0-shot_random_seed-2",
        "0-shot_random_seed-1_blind",
        "0-shot_random_seed-2_blind",
        "4-shot_random_seed-1",
        "4-shot_random_seed-2",
        "4-shot_random_seed-1_blind",
        "4-shot_random_seed-2_blind",
        "0-shot_rices",
        "0-shot_rices_blind",
        "4-shot_rices",
        "4-shot_rices_blind",
    ]


def test_a_pool_of_a_size_is_drawn_once_in_its_order(
    queries: list[Exemplar], pool: list[Exemplar]
) -> None:
    config = replace(CONFIG, pool_size=7)
    few, again = asking(queries, pool, config), asking(queries[:2], pool, config)
    assert few.pool == again.pool
    assert [example.key for example in few.pool] == sorted(example.key for example in few.pool)
    assert len(few.pool) == 7


def test_what_cannot_be_asked_is_told_in_one_line(queries: list[Exemplar]) -> None:
    with pytest.raises(UserError, match="name at least one of each"):
        ShotsConfig(shots=())
    with pytest.raises(UserError, match="something twice"):
        ShotsConfig(shots=(4, 4))
    with pytest.raises(UserError, match="drawn from training data"):
        asking(queries, [])
    with pytest.raises(UserError, match="nothing to ask"):
        asking([], queries)
    with pytest.raises(UserError, match="ask for `--demonstrations random`"):
        asking(queries, queries, ShotsConfig(demonstrations=("rices",)))
