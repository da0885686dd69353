from pathlib import Path

import pytest

from common.checkpoint.lost_rank import RUN_AGAIN
from common.training.command_line import main
from tests.common.training.toy import make_task, toy


def call(*words: str) -> int:
    return main({"toy": toy}, make_task, description="Trains a toy.", arguments=words)


MISTAKES = {
    "--optimizer.peak-lr 3": "unknown option --optimizer.peak-lr; did you mean "
    "--optimizer.peak-learning-rate?",
    "--warmup_step=3": "unknown option --warmup_step; did you mean --schedule.warmup-steps?",
    "--task.hiden-dim 3": "unknown option --task.hiden-dim; did you mean --task.hidden-dim?",
    "--steps many": "Error parsing --steps: invalid literal for int() with base 10: 'many'",
    "--precision fp8": "invalid choice 'fp8' for argument '--precision'. Expected one of "
    "('fp32', 'bf16').",
    "--steps": "Missing value for argument '--steps'. Expected 1 values.",
    "--checkpoint.keep 1": "checkpoint.keep must be at least 2, not 1: with one, a damaged "
    "checkpoint would end the run",
    "surplus": "unexpected argument surplus; options start with -- and --help lists them",
}


def test_a_misspelt_recipe_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("toi") == 2
    assert capsys.readouterr().err == "error: unknown recipe toi; did you mean toy?\n"


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_gives_one_line_and_status_2(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("toy", *words.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {MISTAKES[words]}\n"


def test_a_tracker_that_nobody_knows_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("toy", "--tracker", "tensorbord", "--run-folder", str(tmp_path)) == 2
    assert capsys.readouterr().err.startswith("error: unknown tracker tensorbord; use one of none")


def test_help_shows_the_claim_of_the_recipe_and_every_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert "seconds; run in every test" in text
    assert f"{RUN_AGAIN}   another rank has died" in text
    assert call("toy", "--help") == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "seconds; run in every test" in text
    assert "--task.hidden-dim INT Width of the hidden layer. (default: 7)" in text
    assert "--run-folder PATH" in text


def test_a_dry_run_counts_parameters_and_tokens_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert call("toy", "--dry-run", "--run-folder", str(folder)) == 0
    text = capsys.readouterr().out
    assert "parameters: 101 in all, 65 trained" in text
    assert "update: 12 tokens" in text
    assert "learning rate at update 3: 0.02\n" in text
    assert not folder.exists()
