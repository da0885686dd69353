"""Our model with an OpenFlamingo's weights answers as open_flamingo itself did (fixtures)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    PreTrainedTokenizerFast,
)

from common.checkpoint.pretrained import unwrap
from common.errors import UserError
from flamingo import FlamingoConfig, FlamingoForConditionalGeneration, FlamingoVisionConfig
from flamingo.conversion.open_flamingo import (
    complete,
    from_open_flamingo,
    read_config,
    to_open_flamingo,
)
from flamingo.conversion.open_flamingo_keys import NewTokens
from flamingo.convert import export_open_flamingo, import_open_flamingo
from scripts.fixtures import flamingo_peers as peers

FIXTURES = Path(__file__).parents[1] / "fixtures" / "flamingo"
FAMILIES = ["llama", "gpt_neox", "opt", "mpt"]
Case = tuple[dict[str, Any], dict[str, Tensor], FlamingoConfig, NewTokens]


def case(family: str) -> Case:
    fixture = json.loads((FIXTURES / f"open_flamingo_{family}.json").read_text())
    state = peers.random_weights(fixture["shapes"])
    text = dict(fixture["text_config"])
    config = read_config(
        state,
        text_config=AutoConfig.for_model(text.pop("model_type"), **text),
        vision_config=FlamingoVisionConfig(
            name="vit_base_patch16_clip_224",
            image_size=peers.IMAGE_SIZE,
            model_options={
                "patch_size": peers.PATCH_SIZE,
                "embed_dim": peers.VISION_WIDTH,
                "depth": 2,
                "num_heads": 4,
            },
            image_mean=peers.MEAN,
            image_std=peers.STD,
            layer=None if fixture["normed"] else -1,
        ),
    )
    return fixture, state, config, NewTokens(**fixture["tokens"])


def loaded(config: FlamingoConfig, state: dict[str, Tensor]) -> FlamingoForConditionalGeneration:
    model = FlamingoForConditionalGeneration(config).eval()
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_cached_generation_equal_the_peers(family: str) -> None:
    fixture, state, config, tokens = case(family)
    model = loaded(config, from_open_flamingo(state, config, tokens))
    order = torch.tensor(tokens.order(config.image_token_id + 2))
    ids, said = (order.argsort()[torch.tensor(fixture[key])] for key in ("input_ids", "generated"))
    inputs = {
        "attention_mask": torch.tensor(fixture["attention_mask"]),
        "pixel_values": peers.random_pixels(2, 2, 3, peers.IMAGE_SIZE, peers.IMAGE_SIZE),
        "num_images": torch.tensor(fixture["num_images"]),
    }
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        logits = model(ids, **inputs).logits
        answer = model.generate(
            ids,
            **inputs,
            max_new_tokens=5,
            do_sample=False,
            eos_token_id=config.end_of_chunk_token_id,
            pad_token_id=int(order.argsort()[tokens.image + 1]),
            return_dict_in_generate=True,
            output_logits=True,
        )
    theirs = torch.tensor(fixture["logits"])[..., order]
    torch.testing.assert_close(logits[real], theirs[real], atol=1e-5, rtol=0)
    assert answer.sequences.tolist() == said.tolist()
    cached = torch.tensor(fixture["generated_logits"])[..., order]
    torch.testing.assert_close(torch.stack(answer.logits, dim=1), cached, atol=1e-5, rtol=0)


def test_a_new_image_in_a_cached_conversation_is_seen_where_the_peer_takes_the_first() -> None:
    fixture, state, config, tokens = case("llama")
    model = loaded(config, from_open_flamingo(state, config, tokens))
    order = torch.tensor(tokens.order(config.image_token_id + 2))
    ids = order.argsort()[torch.tensor(fixture["input_ids"][:1])]
    pixels = peers.random_pixels(2, 2, 3, peers.IMAGE_SIZE, peers.IMAGE_SIZE)[:1]
    with torch.no_grad():
        first = model(ids[:, :6], pixel_values=pixels[:, :1], use_cache=True)
        second = model(
            ids[:, 6:],
            pixel_values=pixels[:, 1:],
            past_key_values=first.past_key_values,
            media_cache=first.media_cache,
        )
    whole = torch.tensor(fixture["logits"])[:1, 6:][..., order]
    torch.testing.assert_close(second.logits, whole, atol=1e-5, rtol=0)
    peers_own = torch.tensor(fixture["second_chunk"])[..., order]
    assert (peers_own - whole).abs().max() > 0.01  # its mistake, not ours


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_is_the_identity_on_every_tensor(family: str) -> None:
    _, state, config, tokens = case(family)
    ours = from_open_flamingo(state, config, tokens)
    theirs = to_open_flamingo(ours, config, tokens)
    assert theirs.keys() - state.keys() <= {"lang_encoder.lm_head.weight"}  # a tied one's second
    assert state.keys() - theirs.keys() == {"vision_encoder.proj"}
    assert all(torch.equal(theirs[name], state[name]) for name in theirs.keys() & state.keys())
    again = from_open_flamingo(theirs, config, tokens)
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], ours[name]) for name in ours)


def test_a_training_file_around_its_frozen_parts_is_the_whole_model() -> None:
    _, state, config, tokens = case("gpt_neox")
    layers = "lang_encoder.gpt_neox.layers."
    frozen = {
        name.removeprefix("lang_encoder.").replace(".decoder_layer.", "."): tensor
        for name, tensor in state.items()
        if name.startswith("lang_encoder.") and ".gated_cross_attn_layer." not in name
    }
    vision = {
        name.removeprefix("vision_encoder."): tensor
        for name, tensor in state.items()
        if name.startswith("vision_encoder.")
    }
    # Its training keeps every name with "embed"; GPT-NeoX's head was once called embed_out.
    kept = ("gated_cross_attn", "lang_encoder.gpt_neox.embed_in", "lm_head")
    trained = {
        f"module.{name.replace('lm_head', 'embed_out')}": tensor
        for name, tensor in state.items()
        if name.startswith("perceiver.") or any(part in name for part in kept)
    }
    trained[f"module.{layers}0.decoder_layer.attention.bias"] = torch.ones(1, 1, 8, 8)
    repeated = next(name for name in state if name.endswith("2.gated_cross_attn_layer.attn_gate"))
    trained["module.lang_encoder.gated_cross_attn_layers.2.attn_gate"] = state[repeated]
    file = unwrap({"epoch": 3, "model_state_dict": trained})
    completed, notes = complete(
        file, language_model=frozen, vision=vision, text_config=config.text_config
    )
    ours = from_open_flamingo(completed, config, tokens)
    expected = from_open_flamingo(state, config, tokens)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert [note.split(":")[0] for note in notes] == ["vision_encoder.*", "lang_encoder.*"]

    whole = state["lang_encoder.lm_head.weight"]
    del file["module.lang_encoder.embed_out.weight"]  # as a Llama's, whose name lacks "embed"
    completed, notes = complete(
        file,
        language_model=frozen | {"lm_head.weight": whole[:-3]},
        vision=vision,
        text_config=config.text_config,
    )
    head = completed["lang_encoder.lm_head.weight"]
    assert torch.equal(head[:-3], whole[:-3])
    torch.testing.assert_close(head[-3:], head[:-3].mean(0).expand(3, -1))
    assert "never saved by the peer" in notes[0]


def test_files_become_a_folder_that_loads_and_answers_alike(tmp_path: Path) -> None:
    fixture, state, config, tokens = case("llama")
    text = dict(fixture["text_config"])
    backbone = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(text.pop("model_type"), **text)
    )
    backbone.save_pretrained(tmp_path / "language")
    words = WordLevel({f"w{i}": i for i in range(37)}, unk_token="w0")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="w2")
    tokenizer.save_pretrained(tmp_path / "language")
    torch.save({"model_state_dict": state, "epoch": 1}, tmp_path / "checkpoint.pt")
    import_open_flamingo(
        tmp_path / "checkpoint.pt",
        tmp_path / "ours",
        language_model=tmp_path / "language",
        vision_config=config.vision_config,
        vision_weights=None,
        tokens=None,  # from the tokenizer
    )
    reloaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "ours")
    expected = from_open_flamingo(state, config, tokens)
    assert reloaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(reloaded.state_dict()[name], expected[name]) for name in expected)
    assert reloaded.config.cross_attention_layers == config.cross_attention_layers
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert processor.image_token_id == config.image_token_id
    assert processor.end_of_chunk_token_id == config.end_of_chunk_token_id

    report = export_open_flamingo(tmp_path / "ours", tmp_path / "theirs", tokens=None)
    back = torch.load(tmp_path / "theirs" / "checkpoint.pt")
    del state["vision_encoder.proj"]
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert {key for theirs, _, _ in report.lines for key in theirs.split(" + ")} == {*state, "-"}


def test_every_key_that_does_not_fit_is_named() -> None:
    _, state, config, tokens = case("llama")
    layer = "lang_encoder.model.layers.1."
    state["perceiver.frame_embs"] = torch.zeros(8, 32)
    del state[f"{layer}gated_cross_attn_layer.ff_gate"]
    state[f"{layer}decoder_layer.mlp.up_proj.weight"] = torch.zeros(7, 24)
    with pytest.raises(UserError) as mistake:
        from_open_flamingo(state, config, tokens)
    assert f"missing: {layer}gated_cross_attn_layer.ff_gate" in str(mistake.value)
    assert "unknown: perceiver.frame_embs" in str(mistake.value)
    assert f"{layer}decoder_layer.mlp.up_proj.weight (7, 24) instead of (40, 24)" in str(
        mistake.value
    )


def test_what_an_open_flamingo_cannot_hold_is_refused_by_name() -> None:
    _, state, config, tokens = case("opt")
    ours = from_open_flamingo(state, config, tokens)
    ours["new_outputs.weight"] = ours["new_outputs.weight"] + 1
    ours["resampler.time_embedding"] = torch.ones(config.num_frames, 32)
    config.resampler_activation = "squared_relu"
    with pytest.raises(
        UserError, match=r"resampler_activation=squared_relu.*time embedding.*new_outputs"
    ):
        to_open_flamingo(ours, config, tokens)
