"""What a user meets at scripts/convert.py: a table of every key, one line for every mistake."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import IdeficsConfig, IdeficsForVisionText2Text

from scripts import convert
from scripts.fixtures import flamingo_peers as peers

FIXTURES = Path(__file__).parents[1] / "fixtures" / "flamingo"


def command(monkeypatch: pytest.MonkeyPatch, *options: object) -> int:
    monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, options)])
    return convert.main()


def test_an_idefics_folder_becomes_ours_with_a_line_for_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fixture = json.loads((FIXTURES / "idefics.json").read_text())
    peer = IdeficsForVisionText2Text(IdeficsConfig(**fixture["config"]))
    peer.load_state_dict(peers.random_weights(fixture["shapes"]))
    peer.save_pretrained(tmp_path / "idefics")
    capsys.readouterr()
    assert command(monkeypatch, "idefics", tmp_path / "idefics", "--to", tmp_path / "ours") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in fixture["shapes"])
    assert (tmp_path / "ours" / "model.safetensors").is_file()


def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    (tmp_path / "damaged.pt").write_bytes(b"no tensors")
    new = ["--to", tmp_path / "new"]
    around = [*new, "--language-model", tmp_path]
    mistakes = {
        "does not exist": ["open_flamingo", tmp_path / "none.pt", *around],
        "no state dict in the file: epoch": ["open_flamingo", tmp_path / "empty.pt", *around],
        "is no file of plain tensors": ["open_flamingo", tmp_path / "damaged.pt", *around],
        "is not an empty folder": ["idefics", tmp_path, "--to", tmp_path],
        "holds a llama, not an idefics": ["idefics", tmp_path, *new],
        "holds a llama, not a flamingo of ours": ["flamingo", tmp_path, *new],
        "config.json is missing there": ["flamingo", tmp_path / "none", *new],
        "or neither": ["flamingo", tmp_path, *new, "--image-id", 3],
    }
    for expected, options in mistakes.items():
        assert command(monkeypatch, *options) == 2
        errors = capsys.readouterr().err
        assert expected in errors
        assert errors.count("\n") == 1
