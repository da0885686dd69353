"""Sizes of the house: `python scripts/house_numbers.py` prints the median and the largest file and
function and the lines of the reading path. `batch_path` traces, in a real update, which project
files a batch passes on its way from the loader to the optimizer."""

import ast
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import FrameType

from common.data.feed import Supply
from common.data.packing import PackState
from common.training.loader import MicroBatch
from common.training.options import OneLineParser
from common.training.runtime import Runtime
from common.training.update import Updater
from flamingo.recipes import flamingo_tiny
from flamingo.task import FlamingoTask

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("common", "flamingo", "flare", "scripts")
READING_PATH = (
    "flamingo/model.py",
    "flamingo/gated_cross_attention.py",
    "common/attention/attend.py",
    "flamingo/task.py",
    "common/training/trainer.py",
    "flamingo/recipes.py",
    "flamingo/parallelize.py",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints everything; exit status 2 for an option, as there is none."""
    OneLineParser(description=__doc__).parse_args(arguments)
    files = {_relative(path): _num_lines(path) for path in _sources()}
    functions = dict(_functions())
    print(_summary("file", files))
    print(_summary("function", functions))
    print("\nreading path")
    for path in READING_PATH:
        print(f"{files[path]:>7}  {path}" if path in files else f"{'-':>7}  {path} (not there)")
    print(f"{sum(files.get(path, 0) for path in READING_PATH):>7}  lines in all")
    handled = trace_flamingo().handled
    print(f"\n{len(handled)} files handle a batch between the loader and optimizer.step()")
    for path in handled:
        print(f"         {path}")
    return 0


def _sources() -> list[Path]:
    """Every source that says something; empty `__init__.py` files would flatter the median."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in paths if path.read_text().strip()]


def _functions() -> Iterator[tuple[str, int]]:
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{_relative(path)}:{node.lineno} {node.name}", length


def _summary(noun: str, sizes: dict[str, int]) -> str:
    largest = max(sizes, key=lambda name: sizes[name])
    middle = f"median {median(sizes.values()):g} lines"
    return f"{len(sizes)} {noun}s, {middle}, largest {sizes[largest]} ({largest})"


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _num_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@dataclass(frozen=True, kw_only=True)
class BatchPath:
    """Project files of one update, each in the order of its first call."""

    handled: list[str]  # a function of this file was called with the batch or one of its fields
    executed: list[str]  # a function of this file ran


def batch_path(update: Callable[[], object], batch: object) -> BatchPath:
    """Run `update`, which takes the batch from the loader to `optimizer.step()`, and watch.

    Example: `batch_path(lambda: trainer.update([batch]), batch).handled`.
    """
    parts = {id(batch)}
    if dataclasses.is_dataclass(batch):
        values = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
        # Small integers, None and short strings are shared by everybody: they trace nothing.
        parts |= {id(value) for value in values if not isinstance(value, int | str | None)}
    handled: dict[str, None] = {}
    executed: dict[str, None] = {}

    def watch(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event != "call" or not any(path.is_relative_to(ROOT / name) for name in PACKAGES):
            return
        executed.setdefault(_relative(path))
        if any(id(value) in parts for value in frame.f_locals.values()):
            handled.setdefault(_relative(path))

    previous = sys.getprofile()
    sys.setprofile(watch)
    try:
        update()
    finally:
        sys.setprofile(previous)
    return BatchPath(handled=list(handled), executed=list(executed))


def trace_flamingo() -> BatchPath:
    """A real update of the tiny Flamingo with random backbones."""
    run = flamingo_tiny()
    config = replace(run.task, language_model=None, vision_encoder=None)
    run = replace(run, task=config)
    task = FlamingoTask(config)
    source = task.sources()["episodes"]
    rows, _ = source.pack(0, PackState())
    batch = source.collate([source.example(row) for row in rows[:4]])
    part = MicroBatch(source="episodes", weight=source.weight, batch=batch, supply=Supply())
    with tempfile.TemporaryDirectory() as folder:
        updater = Updater(run, task, Runtime(run, Path(folder)))
        return batch_path(lambda: updater.update([part], number=1), batch)


if __name__ == "__main__":
    sys.exit(main())
