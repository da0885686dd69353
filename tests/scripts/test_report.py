"""A user has the technical report written at the command line."""

import json
from pathlib import Path

import pytest

from scripts.report import main
from tests.common.evaluation.technical_report import written


@pytest.mark.slow
def test_the_report_is_written_and_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("vision", "language"):
        written.run(tmp_path / "runs" / name)
    vqa = written.evaluation(tmp_path / "vqa")
    words = ["--run", str(tmp_path / "runs"), "--evaluation", str(vqa)]
    assert main([*words, "--out", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr()
    num = len(json.loads((tmp_path / "report" / "report.json").read_text())["figures"])
    assert f"({num} figures, each read again)" in printed.out
    page = (tmp_path / "report" / "report.html").read_text()
    assert "runs/vision" in page
    assert "runs/language" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x"], "nothing to report; name a --run"),
        (["--run", "nowhere"], "nowhere holds no run"),
        (["--runs", "nowhere"], "--runs"),
        (["--power-w", "much"], "--power-w"),
    ],
)
def test_a_mistake_gives_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out


@pytest.mark.slow
def test_a_planned_size_is_labelled(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path)]
    assert main(["--recipe", "flare_tiny --gpus 4 --seconds 0.5", *out]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "### flare_tiny — planned, not run" in text
    assert "2,775,478" in text
