"""The command tunes and aligns a model folder, goes on where it stopped, and tells mistakes in one
line."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.data.conversations.embedded import TaughtInstructions
from common.data.conversations.mixture import Mixed
from common.data.embedded import speech
from common.errors import UserError
from scripts import instruct as command
from tests.flamingo import tiny
from tests.flare.instruct import chats

pytest.importorskip("trl")


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["instruct.py", *options])
    return command.main()


@pytest.mark.slow
def test_the_rounds_leave_model_folders_and_a_table_and_are_not_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "NUM_INSTRUCTIONS", 12)
    monkeypatch.setattr(command, "NUM_REQUESTS", 12)
    processor = chats.processor()
    chats.model(processor).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    counts = [f"--{name}-steps=1" for name in ("instruct", "mixed", "heard", "preference")]
    folders = ["--model", str(tmp_path / "model"), "--folder", str(tmp_path / "out")]
    assert run(monkeypatch, *folders, *counts, "--silent") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    names = ["trained", "instructed", "mixed", "heard", "aligned"]
    assert list(results) == names
    assert all((tmp_path / "out" / name / "model.safetensors").is_file() for name in names[1:])
    assert results["aligned"].keys() == results["trained"].keys()
    assert "| harmful requests refused |" in (tmp_path / "out" / "report.md").read_text()
    capsys.readouterr()
    assert run(monkeypatch, *folders, *counts, "--silent") == 0
    assert "==" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_flamingo_keeps_its_backbones_and_gets_a_template_with_roles(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "NUM_INSTRUCTIONS", 6)
    monkeypatch.setattr(command, "NUM_REQUESTS", 6)
    tiny.model(vocab_size=300).save_pretrained(tmp_path / "model")
    tiny.processor().save_pretrained(tmp_path / "model")
    counts = [f"--{name}-steps=2" for name in ("instruct", "mixed", "preference")]
    folders = ["--model", str(tmp_path / "model"), "--folder", str(tmp_path / "out")]
    assert run(monkeypatch, *folders, *counts) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results) == ["trained", "instructed", "mixed", "aligned"]
    assert not any("spoken" in what or "sound" in what for what in results["aligned"])
    before, after = (
        load_file(tmp_path / name / "model.safetensors") for name in ("model", "out/aligned")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {
        "gated_cross_attention", "new_inputs", "new_outputs", "resampler",
    }  # fmt: skip
    assert "Assistant:" in (tmp_path / "out" / "aligned" / "chat_template.jinja").read_text()


def test_mistakes_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--model", str(tmp_path), "--folder", str(tmp_path), "--silent") == 2
    assert "config.json is missing" in capsys.readouterr().err
    monkeypatch.setattr(speech, "is_available", lambda: False)
    chats.model(chats.processor()).config.save_pretrained(tmp_path)
    assert run(monkeypatch, "--model", str(tmp_path), "--folder", str(tmp_path)) == 2
    assert capsys.readouterr().err.strip().endswith("install it, or use --silent")


def test_a_mixture_has_its_sets_in_their_proportions() -> None:
    taught = TaughtInstructions(command.Instructions(split="train", seed=0, num=2))
    fixed = [{"messages": [{"role": "user", "content": "hi"}]}]
    mixed = Mixed([(3.0, taught), (1.0, fixed)], num=40, seed=1)
    again = [mixed[index] is fixed[0] for index in range(40)]
    assert sum(again) == 10
    with pytest.raises(IndexError):
        mixed[40]
    with pytest.raises(UserError, match="a set of the mixture is empty"):
        Mixed([(1.0, [])], num=3, seed=0)
