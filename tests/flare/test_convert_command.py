"""What a user meets at scripts/convert.py around a FLARE, from files to files and back."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    CLIPVisionModel,
    LlamaConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    WavLMModel,
)

from common.data.embedded.tokenizer import train_tokenizer
from flare.conversion.encoders import wavlm_config
from flare.model import FlareForConditionalGeneration
from flare.presets import flare_tiny
from scripts import convert
from tests.flare.test_convert_encoders import CLIP

TINY = {
    "vocab_size": 259,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def tokenizer(folder: Path) -> None:
    train_tokenizer(["text"], vocab_size=259, max_length=512).save_pretrained(folder)


def command(monkeypatch: pytest.MonkeyPatch, *options: object) -> int:
    monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, options)])
    return convert.main()


def written(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    model.save_pretrained(folder)
    return model


def equal(one: PreTrainedModel, other: PreTrainedModel, *, rows: int | None = None) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[name][:rows], theirs[name][:rows]) for name in mine
    )


def test_three_checkpoints_of_the_field_become_a_flare_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    language = written(Qwen3ForCausalLM(Qwen3Config(**TINY)), tmp_path / "qwen3")
    tokenizer(tmp_path / "qwen3")
    vision = written(CLIPVisionModel(CLIP), tmp_path / "clip")
    audio = written(WavLMModel(wavlm_config(flare_tiny().audio_config)), tmp_path / "wavlm")

    assert command(monkeypatch, "clip", tmp_path / "clip", "--to", tmp_path / "vision") == 0
    around = ["--parts", "flare_tiny", "--vision", tmp_path / "vision"]
    around += ["--audio", tmp_path / "wavlm"]
    flare = tmp_path / "flare"
    capsys.readouterr()
    assert command(monkeypatch, "language_model", tmp_path / "qwen3", "--to", flare, *around) == 0
    printed = capsys.readouterr()
    assert all(name in printed.out for name in language.state_dict())
    assert "rows 259 to 262, of new tokens, are means of the others" in printed.out
    assert not printed.err

    assert command(monkeypatch, "flare", flare, "--to", tmp_path / "back") == 0
    printed = capsys.readouterr()
    ours = FlareForConditionalGeneration.from_pretrained(flare).state_dict()
    kept = ("decoder.", "embedding.", "lm_head.", "vision_encoder.model.", "audio_encoder.")
    unprefixed = (name.removeprefix("vision_encoder.model.") for name in ours)
    names = (name.removeprefix("audio_encoder.") for name in unprefixed)
    whole = zip(ours, names, strict=True)
    assert all(name in printed.out for key, name in whole if key.startswith(kept))
    back = tmp_path / "back"
    assert equal(Qwen3ForCausalLM.from_pretrained(back / "language_model"), language, rows=259)
    assert equal(CLIPVisionModel.from_pretrained(back / "vision_encoder"), vision)
    assert equal(WavLMModel.from_pretrained(back / "audio_encoder"), audio)
    config = AutoConfig.from_pretrained(back / "audio_encoder")
    assert config.conv_dim == audio.config.conv_dim


def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    llama = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    for name, content in {
        "unknown": {"model_type": "no_such_model"},
        "opt": {"model_type": "opt"},
        "nothing": {},
        "broken": {"model_type": "llama", "hidden_size": "wide"},
        "llama": llama.to_dict(),
        "clip": CLIP.to_dict(),
        **dict.fromkeys(("qwen3", "partial", "cut"), Qwen3Config(**TINY).to_dict()),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
    for name in ("partial", "cut"):
        tokenizer(tmp_path / name)
    save_file({"model.surplus.weight": torch.zeros(3)}, tmp_path / "partial" / "model.safetensors")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"cut short")
    whole = Qwen3ForCausalLM(Qwen3Config(**TINY))
    whole.save_pretrained(tmp_path / "whole")
    tokenizer(tmp_path / "whole")
    (tmp_path / "cut.pth").write_bytes(b"cut short")
    new = ["--to", tmp_path / "new"]
    decoder = ["language_model", tmp_path / "whole", *new, "--parts", "flare_tiny"]
    qwen3 = ["language_model", tmp_path / "qwen3", *new]
    mistakes = {
        "config.json is missing there": ["language_model", tmp_path / "none", *new],
        "model type no_such_model": ["language_model", tmp_path / "unknown", *new],
        "one of llama, qwen2, qwen3, not a opt": ["language_model", tmp_path / "opt", *new],
        "describes no model": ["flare", tmp_path / "nothing", *new],
        "cannot read": ["language_model", tmp_path / "broken", *new],
        "--approximate starts": ["language_model", tmp_path / "llama", *new],
        "no tokenizer in": qwen3,
        "missing: lm_head.weight": ["language_model", tmp_path / "partial", *new],
        "unknown: model.surplus.weight": ["language_model", tmp_path / "partial", *new],
        "no whole model in": ["language_model", tmp_path / "cut", *new],
        "are damaged or no state dict": [*decoder, "--vision", tmp_path / "cut.pth"],
        "holds a clip_vision_model, not a wavlm": [*decoder, "--audio", tmp_path / "clip"],
        "scripts/convert.py clip": [*qwen3, "--vision", tmp_path / "clip"],
        "ask for more": [*qwen3, "--layers", 1],
        "two copies of 2": [*qwen3, "--layers", 5, "--deepen", "overlap"],
        "is not an empty folder": ["flare", tmp_path, "--to", tmp_path],
        "holds a llama, not a flare": ["flare", tmp_path / "llama", *new],
        "holds a llama, not a clip": ["clip", tmp_path / "llama", *new],
        "does not exist": ["clip", tmp_path / "none.bin", *new],
    }
    for expected, options in mistakes.items():
        assert command(monkeypatch, *options) == 2, expected
        errors = capsys.readouterr().err
        assert expected in errors
        assert errors.count("\n") == 1
    assert not (tmp_path / "new").exists()
