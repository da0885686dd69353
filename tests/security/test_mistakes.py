"""What a user can do wrong at the command line: every script with what is missing, of the wrong
kind, damaged or out of range. Each mistake gives one line and exit status 2, never a traceback."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

import scripts.benchmark
import scripts.compare_weighting
import scripts.convert
import scripts.demo
import scripts.error_list
import scripts.evaluate
import scripts.export_checkpoint
import scripts.fuzz
import scripts.generate
import scripts.house_numbers
import scripts.instruct
import scripts.model_card
import scripts.parameters
import scripts.parity
import scripts.plan
import scripts.prepare_data
import scripts.quickstart
import scripts.quickstart_flare
import scripts.report
from common.training.command_line import main as train
from flamingo import recipes as flamingo_recipes
from flare import recipes as flare_recipes
from tests.flamingo import tiny
from tests.matrix import Counted

Main = Callable[[Sequence[str]], int]


def train_flamingo(words: Sequence[str]) -> int:
    recipes, make = flamingo_recipes.RECIPES, flamingo_recipes.make_task
    return train(recipes, make, description="", arguments=words)


def train_flare(words: Sequence[str]) -> int:
    recipes, make = flare_recipes.RECIPES, flare_recipes.make_task
    return train(recipes, make, description="", arguments=words)


MAINS: dict[str, Main] = {
    "convert": scripts.convert.main,
    "evaluate": scripts.evaluate.main,
    "export": scripts.export_checkpoint.main,
    "generate": scripts.generate.main,
    "card": scripts.model_card.main,
    "plan": scripts.plan.main,
    "data": scripts.prepare_data.main,
    "quickstart": scripts.quickstart.main,
    "quickstart-flare": scripts.quickstart_flare.main,
    "weighting": scripts.compare_weighting.main,
    "benchmark": scripts.benchmark.main,
    "demo": scripts.demo.main,
    "errors": scripts.error_list.main,
    "fuzz": scripts.fuzz.main,
    "house": scripts.house_numbers.main,
    "instruct": scripts.instruct.main,
    "parameters": scripts.parameters.main,
    "parity": scripts.parity.main,
    "report": scripts.report.main,
    "flamingo": train_flamingo,
    "flare": train_flare,
}
# Files and folders of the right and the wrong kinds, made by `things`.
FOLDERS = ("no/such", "{root}/empty", "{root}/a.txt", "{root}/cut", "{root}/other")
SHORT = "--dry-run --task.vision-encoder None --task.language-model None"
NEITHER = "--dry-run --task.vision-encoder None"

LINES = (
    # Models in every script that reads one.
    *(f"generate --image {{root}}/a.png --model {folder}" for folder in FOLDERS),
    *(
        f"evaluate perplexity --model {folder} --documents {{root}}/a.txt --out {{root}}/out"
        for folder in FOLDERS
    ),
    *(f"convert flamingo {folder} --to {{root}}/new" for folder in FOLDERS),
    *(f"convert flare {folder} --to {{root}}/new" for folder in FOLDERS),
    *(f"convert idefics {folder} --to {{root}}/new" for folder in FOLDERS),
    *(f"card {folder}" for folder in FOLDERS[:4]),
    *(f"flamingo flamingo_tiny {NEITHER} --task.language-model {f}" for f in FOLDERS),
    *(f"export {folder} {{root}}/new" for folder in FOLDERS),
    *(f"data inspect {folder}" for folder in FOLDERS),
    # Media.
    "generate --model {root}/model --image no.png",
    "generate --model {root}/model --image {root}/a.txt",
    "generate --model {root}/model --image {root}/cut.png",
    "generate --model {root}/model --image {root}",
    "generate --model {root}/model --image {root}/a.png --audio {root}/a.txt",
    "generate --model {root}/model --image {root}/a.png --audio {root}/a.wav",
    "generate --model {root}/model --shot {root}/a.txt red --image {root}/a.png",
    "generate --model {root}/model --image {root}/a.png --max-new-tokens many",
    "generate --image",
    "generate --imag {root}/a.png",
    "generate",
    # Names and values.
    "convert clop {root}/model --to {root}/new",
    "convert flamingo {root}/model",
    "convert flamingo {root}/model --to {root}/model",
    "convert flamingo {root}/model --to {root}/new --image-id 3",
    "convert open_flamingo {root}/a.txt --to {root}/new --language-model {root}/model",
    "evaluate retreival",
    "evaluate perplexity",
    "evaluate perplexity --model {root}/model --documents no.txt --out {root}/out2",
    "evaluate perplexity --model {root}/model --documents {root}/a.png --out {root}/out3",
    "evaluate perplexity --model {root}/model --documents {root}/a.txt --out {root}/a.txt",
    "evaluate perplexity --model m --documents d --out o --batch-size 0",
    "export",
    "export {root}/empty",
    "export {root}/empty {root}/new --max-file-gb 0",
    "export {root}/empty {root}/new --max-file-gb big",
    "card",
    "card {root}/model --run {root}/a.txt --results no.json",
    "card {root}/model --results {root}/cut.json",
    "plan",
    "plan flamingo_80",
    "plan flamingo_80b --gpus many",
    "data indx {root}/empty",
    "data index no/such",
    "data index {root}/empty",
    "data inspect {root}/empty --num 0",
    "data inspect {root}/empty --pictures a.jpg",
    "data ingest pears",
    "data embedded",
    "data benchmarks {root}/new --num 0",
    "quickstart --folder",
    "quickstart --sed 3",
    "quickstart-flare --seed x",
    "weighting --steps many",
    "weighting --stepz 3",
    *(f"demo --model {folder}" for folder in FOLDERS),
    "demo",
    "demo --model {root}/model --port many",
    "demo --model {root}/model --port 70000",
    "demo --model {root}/model --port -1",
    "demo --model {root}/model --device gpu9",
    "demo --model {root}/model --dtype fp8",
    "demo --model {root}/model --modle x",
    "demo --model {root}/model --max-image-mb nan",
    *(f"instruct --model {folder} --folder {{root}}/new --silent" for folder in FOLDERS),
    "instruct",
    "instruct --model {root}/model --folder {root}/a.txt --silent",
    "instruct --model {root}/model --folder {root}/new --silent --instruct-steps many",
    "instruct --model {root}/model --folder {root}/new --silent --instruct-steps 0",
    "instruct --model {root}/model --folder {root}/new --silent --mixed-steps -1",
    "instruct --model {root}/model --folder {root}/new --silent --lora-rank 0",
    "instruct --model {root}/model --folder {root}/new --silnt",
    "instruct --model {root}/model --folder {root}/scored --silent",
    *(f"report --model {folder} --out {{root}}/new" for folder in FOLDERS),
    *(f"report --run {folder} --out {{root}}/new" for folder in FOLDERS),
    *(f"report --evaluation {folder} --out {{root}}/new" for folder in FOLDERS),
    *(f"report --alignment {folder} --out {{root}}/new" for folder in FOLDERS),
    "report --recipe flamingo_80 --out {root}/new",
    "report --model {root}/model --out {root}/a.txt",
    "report --model {root}/model --out {root}/new --power-w nan",
    "report --model {root}/model --out {root}/new --power-w -3",
    "report --evaluation {root}/scored --out {root}/new",
    "report --alignment {root}/scored --out {root}/new",
    "report --runn {root}/model",
    "parameters flamingo_80",
    "parameters --all",
    "parity --ful",
    "parity wavlm",
    "house --ful",
    "benchmark",
    "benchmark losss",
    "benchmark loss --jsn",
    "benchmark loss data --plot a.png",
    "benchmark loss --plot",
    "fuzz",
    "fuzz tarr",
    "fuzz tar --seconds 0",
    "fuzz tar --seconds many",
    "fuzz tar --folder {root}/a.txt",
    "fuzz tar --secnds 3",
    "errors --chek",
    "errors all",
    "flamingo flamingo_tinny",
    "flamingo flamingo_tiny --stepz 3",
    "flamingo flamingo_tiny --steps 0",
    "flamingo flamingo_tiny --optimizer.peak-learning-rate inf",
    f"flamingo flamingo_tiny {SHORT} --task.sources.0.kind image_pairs",
    f"flamingo flamingo_tiny {SHORT} --task.sources.0.kind image_pairs --task.sources.0.path no",
    f"flamingo flamingo_tiny {SHORT} --task.sources.0.kind shards --task.sources.0.path {{root}}",
    "flare flare_tinny",
    "flare flare_tiny --dry-run --task.tokenizer no/such",
    "flare flare_tiny --dry-run --task.tokenizer {root}/empty",
    "flare flare_tiny --dry-run --task.tokenizer {root}/cut",
    "flare flare_tiny --dry-run --task.folder no/such",
    "flare flare_tiny --dry-run --task.folder {root}/model",
    "flare flare_tiny --dry-run --task.folder {root}/cut",
    "flare flare_tiny --dry-run --task.max-tokens 9",
)


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("things")
    tiny.model(vocab_size=300).save_pretrained(root / "model")
    tiny.processor().save_pretrained(root / "model")
    for name in ("empty", "cut", "other"):
        (root / name).mkdir()
    for file in (root / "model").iterdir():
        data = file.read_bytes()
        (root / "cut" / file.name).write_bytes(data[: len(data) // 2])
    (root / "other" / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (root / "a.txt").write_text("A text.\n")
    (root / "cut.json").write_text('{"suite": ')
    (root / "scored").mkdir()
    for name in ("score_trained.json", "results.json"):
        (root / "scored" / name).write_text('{"suite": ')
    PIL.Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(root / "a.png")
    (root / "cut.png").write_bytes((root / "a.png").read_bytes()[:60])
    soundfile.write(root / "a.wav", np.linspace(-0.5, 0.5, 900), 16_000)
    return root


def said(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Nothing when the mistake gives its one line and status; else what happened."""
    name, *words = line.split()
    try:
        status: object = MAINS[name](words)
    except SystemExit as ended:
        status = ended.code
    except Exception as error:
        status = f"{type(error).__name__}: {error}"
    error = capsys.readouterr().err
    # Progress of libraries is not the script's.
    lines = [text for text in error.splitlines() if text.startswith("error: ")]
    good = status == 2 and len(lines) == 1 and error.rstrip().endswith(lines[0].rstrip())
    return "" if good else f"{line}: {status}: {error[-300:]}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_mistake_gives_one_line_and_exit_status_2(
    things: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    counted: Counted,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script.py"])
    before = {path: path.read_bytes() for path in things.rglob("*") if path.is_file()}
    wrong = [text for line in LINES if (text := said(line.format(root=things), capsys))]
    assert not wrong, "\n".join(wrong)
    assert {path: path.read_bytes() for path in before} == before
    counted("S3", "mistakes at the command line", len(LINES))


def test_the_list_of_errors_is_that_of_the_sources() -> None:
    assert scripts.error_list.main(["--check"]) == 0, "run python scripts/error_list.py"
