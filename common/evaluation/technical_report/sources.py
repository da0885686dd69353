"""The files that a report is made from, and figures taken out of them: JSON, JSON lines of metrics
(joined where a run was resumed), and the headers of weights."""

import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from common.errors import UserError
from common.evaluation.technical_report.document import Key, Origin, Shown
from common.evaluation.technical_report.rules import RULES
from common.training.config_json import Json

Form = Callable[[Any], str]


class Source:
    """A file that was read, and figures from it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.data: Any = read(file)

    def at(self, *key: str | int) -> Any:
        """What lies at a key, None where there is nothing."""
        try:
            return follow(self.data, key)
        except (KeyError, IndexError, TypeError):
            return None

    def shown(
        self,
        *key: str | int,
        form: Form = str,
        factor: int | float | None = None,
        rule: str = "value",
    ) -> Shown | None:
        """A figure with its origin, None where there is nothing."""
        if self.at(*key) is None:
            return None
        return shown([Origin(file=self.file, key=key)], rule=rule, form=form, factor=factor)


def shown(
    origins: Sequence[Origin],
    *,
    rule: str = "value",
    form: Form = str,
    factor: int | float | None = None,
) -> Shown:
    """A figure that follows by a rule from several places."""
    value = computed(origins, rule=rule, factor=factor)
    return Shown(text=form(value), value=value, rule=rule, factor=factor, origins=tuple(origins))


def computed(origins: Sequence[Origin], *, rule: str, factor: int | float | None) -> Json:
    """What a rule gives on what lies at the origins now.

    Raises:
        UserError: a file cannot be read.
    """
    value = RULES[rule]([follow(read(origin.file), origin.key) for origin in origins])
    result: Json = value if factor is None else factor * value
    return result


def read(file: Path) -> Any:
    """The content of a file by its kind.

    Raises:
        UserError: the file is missing or damaged.
    """
    stamp = file.stat().st_mtime_ns if file.is_file() else 0
    return _read(file, stamp)


def follow(data: Any, key: Key) -> Any:
    """`follow({"a": [1, 2]}, ("a", 1))` is 2."""
    for step in key:
        data = data[step]
    return data


def number(value: int | float | str | None) -> str:
    """1234567 as `1,234,567`, 0.0123456 as `0.01235`; a word stays a word."""
    if isinstance(value, str) or value is None:
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def fixed(digits: int, unit: str = "") -> Form:
    """A form with so many decimals."""
    return partial(_fixed, digits=digits, unit=unit)


def ends(digits: int, factor: int | float = 1) -> Form:
    """The form of an interval: `51.7 to 75.6`."""
    return partial(_ends, digits=digits, factor=factor)


def _ends(interval: Sequence[int | float], *, digits: int, factor: int | float) -> str:
    return " to ".join(f"{factor * end:.{digits}f}" for end in interval)


def _fixed(value: int | float, *, digits: int, unit: str) -> str:
    return f"{value:,.{digits}f}{unit}"


@cache
def _read(file: Path, stamp: int) -> Any:
    """Once for every state of a file."""
    kinds = {".jsonl": _joined_records, ".safetensors": _component_sizes}
    return kinds.get(file.suffix, _plain)(file)


def _plain(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}; name a folder that a run wrote") from error


def _joined_records(file: Path) -> list[dict[str, Any]]:
    """One record a step: where a run went back, what it wrote again counts."""
    records: list[dict[str, Any]] = []
    try:
        *lines, _ = file.read_text(encoding="utf-8").split("\n")  # the last is empty, or cut off
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    for place, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            step = record["step"]
            while records and records[-1]["step"] >= step:
                records.pop()
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file} is damaged in line {place}; remove the line, or what follows it too"
            ) from error
        records.append(record)
    return records


def _component_sizes(file: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    try:
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 -- it is no mapping
                name = key.split(".")[0]
                sizes[name] = sizes.get(name, 0) + prod(tensors.get_slice(key).get_shape())
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {file}: {error}; copy the model again") from error
    return sizes
