"""Configs as JSON and back: nested dataclasses, paths and tuples, without pickle or class names.

The type is not in the file but asked for by the reader, so a file can build nothing unexpected.
Unknown keys are errors with the nearest right name.
"""

import dataclasses
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from common.errors import UserError

Json = Any  # What the json module reads and writes.
ConfigT = TypeVar("ConfigT")


def to_json(value: object) -> Json:
    """A config as dicts, lists and plain values."""
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: to_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a config cannot hold {value!r}; use numbers, text, paths and dataclasses")


def from_json(kind: Callable[..., ConfigT], data: Json) -> ConfigT:
    """Rebuild a config: `from_json(RunConfig[FlamingoTaskConfig], json.loads(text))`.

    Raises:
        UserError: an unknown or missing key, or a value of the wrong type, with its dotted path.
    """
    result: ConfigT = _read(kind, data, where="")
    return result


def flatten(data: Json, *, prefix: str = "") -> dict[str, Json]:
    """{"schedule": {"kind": "cosine"}} -> {"schedule.kind": "cosine"}; lists stay values."""
    if not isinstance(data, dict) or not data:
        return {prefix: data}
    flat: dict[str, Json] = {}
    for key, value in data.items():
        flat |= flatten(value, prefix=f"{prefix}.{key}" if prefix else key)
    return flat


def _read(kind: Any, data: Json, *, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(origin or kind):
        return _read_dataclass(kind, data, where=where)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, data, where=where)
    if origin is Literal:
        _check(data in arguments, where, f"one of {', '.join(map(repr, arguments))}", data)
        return data
    if origin in (tuple, list, Sequence):
        arguments = arguments if origin is tuple else (arguments[0], ...)
        items = _read_tuple(arguments, data, where=where)
        return list(items) if origin is list else items
    if origin in (dict, Mapping):
        _check(isinstance(data, dict), where, "a table", data)
        return {key: _read(arguments[1], v, where=f"{where}.{key}") for key, v in data.items()}
    return _read_plain(kind, data, where=where)


def _read_dataclass(kind: Any, data: Json, *, where: str) -> Any:
    dataclass = get_origin(kind) or kind
    parameters = getattr(dataclass, "__parameters__", ())
    variables = dict(zip(parameters, get_args(kind), strict=False))
    hints = get_type_hints(dataclass)
    _check(isinstance(data, dict), where, "a table", data)
    for key in data:
        if key not in hints:
            near = get_close_matches(key, hints, n=1)
            advice = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"unknown key {_join(where, key)} in the configuration{advice}")
    values = {
        name: _read(variables.get(hint, hint), data[name], where=_join(where, name))
        for name, hint in hints.items()
        if name in data
    }
    for field in dataclasses.fields(dataclass):
        optional = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if field.name not in values and not optional:
            raise UserError(f"the configuration lacks {_join(where, field.name)}")
    return dataclass(**values)


def _read_union(members: tuple[Any, ...], data: Json, *, where: str) -> Any:
    """The first member that fits; a dataclass fits when its fields are the keys."""
    for member in members:
        try:
            return _read(member, data, where=where)
        except UserError:
            continue
    names = ", ".join(getattr(member, "__name__", str(member)) for member in members)
    raise UserError(f"{where} must be one of {names}, not {data!r}")


def _read_tuple(arguments: tuple[Any, ...], data: Json, *, where: str) -> tuple[Any, ...]:
    _check(isinstance(data, list), where, "a list", data)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(data)
    _check(len(arguments) == len(data), where, f"{len(arguments)} values", data)
    pairs = enumerate(zip(arguments, data, strict=True))
    return tuple(_read(kind, item, where=f"{where}[{i}]") for i, (kind, item) in pairs)


def _read_plain(kind: Any, data: Json, *, where: str) -> Any:
    if kind is type(None):
        _check(data is None, where, "null", data)
        return None
    if kind is Path:
        _check(isinstance(data, str), where, "a path", data)
        return Path(data)
    if kind is float and type(data) is int:
        _check(
            abs(data) <= sys.float_info.max, where, "a number that floats can hold", "a larger one"
        )
        return float(data)
    if kind in (object, Any):
        return data
    _check(type(data) is kind, where, f"of type {kind.__name__}", data)
    return data


def _check(condition: bool, where: str, expected: str, data: Json) -> None:
    if not condition:
        raise UserError(f"{where or 'the configuration'} must be {expected}, not {data!r}")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
