"""Strict decoding of text and JSON: what is accepted, and the cause of every refusal."""

from collections.abc import Callable

import pytest

from common.data import text_decoding
from common.data.faults import BadSample
from common.data.text_decoding import decode_json, decode_text
from tests.timing import within


def cause_of(decode: Callable[..., object], data: bytes) -> str:
    with pytest.raises(BadSample, match=r"shard/7\.txt") as fault:
        decode(data, name="shard/7.txt")
    assert "\n" not in str(fault.value)
    return fault.value.cause


def nested(depth: int) -> bytes:
    """An object inside lists inside one object, `depth` in all."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_text_loses_its_byte_order_mark_and_surrounding_whitespace() -> None:
    assert decode_text("\ufeff \n ein roter\n Käfer\t\n".encode(), name="a") == "ein roter\n Käfer"


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        ("Käfer".encode("latin-1"), "text_encoding"),
        ("Käfer".encode("utf-16"), "text_encoding"),
        ("Käfer".encode()[:2], "text_encoding"),
        (b"\xed\xa0\x80", "text_encoding"),  # half a surrogate pair
        (b"\xc0\xaf", "text_encoding"),  # a longer form than needed
        (b"a red\0 circle", "text_encoding"),
        (b"", "text_empty"),
        (b"\xef\xbb\xbf \n", "text_empty"),
    ],
)
def test_text_that_is_none_has_its_cause(data: bytes, cause: str) -> None:
    assert cause_of(decode_text, data) == cause


def test_the_length_of_text_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_decoding, "MAX_TEXT_BYTES", 6)
    assert decode_text("ääa".encode()[:6], name="a") == "ääa"
    assert cause_of(decode_text, "äää!".encode()) == "text_long"


def test_an_object_is_read_with_all_its_kinds_of_values() -> None:
    data = '\ufeff{"a": [1, -2.5e3, null, true], "ä": {"b": "\\ud83d\\ude00"}, "a": "last"}\n'
    assert decode_json(data.encode(), name="a") == {"a": "last", "ä": {"b": "😀"}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1]",
        b'"text"',
        b'{"a": 1',
        b'{"a": 1} {"b": 2}',
        b'{"a": "\n"}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": ["\\ud800"]}',
        b'{"\\uDC00": 1}',
        b'{"a": "\\ude00\\ud83d"}',  # the halves of a pair in the wrong order
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    assert cause_of(decode_json, data) == "json_invalid"


def test_an_escaped_backslash_before_a_surrogate_is_text() -> None:
    assert decode_json(b'{"a": "\\\\ud800"}', name="a") == {"a": "\\ud800"}


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"a":['])
def test_deep_nesting_is_refused_without_a_stack_overflow(opening: bytes) -> None:
    deep = b'{"a":' + opening * 1_000_000
    assert within(0.5, lambda: cause_of(decode_json, deep)) == "json_invalid"


def test_nesting_up_to_the_limit_is_read() -> None:
    limit = text_decoding.MAX_JSON_DEPTH
    assert "a" in decode_json(nested(limit), name="a")
    assert cause_of(decode_json, nested(limit + 1)) == "json_invalid"


def test_the_size_of_json_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_decoding, "MAX_JSON_BYTES", 8)
    assert decode_json(b'{"a": 1}', name="a") == {"a": 1}
    assert cause_of(decode_json, b'{"a": 12}') == "json_invalid"
