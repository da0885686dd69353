"""The script of the page, before there is a page."""

import json
from pathlib import Path

import pytest
from torch import nn

from common.demo.card import model_card
from scripts import demo


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no model to show; give --model FOLDER"),
        (["--model", "nowhere"], "no model in nowhere"),
        (["--model", "OTHER"], "holds a llama; give the folder of a Flamingo or a FLARE"),
        (["--model", "OTHER", "--max-media", "0"], "--max-media 0 leaves nothing to do"),
        (["--modle", "x"], "--modle"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert demo.main([word.replace("OTHER", str(tmp_path)) for word in words]) == 2
    complaint = capsys.readouterr().err
    assert told in complaint
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1


def test_without_gradio_the_script_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert demo.main(["--model", "x"]) == 2
    assert "pip install 'flare-flamingo[demo]'" in capsys.readouterr().err


def test_the_card_says_what_the_model_was_trained_on_where_its_run_is_known(tmp_path: Path) -> None:
    model, folder = nn.Linear(1000, 2000), tmp_path / "my_run" / "model"
    folder.mkdir(parents=True)
    assert model_card(folder, model, kind="FLARE") == (
        "my_run",
        "**my_run** · FLARE · 2.0 million parameters · no record of its training is at hand",
    )
    task = {"model": "some_preset", "sources": [{"kind": "scene_pairs"}, {"kind": "prose"}]}
    (folder.parent / "config.json").write_text(json.dumps({"task": task, "steps": 1500}))
    name, card = model_card(folder, model, kind="FLARE")
    assert name == "some_preset"
    assert card.endswith("trained for 1,500 updates on scene pairs, prose")
    task["model"] = "runs/other/model"
    (folder.parent / "config.json").write_text(json.dumps({"task": task, "steps": 1500}))
    assert model_card(folder, model, kind="FLARE")[0] == "my_run"
