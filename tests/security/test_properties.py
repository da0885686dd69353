"""H2: for whatever hypothesis draws, converters name the key that does not fit or lose nothing, and
the scores of texts equal slow ones that are written from their definitions."""

import json
import math
import random
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import IdeficsConfig

from common.checkpoint.key_table import to_theirs
from common.encoders.weights import load_exactly
from common.errors import UserError
from common.evaluation.metrics.bleu import bleu
from common.evaluation.metrics.cider import cider_d, cider_d_each
from common.evaluation.metrics.rouge import rouge_l, sentence_rouge_l
from common.evaluation.metrics.vqa import question_accuracy
from flamingo.conversion.idefics import from_idefics, idefics_config
from flamingo.conversion.idefics_keys import table as idefics_table
from flamingo.conversion.open_flamingo import from_open_flamingo, to_open_flamingo
from scripts.fixtures import flamingo_peers as peers
from tests.flamingo.test_convert_open_flamingo import case
from tests.security.outcomes import one_line

State = dict[str, Tensor]
FIXTURES = Path(__file__).parents[1] / "fixtures" / "flamingo"


def through_idefics() -> tuple[State, Callable[[State], Mapping[str, Tensor]]]:
    fixture = json.loads((FIXTURES / "idefics_qk_norms.json").read_text())
    config = idefics_config(IdeficsConfig(**fixture["config"]))
    table = idefics_table(config)
    return (
        peers.random_weights(fixture["shapes"]),
        lambda state: to_theirs(table, from_idefics(state, config)),
    )


def through_open_flamingo() -> tuple[State, Callable[[State], Mapping[str, Tensor]]]:
    _, state, config, tokens = case("llama")
    return state, lambda changed: to_open_flamingo(
        from_open_flamingo(changed, config, tokens), config, tokens
    )


def through_an_encoder() -> tuple[State, Callable[[State], Mapping[str, Tensor]]]:
    module = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2))

    def load(state: State) -> Mapping[str, Tensor]:
        load_exactly(module, state, source=Path("a.pth"), kind="vision")
        return module.state_dict()

    return {name: torch.randn_like(value) for name, value in module.state_dict().items()}, load


WAYS = {
    "idefics": cache(through_idefics),
    "open_flamingo": cache(through_open_flamingo),
    "encoder": cache(through_an_encoder),
}


@pytest.mark.proves("H2", "state dicts through converters", 40)
@settings(max_examples=40)
@given(
    way=st.sampled_from(sorted(WAYS)),
    change=st.sampled_from(["nothing", "missing", "renamed", "unknown", "longer", "flat"]),
    place=st.integers(0, 10**6),
    odd=st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1),
)
def test_a_state_dict_goes_there_and_back_or_its_key_is_named(
    way: str, change: str, place: int, odd: str
) -> None:
    whole, there_and_back = WAYS[way]()
    state = dict(whole)
    key = sorted(state)[place % len(state)]
    if change == "unknown":
        state[f"{key}{odd}"] = torch.zeros(1)
    elif change == "longer":
        state[key] = state[key].new_zeros(state[key].numel() + 1)
    elif change == "flat":
        state[key] = state[key][None]
    elif change != "nothing":
        tensor = state.pop(key)
        if change == "renamed":
            state[f"{key}{odd}"] = tensor
    if change == "nothing":
        back = there_and_back(state)
        assert back.keys() == whole.keys()
        assert all(torch.equal(back[name], whole[name]) for name in whole)
    else:
        with pytest.raises(UserError) as told:
            there_and_back(state)
        assert key in one_line(told.value)


WORDS = st.lists(st.sampled_from(["a", "b", "c", "dd"]), min_size=1, max_size=9).map(" ".join)
CORPUS = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=5)


