"""Text and JSON from bytes. Decoding is strict and bounded: UTF-8 only, no NUL in texts, limits of
size and depth, and no string that could not be encoded again."""

import json
from typing import Never

from common.data.faults import BadSample

MAX_TEXT_BYTES = 10_000_000
MAX_JSON_BYTES = 50_000_000
MAX_JSON_DEPTH = 64


def decode_text(data: bytes, *, name: str) -> str:
    """Text without byte order mark and surrounding whitespace. `name` appears in errors.

    Raises:
        BadSample: `text_encoding`, `text_empty` or `text_long`.
    """
    if len(data) > MAX_TEXT_BYTES:
        limit = MAX_TEXT_BYTES // 1_000_000
        raise BadSample("text_long", f"text {name} has more than {limit} MB; divide it")
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise BadSample("text_encoding", f"text {name} is not UTF-8; convert it") from error
    if "\0" in text:
        fault = "holds NUL characters; convert it to UTF-8"
        raise BadSample("text_encoding", f"text {name} {fault}")
    if not text:
        raise BadSample("text_empty", f"text {name} is empty; write some text or remove it")
    return text


def decode_json(data: bytes, *, name: str) -> dict[str, object]:
    """A JSON object; of a key that occurs twice the last value. `name` appears in errors.

    Raises:
        BadSample: `json_invalid`: no JSON object, not UTF-8, too large or too deep, numbers that
            are not finite, or halves of surrogate pairs.
    """
    if len(data) > MAX_JSON_BYTES:
        raise _invalid(name, f"it has more than {MAX_JSON_BYTES // 1_000_000} MB")
    try:
        text = data.decode("utf-8-sig")
        entry = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(entry, ensure_ascii=False).encode()  # fails at half a surrogate pair
    except RecursionError as error:
        raise _too_deep(name) from error
    except ValueError as error:  # of json, of the codec, of numbers with too many digits
        raise _invalid(name, str(error)) from error
    if not isinstance(entry, dict):
        raise _invalid(name, "it is no object {...}")
    _check_depth(entry, name=name)
    return entry


def _refuse_constant(constant: str) -> Never:
    raise ValueError(f"{constant} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def _check_depth(entry: object, *, name: str) -> None:
    layer = [entry]
    for _ in range(MAX_JSON_DEPTH):
        layer = [child for node in layer for child in _children(node)]
        if not layer:
            return
    raise _too_deep(name)


def _children(node: object) -> list[object]:
    """The objects and lists directly inside an object or list."""
    values = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [value for value in values if isinstance(value, dict | list)]


def _too_deep(name: str) -> BadSample:
    return _invalid(name, f"it is nested more than {MAX_JSON_DEPTH} deep")


def _invalid(name: str, reason: str) -> BadSample:
    return BadSample("json_invalid", f"{name} is not valid JSON ({reason}); correct or remove it")
