"""A run that has stopped goes on with other ranks, shards and stages as if it never had."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.training.metrics import read_lines
from tests.distributed.launch import launch
from tests.distributed.resumed_elsewhere import DIVISIONS, STEPS, STOPPED_AFTER, WRITERS

pytestmark = pytest.mark.slow
RUNS = [(name, writer) for name, writers in WRITERS.items() for writer in writers]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    launch("tests.distributed.resumed_elsewhere", folder, num_ranks=4)
    return folder


@pytest.mark.proves("R5", "other ranks, shards and stages", 1)
@pytest.mark.parametrize(("name", "writer"), RUNS)
def test_a_run_goes_on_elsewhere_with_the_same_losses_and_samples(
    name: str, writer: str, runs: Path
) -> None:
    straight = read_lines(runs / name / writer / "straight" / "metrics.jsonl")
    assert [record["step"] for record in straight] == [*range(1, STEPS + 1)]
    assert len({record["keys"] for record in straight}) == STEPS
    for number in range(len(DIVISIONS[writer][1])):
        folder = runs / name / writer / str(number)
        (start,) = json.loads((folder / "run.json").read_text())[1:]
        assert (start["from_step"], start["to_step"]) == (STOPPED_AFTER, STEPS)
        records = read_lines(folder / "metrics.jsonl")
        assert len(records) == STEPS
        for record, expected in zip(records, straight, strict=True):
            for key in ("step", "keys", "tokens"):
                assert record[key] == expected[key]
            assert {k: v for k, v in record.items() if k.startswith("data/")} == {
                k: v for k, v in expected.items() if k.startswith("data/")
            }
            losses = {k: v for k, v in expected.items() if k.startswith("loss")}
            assert {k: record[k] for k in losses} == pytest.approx(losses, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("name", "writer"), RUNS)
def test_a_checkpoint_is_exported_elsewhere_bit_for_bit(name: str, writer: str, runs: Path) -> None:
    straight = load_file(runs / name / writer / "straight" / "model" / "model.safetensors")
    folders = [*(runs / name / writer).glob("exported_*/model")]
    assert len(folders) == (len(DIVISIONS[writer][1]) if name == "toy" else 1)
    for folder in folders:
        exported = load_file(folder / "model.safetensors")
        assert exported.keys() == straight.keys()
        assert all(torch.equal(exported[key], straight[key]) for key in straight)


def test_several_ranks_roll_back_as_one(runs: Path) -> None:
    several, one = (read_lines(runs / "spike" / ranks / "metrics.jsonl") for ranks in ("4", "1"))
    assert several[-1]["roll_backs"] == 1
    for key in ("step", "keys", "roll_backs"):
        assert [record[key] for record in several] == [record[key] for record in one]
    losses = [record["loss"] for record in one]
    assert [record["loss"] for record in several] == pytest.approx(losses, rel=1e-6, abs=1e-6)
