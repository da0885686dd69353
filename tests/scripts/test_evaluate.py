"""The command that evaluates: one line for a mistake, and the same figures from one process, from
several, and from any that were killed on the way."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.data.embedded.benchmarks import write_benchmarks
from scripts.evaluate import SUITES, main
from tests.distributed.launch import launch, preloaded
from tests.flamingo import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.model(vocab_size=300).save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vqa(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    data = tmp_path_factory.mktemp("data") / "benchmarks"
    write_benchmarks(data, num=5, seed=0)

    def words(out: Path, *options: str) -> list[str]:
        files = []
        for split, prefix in (("val2014", "--"), ("train2014", "--train-")):
            name = data / "vqav2"
            files += [f"{prefix}questions", f"{name}/v2_OpenEnded_mscoco_{split}_questions.json"]
            files += [f"{prefix}annotations", f"{name}/v2_mscoco_{split}_annotations.json"]
            files += [f"{prefix}images", f"{data}/coco/{split}"]
        settings = ["--dataset", "vqav2", "--shots", "0", "2", "--beams", "2"]
        where = ["--model", str(model), "--out", str(out), "--batch-size", "4"]
        return ["vqa", *where, *files, *settings, "--demonstrations", "rices", *options]

    return words


def complaint(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err


def test_a_mistake_gives_one_line_and_exit_status_2(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["perplexity", "--model", str(model), "--out", str(tmp_path / "out")]
    documents = ["--documents", str(tmp_path / "a.txt")]
    said = complaint(["retreival"], capsys)
    assert "did you mean retrieval?" in said
    assert "give --out, --documents too" in complaint(["perplexity", "--model", "m"], capsys)
    assert "config.json is missing" in complaint(
        ["perplexity", "--model", str(tmp_path), "--out", "o", *documents], capsys
    )
    assert "--batch-size 0" in complaint([*own, *documents, "--batch-size", "0"], capsys)
    assert "--device abacus is not there" in complaint(
        [*own, *documents, "--device", "abacus"], capsys
    )
    assert "a.txt is no .txt or .jsonl file" in complaint(
        [*own[:-1], str(tmp_path / "other"), *documents], capsys
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    assert "holds no evaluation, but other files" in complaint(
        [*own[:-1], str(tmp_path / "full"), *documents], capsys
    )


def test_a_model_is_asked_only_for_what_it_can_do(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["retrieval", "--model", str(model), "--out", str(tmp_path), "--dataset", "clotho"]
    said = complaint([*words, "--captions", "c.csv", "--media", "m"], capsys)
    assert "retrieval needs a TextEmbedder, which EvaluatedFlamingo is not" in said
    assert "it can run vqa, captions, classes, perplexity" in said


def test_help_teaches_with_commands_and_knows_every_suite(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "python scripts/evaluate.py vqa --model FOLDER" in text
    assert all(name in text for name in SUITES)
    assert main(["vqa", "--help"]) == 0
    assert "--limit" in capsys.readouterr().out


@pytest.mark.slow
def test_one_process_two_and_killed_ones_give_the_same_bytes(
    vqa: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(vqa(tmp_path / "one")) == 0
    expected = (tmp_path / "one/results.json").read_bytes()
    result = json.loads(expected)
    assert result["name"] == "VQAv2"
    assert {score["blind"] for score in result["scores"]} == {True, False}

    launch("scripts.evaluate", *vqa(tmp_path / "two"), num_ranks=2)
    assert (tmp_path / "two/results.json").read_bytes() == expected
    settings = list((tmp_path / "two/answers").glob("*-shot_*"))
    assert len(settings) == 4  # 0 and 2 shots, seeing and blind
    assert all(len(list(folder.iterdir())) == 2 for folder in settings)

    kill_behind_answers(vqa(tmp_path / "cut"), tmp_path / "cut", num=2)
    assert not (tmp_path / "cut/results.json").exists()
    assert main(vqa(tmp_path / "cut")) == 0
    assert (tmp_path / "cut/results.json").read_bytes() == expected

    # What is finished is only drawn again; nothing else is begun in its folder.
    (tmp_path / "one/report.md").unlink()
    for folder in ("answers", "vectors"):
        (tmp_path / "one" / folder).rename(tmp_path / folder)
    assert main(vqa(tmp_path / "one")) == 0
    assert "![scores by number of shots](shots.png)" in (tmp_path / "one/report.md").read_text()
    assert not (tmp_path / "one/answers").exists()
    capsys.readouterr()
    said = complaint(vqa(tmp_path / "one", "--limit", "3"), capsys)
    assert "was begun with other settings (limit was null, is 3)" in said


def kill_behind_answers(words: list[str], folder: Path, *, num: int) -> None:
    """Kill an evaluation when some settings are begun."""
    process = preloaded().Process(target=main, args=(words,))
    process.start()
    while process.is_alive() and len(list(folder.glob("answers/*-shot_*/*.jsonl"))) < num:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
