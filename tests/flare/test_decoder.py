"""The decoder: equal to a known implementation, flat at any depth, deaf to other documents."""

import pytest
import torch
from torch.testing import assert_close
from transformers import Qwen3Config, Qwen3ForCausalLM

from flare.config import FlareTextConfig
from flare.decoder import Decoder, hybrid_mask, positions_in_documents
from flare.model import FlareForConditionalGeneration
from tests.flare import tiny

DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [5, 5, 2, 2, 2, 9, 9]])
BOTH_WAYS = torch.tensor([[False] * 3 + [True] * 4, [True] * 2 + [False] * 5])
QWEN_NAMES = {
    "self_attn.q_proj": "attention.to_q",
    "self_attn.k_proj": "attention.to_k",
    "self_attn.v_proj": "attention.to_v",
    "self_attn.o_proj": "attention.to_out",
    "self_attn.q_norm": "attention.q_norm",
    "self_attn.k_norm": "attention.k_norm",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "feed_forward_norm",
    "mlp.gate_proj": "feed_forward.gate",
    "mlp.up_proj": "feed_forward.expand",
    "mlp.down_proj": "feed_forward.contract",
    "model.layers": "decoder.blocks",
    "model.norm": "decoder.norm",
    "model.embed_tokens": "embedding",
}


def test_it_computes_what_qwen3_computes() -> None:
    """Same architecture, written by others: same weights, same logits."""
    model = tiny.model()
    text = model.config.text_config
    torch.manual_seed(1)
    qwen = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_hidden_layers=text.num_hidden_layers,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            head_dim=text.head_dim,
            rms_norm_eps=text.rms_norm_eps,
            rope_theta=text.rotary_base,
            initializer_range=0.3,
            tie_word_embeddings=False,
        )
    ).eval()
    state = qwen.state_dict()
    for theirs, ours in QWEN_NAMES.items():
        state = {key.replace(theirs, ours): value for key, value in state.items()}
    report = model.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    assert not [key for key in report.missing_keys if key.startswith(("decoder", "embed", "lm_"))]
    ids = torch.randint(7, tiny.VOCAB, (2, 11))
    mask = torch.tensor([[0, 0] + [1] * 9, [1] * 11])
    ours, theirs = model(ids).logits, qwen(ids).logits
    assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    padded = model(ids, attention_mask=mask).logits[mask.bool()]
    expected = qwen(ids, attention_mask=mask).logits[mask.bool()]
    assert_close(padded, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", [4, 128])
def test_the_signal_keeps_its_size_through_any_depth(depth: int) -> None:
    """At initialisation each of the 2L branches adds less than 1/(2L) of the stream's variance of
    1: its root mean square stays in 1..1.42 at every layer, and so do gradients within a factor."""
    text = FlareTextConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=depth,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=91,  # 2.85 times the width, as 7296 is of 2560
    )
    torch.manual_seed(0)
    config = tiny.config(text_config=text, initializer_range=32**-0.5)
    model = FlareForConditionalGeneration(config)
    sizes: list[float] = []
    for block in model.decoder.blocks:
        block.register_forward_hook(
            lambda block, args, out: sizes.append(float(out.detach().square().mean().sqrt()))
        )
    ids = torch.randint(7, 97, (3, 20))
    model(ids, labels=ids).loss.backward()
    assert len(sizes) == depth
    assert 0.95 < min(sizes) < max(sizes) < 2**0.5
    assert sizes[-1] > sizes[0] + 0.1  # the branches are there
    gradients = [float(b.attention.to_v.weight.grad.norm()) for b in model.decoder.blocks]
    assert max(gradients) < 5 * min(gradients)


def test_positions_start_again_in_every_document() -> None:
    expected = [[0, 1, 2, 0, 1, 2, 3], [0, 1, 0, 1, 2, 0, 1]]
    assert positions_in_documents(DOCUMENTS).tolist() == expected


def test_a_document_is_causal_or_sees_itself_whole() -> None:
    mask = hybrid_mask(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[False, False, True, True]]))
    allowed = mask.dense(batch=1, num_queries=4, num_keys=4, device="cpu")[0, 0]
    assert allowed.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def decoder() -> Decoder:
    return tiny.model().decoder


def run(layers: Decoder, x: torch.Tensor, backend: str) -> torch.Tensor:
    return layers(
        x,
        positions=positions_in_documents(DOCUMENTS),
        mask=hybrid_mask(DOCUMENTS, BOTH_WAYS),
        backend=backend,
    )


@pytest.mark.parametrize("backend", ["reference", "sdpa", "flex"])
def test_packed_documents_equal_documents_alone(backend: str) -> None:
    layers, x = decoder(), torch.randn(2, 7, 24)
    packed = run(layers, x, backend)
    for row, document in ((0, 0), (0, 1), (1, 5), (1, 2), (1, 9)):
        own = DOCUMENTS[row] == document
        alone = layers(
            x[row : row + 1, own],
            positions=torch.arange(int(own.sum()))[None],
            mask=hybrid_mask(DOCUMENTS[row : row + 1, own], BOTH_WAYS[row : row + 1, own]),
            backend="reference",
        )
        assert_close(packed[row : row + 1, own], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_no_bit_crosses_between_documents_or_from_the_future(backend: str) -> None:
    layers, x = decoder(), torch.randn(2, 7, 24)
    before = run(layers, x, backend)
    for row, place in ((0, 2), (0, 4), (1, 1), (1, 3), (1, 6)):
        changed = x.clone()
        changed[row, place] += 3.0
        moved = (run(layers, changed, backend) != before).any(-1)
        own = DOCUMENTS.eq(DOCUMENTS[row, place])
        own[1 - row] = False
        later = torch.arange(7) >= place
        assert torch.equal(moved, own & (BOTH_WAYS | later)), (row, place)
