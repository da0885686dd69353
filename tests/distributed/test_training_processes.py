"""Several processes on one machine over gloo give what one process gives."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from common.training.gather import gather_rows
from common.training.metrics import read_lines

pytestmark = pytest.mark.slow
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run_toy(folder: Path, *, launcher: list[str], options: list[str]) -> str:
    command = [*launcher, "-m", "tests.common.training.toy", "toy", "--run-folder", str(folder)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(folder: Path, name: str) -> list[float]:
    return [record[name] for record in read_lines(folder / "metrics.jsonl")]


def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    options = ["--task.dropout", "0", "--num-micro-batches", "2"]
    run_toy(tmp_path / "one", launcher=[sys.executable], options=options)
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
    dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=2)
    rows = rows_of(rank).requires_grad_()
    scores = rows @ gather_rows(rows).T
    targets = torch.arange(3) + 3 * rank
    torch.nn.functional.cross_entropy(scores, targets, reduction="sum").backward()
    assert rows.grad is not None
    torch.save(
        {"gradient": rows.grad, "ids": gather_rows(torch.arange(3) + rank)}, f"{results}{rank}"
    )
    dist.destroy_process_group()


def rows_of(rank: int) -> torch.Tensor:
    return torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))


def test_a_contrastive_loss_over_gathered_rows_has_the_gradient_of_the_whole_batch(
    tmp_path: Path,
) -> None:
    results = str(tmp_path / "rank")
    spawn(gather_on_a_rank, (str(tmp_path / "meet"), results), nprocs=2)
    rows = torch.cat([rows_of(0), rows_of(1)]).requires_grad_()
    scores = rows @ rows.T
    torch.nn.functional.cross_entropy(scores, torch.arange(6), reduction="sum").backward()
    saved = [torch.load(results + str(rank)) for rank in range(2)]
    gradient = torch.cat([part["gradient"] for part in saved])
    torch.testing.assert_close(gradient, rows.grad, rtol=1e-12, atol=1e-12)
    assert saved[0]["ids"].tolist() == [0, 1, 2, 1, 2, 3]
