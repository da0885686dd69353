"""BLEU, ROUGE-L and CIDEr-D equal those of pycocoevalcap, per caption and in all."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.evaluation.metrics.bleu import bleu, sentence_bleu
from common.evaluation.metrics.cider import (
    DocumentFrequencies,
    cider_d,
    cider_d_each,
    document_frequencies,
)
from common.evaluation.metrics.meteor import meteor
from common.evaluation.metrics.rouge import rouge_l, sentence_rouge_l
from tests.common.evaluation.metrics.fixtures import official


@pytest.fixture(scope="module")
def cases() -> Any:
    found = official("captions")
    assert len(found["candidates"]) == 250
    assert "" in found["candidates"]
    return found


def test_bleu_equals_the_official_one(cases: Any):
    expected = cases["scores"]["bleu"]
    pairs = list(zip(cases["candidates"], cases["references"], strict=True))
    found = bleu(cases["candidates"], cases["references"])
    assert found == pytest.approx(expected["total"], rel=1e-12)
    each = [sentence_bleu(text, own) for text, own in pairs]
    for order, column in enumerate(expected["each"]):
        assert [row[order] for row in each] == pytest.approx(column, rel=1e-9)


def test_rouge_l_equals_the_official_one(cases: Any):
    expected = cases["scores"]["rouge"]
    pairs = zip(cases["candidates"], cases["references"], strict=True)
    assert [sentence_rouge_l(*pair) for pair in pairs] == pytest.approx(expected["each"], rel=1e-12)
    found = rouge_l(cases["candidates"], cases["references"])
    assert found == pytest.approx(expected["total"], rel=1e-12)


def test_cider_d_equals_the_official_one(cases: Any):
    expected = cases["scores"]["cider"]
    texts, references = cases["candidates"], cases["references"]
    assert cider_d_each(texts, references) == pytest.approx(expected["each"], rel=1e-9, abs=1e-12)
    assert cider_d(texts, references) == pytest.approx(expected["total"], rel=1e-9)


def test_frequencies_counted_before_score_a_part_as_it_scored_within_the_whole(cases: Any):
    known = document_frequencies(cases["references"])
    part = slice(30, 41)
    found = cider_d_each(cases["candidates"][part], cases["references"][part], frequencies=known)
    assert found == pytest.approx(cases["scores"]["cider"]["each"][part], rel=1e-9, abs=1e-12)
    alone = cider_d_each(cases["candidates"][part], cases["references"][part])
    assert found != pytest.approx(alone, rel=1e-3)


def test_frequencies_of_one_document_tell_nothing():
    nothing = DocumentFrequencies(counts={}, num_documents=1)
    assert cider_d(["a dog runs"], [["a dog runs"]], frequencies=nothing) == 0.0


def test_a_missing_java_or_jar_of_meteor_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "which", lambda _: "java")
    with pytest.raises(UserError, match=r"meteor\.jar does not exist"):
        meteor(["a dog"], [["a dog"]], jar=tmp_path / "meteor.jar")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="install a Java runtime"):
        meteor(["a dog"], [["a dog"]], jar=tmp_path / "meteor.jar")
