"""Real runs that are killed go on bit for bit."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.distributed.launch import run_script, start_script

FLAMINGO = [
    "scripts/train_flamingo.py",
    "flamingo_tiny",
    *("--task.vision-encoder", "None", "--task.language-model", "None"),
    *("--task.augment-steps", "5"),
]
# Two passes over two micro-batches, learned weights, and everything random in the encoders.
FLARE = [
    "scripts/train_flare.py",
    "flare_tiny",
    *("--task.batch-size", "4", "--num-micro-batches", "2", "--task.augment-steps", "5"),
    *("--task.patch-drop", "0.5", "--task.layer-drop", "0.3", "--task.hidden-frames", "0.2"),
]
SETTINGS = [
    *("--steps", "14", "--schedule.warmup-steps", "3"),
    *("--log-every", "1", "--validate-every", "None", "--sample-every", "None"),
    *("--checkpoint.every-steps", "3"),
]


def command(recipe: list[str], folder: Path) -> list[str]:
    return [*recipe, *SETTINGS, "--run-folder", str(folder)]


def lines(folder: Path) -> list[dict[str, object]]:
    """Every logged figure that does not depend on the clock."""
    text = (folder / "metrics.jsonl").read_text()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith("speed/")}
        for line in text.splitlines()
    ]


def kill_after(recipe: list[str], folder: Path, *, step: int) -> None:
    """Starts the run and kills it without warning as soon as it has logged a step."""
    process = start_script(*command(recipe, folder))
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not metrics.exists() or metrics.read_text().count("\n") < step:
        assert process.is_alive(), "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run did not get going"
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.proves("R1", "the real command, twice in one epoch", 2)
@pytest.mark.slow
@pytest.mark.parametrize("recipe", [FLAMINGO, FLARE], ids=["flamingo", "flare"])
def test_killed_twice_in_one_epoch_equals_the_unbroken_run(
    recipe: list[str], tmp_path: Path
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    run = run_script(*command(recipe, straight))
    assert run.returncode == 0, run.stderr
    kill_after(recipe, broken, step=5)
    kill_after(recipe, broken, step=10)
    # The end of it by an interpreter that has imported nothing.
    subprocess.run([sys.executable, *command(recipe, broken)], check=True, capture_output=True)
    assert lines(straight) == lines(broken)
    assert len(lines(straight)) == 14
    weights = load_file(straight / "model" / "model.safetensors")
    again = load_file(broken / "model" / "model.safetensors")
    assert weights.keys() == again.keys()
    assert all((weights[name] == again[name]).all() for name in weights)
