"""Sharded parameters change no result: losses, gradients, weights, whole runs."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from common.training.metrics import read_lines
from tests.distributed import sharded_run
from tests.distributed.launch import launch
from tests.distributed.sharded_updates import Case, Figures, train
from tests.distributed.test_training_processes import TOY, run_toy

pytestmark = pytest.mark.slow
NAMES = ["flare", "flamingo"]
# By name: one process, one copy, no recomputation.
Wholes = dict[str, Figures]


def on_ranks(num_ranks: int, cases: Sequence[Case], folder: Path) -> list[list[Figures]]:
    """Results by case and rank."""
    words = json.dumps([vars(case) for case in cases])
    launch("tests.distributed.sharded_updates", folder, words, num_ranks=num_ranks)
    # Written by our own process a moment ago.
    return [
        [
            torch.load(folder / f"{case.file}_{rank}.pt", weights_only=False)
            for rank in range(num_ranks)
        ]
        for case in cases
    ]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Wholes:
    """What one process does."""
    folder = tmp_path_factory.mktemp("whole")
    return {name: train(Case(name=name), folder) for name in NAMES}


def numbers(record: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record.items() if isinstance(value, float)}


def assert_same_training(result: Figures, whole: Figures) -> None:
    assert len(result["records"]) == len(whole["records"]) == 2
    for record, expected in zip(result["records"], whole["records"], strict=True):
        assert numbers(record) == pytest.approx(numbers(expected), rel=1e-9, abs=1e-9)
    assert result["weights"].keys() == whole["weights"].keys()
    for name, weight in whole["weights"].items():
        torch.testing.assert_close(result["weights"][name], weight, rtol=1e-9, atol=1e-9)


def assert_divided(results: Sequence[Figures], *, copies: int, ways: int) -> None:
    """Every rank holds its part of everything, and of frozen parameters nothing else."""
    for kind in ("parameters", "optimizer"):
        held = [result["holdings"][kind][0] for result in results]
        total = results[0]["holdings"][kind][1]
        assert sum(held) == copies * total
        # Shards are rows, which do not always divide evenly.
        assert max(held) < 1.02 * total / ways
    for result in results:
        assert result["holdings"]["frozen"] > 10
        for rule in ("not sharded", "frozen with gradient", "frozen with state"):
            assert result["holdings"][rule] == []


Options = list[dict[str, Any]]
BY_TWO: Options = [
    {"shard": 2},
    {"shard": 2, "recompute": "selective"},
    {"shard": 2, "micro_batches": 1},
    {"shard": 2, "reshard_after_forward": False},
]
# Each number of shards and each kind of recomputation once; by night the other two pairs.
BY_FOUR: Options = [{"shard": 4}, {"shard": 2, "recompute": "full"}]
OTHERS: Options = [{"shard": 4, "recompute": "full"}, {"shard": 2}]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("num_ranks", "options"),
    [(2, BY_TWO), (4, BY_FOUR), pytest.param(4, OTHERS, marks=pytest.mark.nightly)],
    ids=["2", "4", "nightly-4"],
)
def test_shards_and_copies_of_shards_train_as_one_process(
    num_ranks: int, options: Options, name: str, wholes: Wholes, tmp_path: Path
) -> None:
    cases = [Case(name=name, **of_case) for of_case in options]
    for case, results in zip(cases, on_ranks(num_ranks, cases, tmp_path), strict=True):
        for result in results:
            assert_same_training(result, wholes[name])
        assert_divided(results, copies=num_ranks // case.shard, ways=case.shard)


def test_bf16_units_learn_like_single_precision(tmp_path: Path) -> None:
    singles = [train(Case(name=name, precision="fp32", updates=5), tmp_path) for name in NAMES]
    cases = [Case(name=name, shard=2, precision="bf16", updates=5) for name in NAMES]
    halves = on_ranks(2, cases, tmp_path)
    for single, (half, same) in zip(singles, halves, strict=True):
        losses, rounded = ([r["loss"] for r in run["records"]] for run in (single, half))
        assert losses[-1] < losses[0] - 0.5
        assert rounded == pytest.approx(losses, rel=5e-3)
        assert rounded != pytest.approx(losses, rel=1e-5)
        for name, weight in half["weights"].items():
            assert weight.dtype == torch.float32
            assert torch.equal(weight, same["weights"][name])


@pytest.mark.parametrize("name", NAMES)
def test_a_sharded_run_resumes_bit_for_bit_and_exports_the_whole_model(
    name: str, tmp_path: Path
) -> None:
    # It validates, writes samples, saves, is stopped, goes on, and exports.
    launch("tests.distributed.sharded_run", tmp_path, name, 2, num_ranks=2)
    sharded_run.train(name, tmp_path / "one", shard=1)
    straight, broken, one = (
        load_file(tmp_path / run / "model" / "model.safetensors")
        for run in ("straight", "broken", "one")
    )
    assert straight.keys() == broken.keys() == one.keys()
    for key, weight in one.items():
        assert torch.equal(straight[key], broken[key])
        torch.testing.assert_close(straight[key], weight, rtol=1e-6, atol=1e-6)
    assert (tmp_path / "straight" / "samples.jsonl").read_text() == (
        tmp_path / "broken" / "samples.jsonl"
    ).read_text()
    records = [
        [without_the_clock(record) for record in read_lines(tmp_path / run / "metrics.jsonl")]
        for run in ("straight", "broken")
    ]
    assert records[0] == records[1]
    whole = without_the_clock(read_lines(tmp_path / "one" / "metrics.jsonl")[-1])
    assert len([key for key in whole if key.startswith("validation/")]) > 2
    assert numbers(records[0][-1]) == pytest.approx(numbers(whole), rel=1e-6)


def test_a_task_that_names_no_units_is_one_and_accelerate_launches_it(tmp_path: Path) -> None:
    options = ["--task.dropout", "0", "--num-micro-batches", "2"]
    launch(TOY, "toy", "--run-folder", tmp_path / "one", *options)
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--config_file", "scripts/accelerate/cpu_2.yaml"]
    text = run_toy(
        tmp_path / "two", launcher=launcher, options=[*options, "--parallel.shard", "-1"]
    )
    assert text.count("step 12/12") == 1  # One rank talks.
    one, two = (
        [without_the_clock(record) for record in read_lines(tmp_path / run / "metrics.jsonl")]
        for run in ("one", "two")
    )
    assert len(one) == len(two) == 12
    for record, expected in zip(two, one, strict=True):
        assert numbers(record) == pytest.approx(numbers(expected), rel=1e-5, abs=1e-6)
    weights, expected = (
        load_file(tmp_path / run / "model" / "model.safetensors") for run in ("two", "one")
    )
    # The toy counts the rows that it has seen, every rank its own.
    assert weights.pop("seen") * 2 == expected.pop("seen")
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)


def without_the_clock(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.startswith("speed/")}
