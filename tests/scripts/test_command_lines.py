"""What a user meets at the command line: help that teaches, and one line for every mistake."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.distributed.launch import run_script

TRAIN = ["scripts/train_flamingo.py"]
TRAIN_FLARE = ["scripts/train_flare.py"]
RANDOM = ["--task.vision-encoder", "None", "--task.language-model", "None"]
SHORT = ["--steps", "3", "--schedule.warmup-steps", "1"]
PAIRS = ["--task.sources.0.kind", "image_pairs", "--task.sources.0.path"]

MISTAKES = {
    "mistyped flag": (
        [*TRAIN, "flamingo_tiny", "--optimizer.peak-learning-rat", "1"],
        "unknown option --optimizer.peak-learning-rat; "
        "did you mean --optimizer.peak-learning-rate?",
    ),
    "mistyped recipe": ([*TRAIN, "flamingo_tiney"], "did you mean flamingo_tiny?"),
    "missing image folder": (
        [*TRAIN, "flamingo_tiny", *RANDOM, *PAIRS, "no/such/folder", "--dry-run"],
        "no/such/folder",
    ),
    "missing stage": (
        [*TRAIN, "flamingo_tiny", *RANDOM, "--task.language-model", "no/lm", "--dry-run"],
        "no language model in no/lm: config.json is missing there",
    ),
    "impossible schedule": (
        [*TRAIN, "flamingo_tiny", "--schedule.warmup-steps", "900"],
        "schedule.warmup_steps (900) must be smaller than steps (450)",
    ),
    "wrong type": ([*TRAIN, "flamingo_tiny", "--steps", "many"], "many"),
    "unknown preset": (["scripts/parameters.py", "flamingo_8b"], "no preset 'flamingo_8b'"),
    "no picture": (
        ["scripts/generate.py", "--image", "no.png", "--model", "."],
        "no model in .; run `make quickstart` first or give --model FOLDER",
    ),
    "nothing to speak about": (
        ["scripts/generate.py", "--question", "What is it?"],
        "nothing to speak about; give --image FILE or --audio FILE",
    ),
    "sounds without a folder": (
        [*TRAIN_FLARE, "flare_tiny", "--task.sources.1.kind", "audio_pairs", "--dry-run"],
        "a source of kind audio_pairs needs a path: a folder of recordings and their captions",
    ),
    "rows too short": (
        [*TRAIN_FLARE, "flare_tiny", "--task.max-tokens", "9", "--dry-run"],
        "use max_tokens=",
    ),
    "missing tokenizer": (
        [*TRAIN_FLARE, "flare_13b", "--dry-run"],
        "tokenizer folder data/tokenizer does not exist",
    ),
    "unknown weighting": (
        [*TRAIN_FLARE, "flare_tiny", "--task.weighting", "gradnorm"],
        "uncertainty",
    ),
    "mistyped option of generate": (
        ["scripts/generate.py", "--imag", "a.png"],
        "--help shows all options",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_gives_one_clear_line_and_exit_status_2(name: str) -> None:
    arguments, message = MISTAKES[name]
    result = run_script(*arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not result.stdout


@pytest.mark.slow
def test_help_names_recipes_their_claims_and_every_option() -> None:
    overview = run_script(*TRAIN, "--help").stdout
    for word in ("flamingo_tiny", "flamingo_80b_paper", "Hardware:", "Not run", "accelerate"):
        assert word in overview
    options = run_script(*TRAIN, "flamingo_tiny", "--help").stdout
    for word in ("--optimizer.peak-learning-rate", "--task.augment-steps", "--run-folder"):
        assert word in options


@pytest.mark.slow
def test_a_dry_run_shows_parameters_data_and_schedule() -> None:
    result = run_anew(*TRAIN, "flamingo_tiny", *RANDOM, "--dry-run")
    assert result.returncode == 0, result.stderr
    for word in ("parameters:", "gated matrices", "source episodes: 8", "learning rate at"):
        assert word in result.stdout


@pytest.mark.slow
def test_a_run_over_the_users_own_folder_trains_and_answers(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(30):
        shade = np.full((40, 50, 3), number * 8, dtype=np.uint8)
        Image.fromarray(shade).save(folder / f"{number}.jpg")
        (folder / f"{number}.txt").write_text(f"shade {number}")
    few = [*SHORT, "--task.sources.0.batch-size", "4"]
    quiet = ["--validate-every", "None", "--sample-every", "3"]
    place = ["--run-folder", str(tmp_path / "run")]
    arguments = [*TRAIN, "flamingo_tiny", *RANDOM, *PAIRS, str(folder), *few, *quiet, *place]
    trained = run_script(*arguments)
    assert trained.returncode == 0, trained.stderr
    assert "is complete" in run_script(*arguments).stdout
    model = str(tmp_path / "run" / "model")
    shot = ["--shot", str(folder / "1.jpg"), "dark", "--image", str(folder / "2.jpg")]
    answer = run_anew("scripts/generate.py", "--model", model, *shot)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_flare_trains_on_the_users_own_sounds_and_speaks_about_one(tmp_path: Path) -> None:
    folder = tmp_path / "sounds"
    folder.mkdir()
    for number in range(30):
        wave = np.sin(np.arange(6000) * 0.02 * (number + 1))
        soundfile.write(folder / f"{number}.flac", wave, 22_050)
        (folder / f"{number}.txt").write_text(f"tone number {number}")
    own = ["--task.sources.1.kind", "audio_pairs", "--task.sources.1.path", str(folder)]
    small = ["--task.batch-size", "4", "--num-micro-batches", "2", "--sample-every", "3"]
    place = ["--run-folder", str(tmp_path / "run"), "--task.weighting", "famo"]
    arguments = [*TRAIN_FLARE, "flare_tiny", *own, *SHORT, *small, *place]
    trained = run_script(*arguments)
    assert trained.returncode == 0, trained.stderr
    assert "audio_pairs: " in trained.stdout
    assert "is complete" in run_script(*arguments).stdout
    for picture in ("losses", "weight", "negatives", "temperature"):
        assert (tmp_path / "run" / "plots" / f"{picture}.png").stat().st_size > 5000
    heard = ["--audio", str(folder / "3.flac"), "--image", str(tmp_path / "grey.png")]
    Image.fromarray(np.full((40, 50, 3), 90, dtype=np.uint8)).save(tmp_path / "grey.png")
    model = ["--model", str(tmp_path / "run" / "model")]
    answer = run_script("scripts/generate.py", *model, *heard)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_a_dry_run_of_flare_shows_parameters_and_data() -> None:
    result = run_anew(*TRAIN_FLARE, "flare_tiny", "--dry-run")
    assert result.returncode == 0, result.stderr
    for word in ("parameters: 2,775,478", "source mixture: 32 examples", "learning rate at"):
        assert word in result.stdout


def run_anew(*words: str) -> subprocess.CompletedProcess[str]:
    """By an interpreter that has imported nothing, as a user's does: once for each script."""
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
