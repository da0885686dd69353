"""The generated README.md: the Hub reads its front matter, and what it says holds."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from common.checkpoint.model_card import write_model_card
from common.errors import UserError
from common.training.trainer import Trainer
from flamingo import FlamingoForConditionalGeneration
from tests.common.training.toy import ToyTask, toy
from tests.flamingo import tiny

SCORE = {"metric": "VQA accuracy", "num": 1234, "interval": [41.5, 43.25], "blind": False}
SCORE |= {"shots": 4, "setting": {"demonstrations": "rices"}, "part": {}}
RESULTS = {
    "name": "VQAv2",
    "scores": [
        SCORE | {"value": 42.345},
        SCORE | {"value": 12.3, "part": {"answer type": "number"}},
        SCORE | {"value": 30.0, "shots": None, "blind": True, "interval": None, "setting": {}},
    ],
}


@pytest.fixture(scope="module")
def model() -> FlamingoForConditionalGeneration:
    return tiny.model(vocab_size=300)


@pytest.fixture
def folder(model: FlamingoForConditionalGeneration, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model", max_shard_size="40KB")
    tiny.processor(300).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_hub_reads_the_card_with_figures_and_base_models(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    sources = [{"kind": "web", "path": str(tmp_path / "shards")}]
    run = {"task": {"model": "flamingo_small", "sources": sources}, "steps": 70}
    (tmp_path / "config.json").write_text(json.dumps(run))
    last = [{"step": 60, "validation/loss": 1.25}, {"step": 70, "loss": 3.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, last)))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["_name_or_path"] = "someone/a-language-model"
    (folder / "config.json").write_text(json.dumps(config))
    path = write_model_card(folder, run=tmp_path, results=[tmp_path / "results.json"])
    card = ModelCard.load(path)
    assert card.data.pipeline_tag == "image-text-to-text"
    assert card.data.base_model == ["someone/a-language-model"]
    assert card.data.license == "other"
    assert card.data.model_name == "flamingo_small"
    figures = [(r.dataset_name, r.metric_name, r.metric_value) for r in card.data.eval_results]
    assert figures == [
        ("VQAv2", "VQA accuracy (4 shots, rices)", 42.34),
        ("VQAv2", "VQA accuracy (blind)", 30.0),
    ]
    assert "| VQAv2 | VQA accuracy (4 shots, rices) | 42.34 | 41.50 to 43.25 | 1,234 |" in card.text
    assert "| task.sources.0.path | shards |" in card.text
    assert str(tmp_path) not in card.content
    assert "| loss | 1.25 |" in card.text


def test_parameters_are_those_of_the_model(
    model: FlamingoForConditionalGeneration, folder: Path
) -> None:
    text = write_model_card(folder).read_text()
    part = sum(p.numel() for p in model.resampler.parameters())
    assert f"| resampler | {part:,} |" in text
    buffers = sum(b.numel() for name, b in model.named_buffers() if name in model.state_dict())
    assert f"**{model.num_parameters() + buffers:,}**" in text


def test_its_code_answers_as_it_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a picture where the card expects one."""
    (code,) = re.findall(r"```python\n(.*?)```", write_model_card(folder).read_text(), re.DOTALL)
    Image.new("RGB", (40, 44), "red").save(folder / "photo.jpg")
    monkeypatch.chdir(folder)
    exec(code.replace('"FOLDER"', '"."'), {})
    assert capsys.readouterr().out.endswith("\n")


def test_a_folder_without_weights_or_an_unreadable_run_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"has no \.safetensors file"):
        write_model_card(tmp_path)
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        write_model_card(folder, run=tmp_path / "nowhere")


def test_weights_alone_are_told_to_be_no_whole_model(folder: Path) -> None:
    (folder / "config.json").unlink()
    card = ModelCard.load(write_model_card(folder))
    assert card.data.pipeline_tag is None
    assert "Weights without a configuration" in card.text


def test_a_finished_run_leaves_a_card_of_itself(tmp_path: Path) -> None:
    run = replace(toy(), steps=4)
    Trainer(run, ToyTask(run.task), tmp_path).train()
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert "| steps | 4 |" in card.text