def grams(text: str, size: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


def slow_rouge(candidate: str, references: list[str]) -> float:
    @cache
    def longest(first: tuple[str, ...], second: tuple[str, ...]) -> int:
        if not first or not second:
            return 0
        if first[0] == second[0]:
            return 1 + longest(first[1:], second[1:])
        return max(longest(first[1:], second), longest(first, second[1:]))

    words = tuple(candidate.split())
    lengths = [(longest(words, tuple(r.split())), len(r.split())) for r in references]
    precision = max(length for length, _ in lengths) / len(words)
    recall = max(length / of for length, of in lengths)
    both = recall + 1.44 * precision
    return 2.44 * precision * recall / both if both else 0.0


def slow_bleu(corpus: list[tuple[str, list[str]]], order: int) -> float:
    length = sum(len(candidate.split()) for candidate, _ in corpus)
    wanted = 0
    for candidate, references in corpus:
        own = len(candidate.split())
        wanted += sorted((len(r.split()) for r in references), key=lambda n: (abs(n - own), n))[0]
    scores = []
    for size in range(1, order + 1):
        found = total = 0
        for candidate, references in corpus:
            own_grams = grams(candidate, size)
            total += len(own_grams)
            for gram in set(own_grams):
                most = max(grams(reference, size).count(gram) for reference in references)
                found += min(own_grams.count(gram), most)
        scores.append((found + 1e-15) / (total + 1e-9))  # the official constants
    return math.prod(scores) ** (1 / order) * math.exp(min(0.0, 1 - wanted / length))


def slow_cider(corpus: list[tuple[str, list[str]]], number: int) -> float:
    def weight(text: str, gram: tuple[str, ...]) -> float:
        holding = sum(
            any(gram in grams(reference, len(gram)) for reference in references)
            for _, references in corpus
        )
        count = grams(text, len(gram)).count(gram)
        return count * math.log(len(corpus) / max(1, holding))

    candidate, references = corpus[number]
    total = 0.0
    for reference, size in product(references, range(1, 5)):
        every = {*grams(candidate, size), *grams(reference, size)}
        pairs = [(weight(candidate, gram), weight(reference, gram)) for gram in every]
        dot = sum(min(own, other) * other for own, other in pairs)
        norms = math.dist([0] * len(pairs), [own for own, _ in pairs])
        norms *= math.dist([0] * len(pairs), [other for _, other in pairs])
        apart = len(candidate.split()) - len(reference.split())
        total += dot / (norms or 1) * math.exp(-(apart**2) / 72)
    return 10 * total / 4 / len(references)


@pytest.mark.proves("H2", "scores of captions", 60)
@settings(max_examples=60)
@given(corpus=CORPUS, seed=st.integers(0, 99))
def test_scores_of_captions_equal_slow_ones_in_any_order(
    corpus: list[tuple[str, list[str]]], seed: int
) -> None:
    candidates, references = [c for c, _ in corpus], [r for _, r in corpus]
    blue, each = bleu(candidates, references), cider_d_each(candidates, references)
    for number, (candidate, own) in enumerate(corpus):
        assert math.isclose(sentence_rouge_l(candidate, own), slow_rouge(candidate, own))
        assert math.isclose(each[number], slow_cider(corpus, number), abs_tol=1e-9)
        assert sentence_rouge_l(own[0], own) == pytest.approx(1)
    for order, found in enumerate(blue, 1):
        assert 0 <= found <= 1 + 1e-9
        assert math.isclose(found, slow_bleu(corpus, order), rel_tol=1e-6)
    assert all(-1e-9 <= score <= 10 + 1e-9 for score in each)
    mixed = random.Random(seed).sample(corpus, len(corpus))
    again = [c for c, _ in mixed], [r for _, r in mixed]
    assert bleu(*again) == pytest.approx(blue)
    assert cider_d(*again) == pytest.approx(cider_d(candidates, references))
    assert rouge_l(*again) == pytest.approx(rouge_l(candidates, references))


PLAIN = {"red": "red", "two": "2", "2": "2", "a dog": "dog", "dog": "dog", "the red": "red"}


@pytest.mark.proves("H2", "accuracy of answers", 150)
@settings(max_examples=150)
@given(
    answer=st.sampled_from(sorted(PLAIN)),
    humans=st.lists(st.sampled_from(sorted(PLAIN)), min_size=2, max_size=10),
    seed=st.integers(0, 99),
)
def test_accuracy_of_an_answer_equals_leaving_each_person_out(
    answer: str, humans: list[str], seed: int
) -> None:
    agreed = len(set(humans)) == 1
    said, heard = (answer, humans) if agreed else (PLAIN[answer], [PLAIN[h] for h in humans])
    shares = [min(1, (heard[:n] + heard[n + 1 :]).count(said) / 3) for n in range(len(heard))]
    found = question_accuracy(answer, humans)
    assert found == pytest.approx(sum(shares) / len(shares))
    mixed = random.Random(seed).sample(humans, len(humans))
    assert question_accuracy(answer, mixed) == pytest.approx(found)
    assert question_accuracy(humans[0], [humans[0]] * 10) == 1
