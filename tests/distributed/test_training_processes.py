"""Several processes on one machine over gloo give what one process gives; torchrun starts some."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from common.training.gather import gather_rows
from common.training.metrics import read_lines
from tests.common.training.contrast_toy import APART, MIXED
from tests.common.training.test_contrast import assert_equals_reference
from tests.distributed.launch import launch, preloaded, succeed

pytestmark = pytest.mark.slow
TOY = "tests.common.training.toy"
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SIZES = [4, 0, 3]  # rows of each rank


def run_toy(folder: Path, *, launcher: list[str], options: list[str]) -> str:
    command = [*launcher, "-m", TOY, "toy", "--run-folder", str(folder)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(folder: Path, name: str) -> list[float]:
    return [record[name] for record in read_lines(folder / "metrics.jsonl")]


def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    options = ["--task.dropout", "0", "--num-micro-batches", "2"]
    launch(TOY, "toy", "--run-folder", tmp_path / "one", *options)
    text = run_toy(tmp_path / "two", launcher=LAUNCH, options=options)
    assert text.count("step 12/12") == 1  # One rank talks.
    for name in ("loss", "loss/sine/squared", "gradient_norm", "validation/perplexity"):
        one, two = (
            [r[name] for r in read_lines(tmp_path / run / "metrics.jsonl") if name in r]
            for run in ("one", "two")
        )
        assert len(one) >= 3
        assert one == pytest.approx(two, rel=1e-6, abs=1e-6)
    assert figures(tmp_path / "one", "tokens") == figures(tmp_path / "two", "tokens")


def gather_on_a_rank(rank: int, meeting_point: str, results: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=3)
    rows = rows_of(rank).requires_grad_()
    scores = rows @ gather_rows(rows, sizes=SIZES).T
    targets = torch.arange(SIZES[rank]) + sum(SIZES[:rank])
    torch.nn.functional.cross_entropy(scores, targets, reduction="sum").backward()
    ids = gather_rows(torch.arange(SIZES[rank]) + rank, sizes=SIZES)
    nothing = gather_rows(rows[:0], sizes=[0, 0, 0])
    torch.save({"gradient": rows.grad, "ids": ids, "nothing": nothing.detach()}, f"{results}{rank}")
    dist.destroy_process_group()


def rows_of(rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(SIZES[rank], 5, dtype=torch.float64, generator=generator)


def test_a_contrastive_loss_over_gathered_rows_has_the_gradient_of_the_whole_batch(
    tmp_path: Path,
) -> None:
    results = str(tmp_path / "rank")
    ranks = [
        preloaded().Process(target=gather_on_a_rank, args=(rank, str(tmp_path / "meet"), results))
        for rank in range(3)
    ]
    assert succeed(ranks)
    rows = torch.cat([rows_of(rank) for rank in range(3)]).requires_grad_()
    scores = rows @ rows.T
    torch.nn.functional.cross_entropy(scores, torch.arange(7), reduction="sum").backward()
    saved = [torch.load(results + str(rank)) for rank in range(3)]
    gradient = torch.cat([part["gradient"] for part in saved])
    torch.testing.assert_close(gradient, rows.grad, rtol=1e-12, atol=1e-12)
    assert [part["ids"].tolist() for part in saved] == [[0, 1, 2, 3, 2, 3, 4]] * 3
    assert [part["nothing"].shape for part in saved] == [(0, 5)] * 3


@pytest.mark.parametrize(
    ("num_ranks", "cases"),
    [
        (2, [(MIXED, 1), (MIXED, 4), (APART, 1), (APART, 2)]),
        (4, [(MIXED, 1), (MIXED, 2), (APART, 1)]),
    ],
)
def test_ranks_and_micro_batches_contrast_the_whole_update(
    num_ranks: int, cases: list[tuple[str, int]], tmp_path: Path
) -> None:
    launch("tests.common.training.contrast_toy", tmp_path, json.dumps(cases), num_ranks=num_ranks)
    for pattern, parts in cases:
        for rank in range(num_ranks):
            assert_equals_reference(torch.load(tmp_path / f"{pattern}_{parts}_{rank}.pt"), pattern)
