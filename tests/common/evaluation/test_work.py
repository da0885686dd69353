"""Answers and vectors are the same whoever finds them, and nothing is found twice."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from torch import Tensor

from common.errors import UserError
from common.evaluation.work import Workplace, answered, vectors
from common.training.processes import Processes
from tests.common.evaluation.threads import in_threads

WORDS = [f"word {number}" for number in range(11)]
KEYS = [f"k{number}" for number in range(11)]
Answer: TypeAlias = Callable[[Sequence[str]], list[list[object]]]


def of_batch(batch: Sequence[str]) -> list[list[object]]:
    """An answer that tells the whole batch, as padding does in small."""
    return [[word, len(batch), 1 / 3, "ä\n"] for word in batch]


def answers(folder: Path, *, answer: Answer = of_batch, processes: Processes | None = None) -> list:
    work = Workplace(folder=folder, batch_size=3, processes=processes or Processes())
    return answered(WORDS, keys=KEYS, answer=answer, work=work, name="four/shots")


class Dying:
    """Answers some batches, then fails."""

    def __init__(self, num_batches: int) -> None:
        self.left, self.seen = num_batches, list[str]()

    def __call__(self, batch: Sequence[str]) -> list[list[object]]:
        if self.left == 0:
            raise UserError("killed")
        self.left -= 1
        self.seen += batch
        return of_batch(batch)


def test_any_number_of_ranks_gives_every_rank_the_same_answers_in_order(tmp_path: Path) -> None:
    expected = answers(tmp_path / "1")
    assert [row[:2] for row in expected] == [
        [word, 3 if number < 9 else 2] for number, word in enumerate(WORDS)
    ]
    for num in (2, 3, 5):  # of 4 batches
        own = in_threads(num, lambda ranks, num=num: answers(tmp_path / str(num), processes=ranks))
        assert own == [expected] * num


def test_an_interrupted_run_goes_on_with_other_ranks_and_does_only_what_is_missing(
    tmp_path: Path,
) -> None:
    expected = answers(tmp_path / "straight")
    with pytest.raises(UserError, match="killed"):
        answers(tmp_path / "cut", answer=Dying(2))
    with (tmp_path / "cut/answers/four/shots/rank-0.jsonl").open("ab") as file:
        file.write(b'{"key": "k6", "answer": ["wo')  # as a killed process leaves it
    rest = [Dying(1), Dying(1)]
    own = in_threads(
        2, lambda ranks: answers(tmp_path / "cut", answer=rest[ranks.rank], processes=ranks)
    )
    assert own == [expected] * 2
    assert rest[0].seen == WORDS[6:9]
    assert rest[1].seen == WORDS[9:]
    assert answers(tmp_path / "cut", answer=Dying(0)) == expected


def test_an_error_on_one_rank_is_raised_on_all(tmp_path: Path) -> None:
    def told(ranks: Processes) -> str:
        with pytest.raises(UserError) as error:
            answers(tmp_path, answer=Dying(2 - 2 * ranks.rank), processes=ranks)
        return str(error.value)

    assert in_threads(2, told) == ["killed"] * 2


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"key": "k1", "answ\n', "rank-0.jsonl line 4 is damaged"),
        (b'["k1", 2]\n', "rank-0.jsonl line 4 is damaged"),
        (b'{"key": "other", "answer": 1}\n', "line 4 answers 'other', which is not asked now"),
    ],
)
def test_a_damaged_or_foreign_file_is_told_in_one_line(
    tmp_path: Path, line: bytes, complaint: str
) -> None:
    with pytest.raises(UserError, match="killed"):
        answers(tmp_path, answer=Dying(1))
    with (tmp_path / "answers/four/shots/rank-0.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(UserError, match=complaint) as error:
        answers(tmp_path)
    assert "\n" not in str(error.value)


def test_vectors_are_kept_shared_and_checked(tmp_path: Path) -> None:
    def embed(batch: Sequence[str]) -> Tensor:
        rows = torch.tensor([[float(word[5:]), len(batch), 0.1, -1] for word in batch])
        return rows.to(torch.float64)

    def of(keys: Sequence[str], processes: Processes, embed: Callable = embed) -> Tensor:
        work = Workplace(folder=tmp_path, batch_size=4, processes=processes)
        return vectors(WORDS, keys=keys, embed=embed, work=work, name="images")

    expected = embed(WORDS).float()
    expected[:, 1] = torch.tensor([4.0] * 8 + [3] * 3)
    for found in in_threads(2, lambda ranks: of(KEYS, ranks)):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
    assert torch.equal(of(KEYS, Processes(), embed=Dying(0)), expected)  # nothing is made anew
    with pytest.raises(UserError, match=r"000000\.safetensors holds vectors of other examples"):
        of(KEYS[::-1], Processes())
    file = tmp_path / "vectors/images/000001.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"000001\.safetensors is damaged"):
        of(KEYS, Processes())
