"""A FLARE with a language model's weights answers as that language model does, and back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from common.checkpoint.key_table import check, to_theirs
from common.data.embedded.tokenizer import train_tokenizer
from common.errors import UserError
from flare import FlareForConditionalGeneration
from flare.conversion import language_model as lm
from flare.conversion.depth import deepened_layers
from flare.convert import Around, export_flare, import_language_model
from flare.presets import flare_13b
from tests.flare import tiny

SHAPE: dict[str, Any] = {
    "vocab_size": 261,  # two rows more than the tokenizer's 259
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
}
QWEN3 = Qwen3Config(**SHAPE, head_dim=8)
NUM_TOKENS = 259


def language_model(config: PreTrainedConfig, folder: Path) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    train_tokenizer(["a plain text"], vocab_size=NUM_TOKENS, max_length=512).save_pretrained(folder)
    return model


def flare(folder: Path, out: Path, **options: Any) -> FlareForConditionalGeneration:
    approximate = options.pop("approximate", False)
    around = Around(parts=tiny.config(), **options)
    import_language_model(folder, out, around=around, approximate=approximate)
    return FlareForConditionalGeneration.from_pretrained(out).eval()


@torch.no_grad()
def logits(model: Any, *, tokens: int = NUM_TOKENS) -> Tensor:
    """Of two rows, one of them padded before its text."""
    ids = torch.randint(3, NUM_TOKENS, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    return model(ids, attention_mask=mask).logits[mask.bool()][..., :tokens]


def test_a_qwen3_goes_over_exactly_and_comes_back(tmp_path: Path) -> None:
    peer = language_model(QWEN3, tmp_path / "qwen3")
    ours = flare(tmp_path / "qwen3", tmp_path / "flare")
    torch.testing.assert_close(logits(ours), logits(peer), atol=1e-5, rtol=1e-5)

    export_flare(tmp_path / "flare", tmp_path / "theirs")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs" / "language_model").eval()
    rows = ours.config.text_config.vocab_size
    torch.testing.assert_close(
        logits(back, tokens=rows), logits(ours, tokens=rows), atol=1e-5, rtol=1e-5
    )
    theirs, first = back.state_dict(), peer.state_dict()
    assert theirs.keys() == first.keys()
    assert all(torch.equal(theirs[name][:NUM_TOKENS], first[name][:NUM_TOKENS]) for name in first)

    torch.manual_seed(9)  # draws nothing of the result
    again = flare(tmp_path / "theirs" / "language_model", tmp_path / "again")
    assert again.config.text_config.vocab_size == rows  # it has the control tokens already
    assert again.config.image_token_id == ours.config.image_token_id
    assert all(
        torch.equal(again.state_dict()[key], ours.state_dict()[key]) for key in again.state_dict()
    )


def test_control_tokens_start_at_the_mean_and_soft_tokens_as_loud_as_words(tmp_path: Path) -> None:
    peer = language_model(QWEN3, tmp_path / "qwen3")
    ours = flare(tmp_path / "qwen3", tmp_path / "flare")
    processor = AutoProcessor.from_pretrained(tmp_path / "flare")
    assert processor.control_ids[-4:] == [259, 260, 261, 262]
    assert ours.config.emb_token_id == processor.emb_token_id == 262
    for table, rows in (
        (ours.embedding, peer.get_input_embeddings()),
        (ours.lm_head, peer.get_output_embeddings()),
    ):
        mean = rows.weight[:NUM_TOKENS].mean(0)
        torch.testing.assert_close(table.weight[NUM_TOKENS:], mean.expand(4, -1))
    words = ours.embedding.weight.square().mean().sqrt()
    with torch.no_grad():
        tokens = ours.encode_images(tiny.images(5)).tokens.square().mean().sqrt()
    assert 0.7 < tokens / words < 1.4


def test_more_layers_keep_the_function_or_overlap_two_copies(tmp_path: Path) -> None:
    tied = Qwen3Config(**SHAPE, head_dim=8, tie_word_embeddings=True)
    peer = language_model(tied, tmp_path / "qwen3")
    deeper = flare(tmp_path / "qwen3", tmp_path / "identity", num_layers=5)
    plain = flare(tmp_path / "qwen3", tmp_path / "plain")
    assert torch.equal(logits(deeper), logits(plain))
    torch.testing.assert_close(logits(plain), logits(peer), atol=1e-5, rtol=1e-5)
    last = deeper.decoder.blocks[4]
    assert not any(deeper.decoder.blocks[2].attention.to_out.weight.flatten())
    assert torch.equal(last.attention.to_q.weight, plain.decoder.blocks[2].attention.to_q.weight)

    stacked = flare(tmp_path / "qwen3", tmp_path / "overlap", num_layers=5, deepen="overlap")
    layers = peer.get_submodule("model.layers")
    peer.model.layers = torch.nn.ModuleList(layers[source] for source in (0, 1, 2, 1, 2))
    peer.config.num_hidden_layers, peer.config.layer_types = 5, ["full_attention"] * 5
    ids = torch.arange(7, 15)[None]
    with torch.no_grad():
        ours, theirs = stacked(ids).logits, peer(ids, use_cache=False).logits
    torch.testing.assert_close(
        ours[..., :NUM_TOKENS], theirs[..., :NUM_TOKENS], atol=1e-5, rtol=1e-5
    )


def test_depth_is_grown_evenly_and_never_beyond_two_copies() -> None:
    grown = deepened_layers(4, to=7, how="identity")
    assert grown == [
        (0, False),
        (1, False),
        (1, True),
        (2, False),
        (2, True),
        (3, False),
        (3, True),
    ]
    solar = [layer for layer, _ in deepened_layers(32, to=48, how="overlap")]
    assert solar == [*range(24), *range(8, 32)]
    for to, mistake in ((3, "ask for more"), (9, "two copies of 4")):
        with pytest.raises(UserError, match=mistake):
            deepened_layers(4, to=to, how="overlap")


def test_the_decoder_of_flare_13b_is_a_qwen3_key_for_key() -> None:
    text = flare_13b().text_config
    with torch.device("meta"):
        peer = Qwen3ForCausalLM(lm.qwen3_config(text))
    ours = to_theirs(lm.decoder_table(text.num_hidden_layers), lm.decoder_shapes(text))
    check(peer.state_dict(), ours, source="the decoder of FLARE-13B")


def test_a_llama_is_only_come_near_to_when_asked(tmp_path: Path) -> None:
    peer = language_model(LlamaConfig(**SHAPE, head_dim=6), tmp_path / "llama")
    with pytest.raises(UserError, match=r"does not normalise queries and keys\. --approximate"):
        flare(tmp_path / "llama", tmp_path / "refused")
    near = flare(tmp_path / "llama", tmp_path / "near", approximate=True)
    theirs = logits(peer)
    distance = (logits(near) - theirs).square().mean()
    assert distance < 0.2 * theirs.square().mean()
    with torch.no_grad():
        for block in near.decoder.blocks:
            # Queries and keys of length 1 per channel, as a random decoder's are.
            block.attention.q_norm.weight.fill_(1.0)
            block.attention.k_norm.weight.fill_(1.0)
    assert distance < 0.6 * (logits(near) - theirs).square().mean()


def test_a_language_model_that_no_decoder_is_like_is_refused_by_name() -> None:
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    windows = Qwen3Config(
        **SHAPE | {"rope_parameters": scaled}, use_sliding_window=True, max_window_layers=1
    )
    assert lm.inexact(windows) == [
        "its rotary embedding is scaled (linear)",
        "it has layers of sliding_attention",
    ]
    assert "its attention has biases" in lm.inexact(Qwen2Config(**SHAPE))
    with pytest.raises(UserError, match="mlp_bias=True"):
        lm.inexact(LlamaConfig(**SHAPE, head_dim=6, mlp_bias=True))
