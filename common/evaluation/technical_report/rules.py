"""How a shown figure follows from what lies in files: few named rules, so that any figure can be
computed again from `report.json` and the files alone."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from shlex import join, split
from typing import Any

from common.evaluation.intervals import wilson_interval


def _only(values: Sequence[Any]) -> Any:
    (value,) = values
    return value


def _share(pairs: Sequence[Any]) -> float:
    """Of all pairs (right answers, number) together."""
    return float(sum(right for right, _ in pairs) / sum(num for _, num in pairs))


def _interval(pairs: Sequence[Any]) -> list[float]:
    """Wilson's, of all pairs together."""
    right, num = (sum(column) for column in zip(*pairs, strict=True))
    return [*wilson_interval(right, num)]


def _seconds(start: Mapping[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(start[name]) for name in ("started", "ended"))
    return (ended - began).total_seconds()


def _device_seconds(starts: Sequence[Mapping[str, Any]]) -> float:
    return sum(_seconds(start) * sum(start["devices"].values()) for start in starts)


def _update_seconds(values: Sequence[Any]) -> float:
    """Over the records of a run; what validations and checkpoints took is in none of them."""
    (records,) = values
    total, before = 0.0, 0
    for record in records:
        pace = record.get("speed/seconds_per_update")
        if pace is not None:
            total += pace * (record["step"] - before)
            before = record["step"]
    return total


def _median_speed(values: Sequence[Any]) -> float:
    (records,) = values
    key = "speed/tokens_per_second"
    speeds = sorted(record[key] for record in records if record.get(key))
    return float(speeds[len(speeds) // 2])


def _command(values: Sequence[Any]) -> str:
    """Without the folder of the interpreter, which says nothing but who typed it."""
    program, *words = split(_only(values))
    return join([Path(program).name, *words])


RULES: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "value": _only,
    "first name": lambda values: next(iter(_only(values))),
    "number": lambda values: len(_only(values)),
    "sum": sum,
    "share": _share,
    "interval": _interval,
    "seconds": lambda starts: sum(_seconds(start) for start in starts),
    "device seconds": _device_seconds,
    "update seconds": _update_seconds,
    "median tokens per second": _median_speed,
    "command": _command,
}
