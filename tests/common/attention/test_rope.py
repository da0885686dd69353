"""Rotary embedding agrees with transformers' Llama and depends on distances only."""

import pytest
import torch
from torch.testing import assert_close
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from common.attention.rope import apply_rotary, rotary

# Row 1 is two packed documents.
POSITIONS = torch.tensor([[0, 1, 2, 700, 2047], [0, 1, 0, 1, 2]])


def test_rotation_equals_that_of_llama() -> None:
    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 1, 5, 8)
    config = LlamaConfig(
        hidden_size=24,
        num_attention_heads=3,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    )
    expected_cos, expected_sin = LlamaRotaryEmbedding(config)(q, POSITIONS)
    cos, sin = rotary(POSITIONS, head_dim=8, base=5000.0)
    assert_close((cos, sin), (expected_cos, expected_sin), rtol=0, atol=1e-6)
    expected = apply_rotary_pos_emb(q, k, expected_cos, expected_sin)
    assert_close((apply_rotary(q, cos, sin), apply_rotary(k, cos, sin)), expected)


def test_scores_depend_on_the_distance_of_positions() -> None:
    q, k = torch.randn(1, 3, 1, 8), torch.randn(1, 3, 1, 8)

    def score(query_position: int, key_position: int) -> torch.Tensor:
        turned = [
            apply_rotary(x, *rotary(torch.tensor([[position]]), head_dim=8, base=100.0))
            for x, position in ((q, query_position), (k, key_position))
        ]
        return (turned[0] * turned[1]).sum(dim=-1)

    assert_close(score(9, 4), score(105, 100), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(score(9, 4), score(9, 5), atol=1e-3)


def test_tables_are_float32_and_the_dtype_of_the_input_comes_back() -> None:
    cos, sin = rotary(POSITIONS, head_dim=8, base=5000.0)
    assert cos.dtype == sin.dtype == torch.float32
    assert apply_rotary(torch.randn(2, 3, 5, 8).bfloat16(), cos, sin).dtype == torch.bfloat16


def test_an_odd_head_width_is_refused() -> None:
    with pytest.raises(ValueError, match="head_dim=7 is odd"):
        rotary(POSITIONS, head_dim=7, base=5000.0)
