"""The examples run by their command lines, for a newcomer who has trained nothing yet."""

import contextlib
import re
from pathlib import Path

import pytest

from tests.distributed.launch import run_script

EXAMPLES = Path("examples").resolve()
MOST_LINES = 39


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder to start in: no quickstart has been run there."""
    return tmp_path_factory.mktemp("newcomer")


def run(name: str, *options: str, place: Path) -> str:
    with contextlib.chdir(place):
        done = run_script(EXAMPLES / f"{name}.py", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_picture_is_asked_about(place: Path) -> None:
    said = run("ask", "--question", "What is this?", place=place)
    assert "an untrained model stands in" in said
    assert "runs/examples/pairs/00.png: What is this?" in said


@pytest.mark.slow
def test_the_loss_of_fine_tuning_falls_and_the_adapter_is_kept(place: Path) -> None:
    said = run("lora", "--steps", "15", place=place)
    losses = [float(value) for value in re.findall(r"'loss': '?([0-9.]+)", said)]
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]
    assert (place / "runs/examples/lora/adapter_model.safetensors").exists()


@pytest.mark.slow
def test_questions_are_scored_with_and_without_images(place: Path) -> None:
    said = run("evaluate", "--num", "4", place=place)
    found = re.findall(r"(\d) shots (with|without) images: VQA accuracy ([0-9.]+)", said)
    assert [row[:2] for row in found] == [
        (shots, seen) for shots in "04" for seen in ("with", "without")
    ]
    assert all(0 <= float(score) <= 100 for *_, score in found)


def test_every_example_fits_on_a_screen() -> None:
    for name in ("ask", "lora", "evaluate"):
        assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= MOST_LINES
