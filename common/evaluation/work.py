"""The long part of an evaluation: many examples, answered in batches by one or more processes.
Batches follow from the examples' order and the batch size alone, so that 1 and n processes,
interrupted or not, give the same answers; what is finished lies in files and is not done again."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from common.data.commands.progress import ShownProgress
from common.data.shards.files import write_atomically
from common.errors import UserError
from common.training.config_json import Json
from common.training.processes import Processes

T = TypeVar("T")
AnswerT = TypeVar("AnswerT")  # a JSON value


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where a suite works, and with whom."""

    folder: Path  # everything of one evaluation lies here; all processes see it
    batch_size: int
    processes: Processes = field(default_factory=Processes)
    limit: int | None = None  # of the examples that are evaluated; None: all

    def evaluated(self, examples: Sequence[T]) -> Sequence[T]:
        """The first examples that `--limit` leaves: every suite takes those of its benchmark so."""
        return examples[: self.limit]


def answered(
    examples: Sequence[T],
    *,
    keys: Sequence[str],
    answer: Callable[[Sequence[T]], Sequence[AnswerT]],
    work: Workplace,
    name: str,
) -> list[AnswerT]:
    """An answer to every example in their order, on every rank.

    Batch i belongs to rank i modulo their number. Each finished batch is appended to
    `answers/NAME/rank-R.jsonl`; a batch of which any answer is missing there is done again, by
    however many processes there are now.

    Args:
        keys: one name for each example, all different.
        answer: of a batch; what JSON gives back as it was.

    Raises:
        UserError: a file of answers is damaged or of other examples.
    """
    batches = _batches(keys, examples, size=work.batch_size)
    folder = work.folder / "answers" / name
    ranks = work.processes.ranks
    known: dict[str, AnswerT] = ranks.on_main(lambda: _read_answers(folder, frozenset(keys)))
    missing = [
        number for number, (own, _) in enumerate(batches) if any(key not in known for key in own)
    ]
    found: dict[str, AnswerT] = {}

    def finish(number: int) -> None:
        own, batch = batches[number]
        rows = [{"key": key, "answer": said} for key, said in zip(own, answer(batch), strict=True)]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        _append(folder / f"rank-{ranks.rank}.jsonl", lines)
        # As the file will give it back, so that an answer is the same now and after a restart.
        found.update((row["key"], row["answer"]) for row in map(json.loads, lines))

    _do_own(missing, finish, work=work, name=name)
    for part in ranks.collect(found):
        known |= part
    return [known[key] for key in keys]


def vectors(
    examples: Sequence[T],
    *,
    keys: Sequence[str],
    embed: Callable[[Sequence[T]], Float[Tensor, "m e"]],
    work: Workplace,
    name: str,
) -> Float[Tensor, "n e"]:
    """A vector for every example in their order, on every rank: float32, on the CPU.

    They are kept as `vectors/NAME/BATCH.safetensors`; otherwise as `answered`.

    Raises:
        UserError: a file of vectors is damaged or of other examples.
    """
    batches = _batches(keys, examples, size=work.batch_size)
    folder = work.folder / "vectors" / name
    paths = [folder / f"{number:06d}.safetensors" for number in range(len(batches))]
    missing: list[int] = work.processes.ranks.on_main(
        lambda: [number for number, path in enumerate(paths) if not path.exists()]
    )

    def finish(number: int) -> None:
        own, batch = batches[number]
        found = embed(batch).detach().to("cpu", torch.float32).contiguous()
        if len(found) != len(own):
            raise ValueError(f"{len(own)} examples gave {len(found)} vectors")
        data = save({"vectors": found}, metadata={"keys": _digest(own)})
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(paths[number], lambda file: file.write(data))

    _do_own(missing, finish, work=work, name=name)
    parts = [_read_vectors(path, own) for path, (own, _) in zip(paths, batches, strict=True)]
    return torch.cat(parts)


def _batches(
    keys: Sequence[str], examples: Sequence[T], *, size: int
) -> list[tuple[Sequence[str], Sequence[T]]]:
    if not examples or len(set(keys)) != len(keys) or len(keys) != len(examples):
        raise ValueError(f"{len(examples)} examples need as many different keys, at least one")
    starts = range(0, len(keys), size)
    return [(keys[start : start + size], examples[start : start + size]) for start in starts]


def _do_own(
    missing: Sequence[int], finish: Callable[[int], None], *, work: Workplace, name: str
) -> None:
    """Every rank its share of the missing batches; an error on one is raised on all."""
    ranks = work.processes.ranks
    own = [number for number in missing if number % ranks.num_ranks == ranks.rank]

    def do_all() -> None:
        with ShownProgress(Console(stderr=True, quiet=not ranks.is_main)) as progress:
            for done, number in enumerate(own, 1):
                finish(number)
                progress(name, done, len(own))

    ranks.together(do_all)


def _read_answers(folder: Path, keys: frozenset[str]) -> dict[str, Json]:
    """What all files hold; half a line at the end of one, from a killed process, is cut off."""
    known: dict[str, Json] = {}
    for path in sorted(folder.glob("rank-*.jsonl")):
        lines = path.read_bytes().split(b"\n")
        if unfinished := lines.pop():
            os.truncate(path, path.stat().st_size - len(unfinished))
        for number, line in enumerate(lines, 1):
            key, answer = _read_line(line, place=f"{path} line {number}")
            if key not in keys:
                raise UserError(
                    f"{path} line {number} answers {key!r}, which is not asked now; remove the "
                    "file to answer anew, or name another folder"
                )
            known[key] = answer
    return known


def _read_line(line: bytes, *, place: str) -> tuple[str, Json]:
    try:
        row = json.loads(line)
        return row["key"], row["answer"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UserError(f"{place} is damaged; remove the file to answer its part anew") from None


def _append(path: Path, lines: Sequence[str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; check the folder's permissions and space"
        ) from error


def _read_vectors(path: Path, keys: Sequence[str]) -> Float[Tensor, "m e"]:
    try:
        with safe_open(path, framework="pt") as file:
            is_own = file.metadata() == {"keys": _digest(keys)}
            found: Tensor = file.get_tensor("vectors")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it to make it anew") from error
    if not is_own:
        raise UserError(f"{path} holds vectors of other examples; remove its folder")
    return found


def _digest(keys: Sequence[str]) -> str:
    return sha256(json.dumps(list(keys)).encode()).hexdigest()
