"""What a user meets at scripts/convert.py: a table of every key, one line for every mistake."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import IdeficsConfig, IdeficsForVisionText2Text, LlamaConfig, LlamaForCausalLM

from common.data.embedded.tokenizer import train_tokenizer
from flamingo import FlamingoConfig, FlamingoForConditionalGeneration
from flamingo.conversion.clip import clip_vision_config
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


@pytest.mark.slow
def test_a_model_of_ours_goes_out_as_an_open_flamingo_and_comes_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    text = {"vocab_size": 259, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4}
    language = LlamaForCausalLM(LlamaConfig(**text, num_attention_heads=3))
    language.save_pretrained(tmp_path / "llama")
    tokenizer = train_tokenizer(["text"], vocab_size=259, max_length=512)
    tokenizer.save_pretrained(tmp_path / "llama")
    tower = "vit_xsmall_patch16_clip_224"
    config = FlamingoConfig(
        vision_config=clip_vision_config(tower, image_size=32, layer=-1),
        text_config=language.config,
        media_dim=256,
        num_latents=5,
        resampler_layers=1,
        resampler_heads=2,
        resampler_head_dim=64,
        resampler_feed_forward_dim=44,
        resampler_activation="gelu",
        cross_attention_interval=2,
        cross_attention_first=1,
        cross_attention_heads=2,
        cross_attention_head_dim=64,
        cross_attention_feed_forward_dim=52,
        cross_attention_activation="gelu",
    )
    ours = FlamingoForConditionalGeneration(config)
    torch.nn.init.zeros_(ours.resampler.time_embedding)
    ours.save_pretrained(tmp_path / "ours")
    assert command(monkeypatch, "flamingo", tmp_path / "ours", "--to", tmp_path / "theirs") == 0
    around = ["--language-model", tmp_path / "llama", "--vision", tower, "--image-size", 32]
    checkpoint = tmp_path / "theirs" / "checkpoint.pt"
    again = tmp_path / "again"
    assert command(monkeypatch, "open_flamingo", checkpoint, "--to", again, *around) == 0
    assert "vision_encoder.conv1.weight" in capsys.readouterr().out
    back, first = FlamingoForConditionalGeneration.from_pretrained(again), ours.state_dict()
    assert back.state_dict().keys() == first.keys()
    assert all(torch.equal(back.state_dict()[name], first[name]) for name in first)
    for name in ("cross_attention_layers", "num_latents", "image_token_id"):
        assert getattr(back.config, name) == getattr(config, name)
    wrong = ["idefics", "--end-of-chunk-id", 259, "--image-id", 260]
    options = ["flamingo", again, "--to", tmp_path / "new", "--as", *wrong]
    assert command(monkeypatch, *options) == 2
    assert "leave out their ids" in capsys.readouterr().err
    assert command(monkeypatch, *options[:-4]) == 2
    assert "resampler_activation=gelu instead of relu" in capsys.readouterr().err


def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for name, kind in (("unknown", "mosaic_gpt"), ("empty", "llama")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    torch.save({"perceiver.latents": torch.zeros(3, 4)}, tmp_path / "bridge.pt")
    bridge = ["open_flamingo", tmp_path / "bridge.pt", "--to", tmp_path / "new"]
    bridge += ["--end-of-chunk-id", 5, "--image-id", 6, "--language-model"]
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    (tmp_path / "damaged.pt").write_bytes(b"no tensors")
    new = ["--to", tmp_path / "new"]
    around = [*new, "--language-model", tmp_path]
    mistakes = {
        "model type mosaic_gpt": [*bridge, tmp_path / "unknown"],
        "no whole model in": [*bridge, tmp_path / "empty"],
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
