"""Finite records as endless data, and the user's own text."""

from pathlib import Path

import pytest

from common.data.captions import caption_id
from common.data.epochs import records_of, shuffled
from common.data.texts import read_texts
from common.errors import UserError


def test_an_epoch_visits_every_record_once_and_epochs_differ() -> None:
    place = shuffled(23, seed=1)
    first, second = [[place(epoch * 23 + i) for i in range(23)] for epoch in (0, 1)]
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second


def test_the_last_records_are_held_out() -> None:
    records = list(range(100))
    train = records_of(records, path=Path("a"), split="train")
    held_out = records_of(records, path=Path("a"), split="validation")
    assert [*train, *held_out] == records
    assert held_out == [95, 96, 97, 98, 99]
    with pytest.raises(UserError, match="a holds 1 record; at least 2 are needed"):
        records_of([1], path=Path("a"), split="train")


def test_captions_have_the_same_number_in_every_process() -> None:
    assert caption_id("a red circle") == 5070956507599001626
    assert caption_id("a red circle.") != caption_id("a red circle")
    assert 0 <= caption_id("") < 2**63


def test_texts_are_paragraphs_or_lines_of_json(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("one\nmore\n\n  \ntwo\n")
    lines.write_text('{"text": "one", "url": "x"}\n\n{"text": "two\\u2028lines"}\n')
    assert read_texts(plain) == [("a.txt:1", "one\nmore"), ("a.txt:2", "two")]
    assert read_texts(lines) == [("b.jsonl:1", "one"), ("b.jsonl:3", "two\u2028lines")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": 3}', "line 2 has no text; write it as"),
        ("a.jsonl", '{"text": "x"', "line 1 is not valid JSON"),
        ("a.txt", "\n\n", "is empty"),
        ("a.pdf", "x", "is no .txt or .jsonl file"),
    ],
)
def test_malformed_text_names_the_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_texts(path)
