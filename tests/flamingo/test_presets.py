"""Full size is real: every preset is built on the meta device and counted."""

import pytest

from flamingo.presets import PRESETS, count_parameters

COUNTS = {
    "flamingo_3b": {
        "language model": 1_364_297_728,
        "vision encoder": 435_286_116,
        "resampler": 193_631_232,
        "gated cross-attention": 1_157_824_560,
        "new tokens": 8_192,
    },
    "flamingo_9b": {
        "language model": 7_241_732_096,
        "vision encoder": 435_286_116,
        "resampler": 193_631_232,
        "gated cross-attention": 1_442_971_664,
        "new tokens": 16_384,
    },
    "flamingo_80b": {
        "language model": 70_553_706_496,
        "vision encoder": 435_286_116,
        "resampler": 193_631_232,
        "gated cross-attention": 8_355_446_808,
        "new tokens": 32_768,
    },
}
LAYERS = {"flamingo_tiny": 4, "flamingo_3b": 24, "flamingo_9b": 8, "flamingo_80b": 12}


@pytest.mark.parametrize("name", list(COUNTS))
def test_components_hold_what_the_table_says(name: str) -> None:
    counts = count_parameters(PRESETS[name]())
    assert {component: counts[component] for component in COUNTS[name]} == COUNTS[name]
    assert counts["total"] == sum(COUNTS[name].values())
    frozen = counts["language model"] + counts["vision encoder"]
    assert counts["trained"] == counts["total"] - frozen


def test_eighty_billion_within_one_percent() -> None:
    assert abs(count_parameters(PRESETS["flamingo_80b"]())["total"] / 80e9 - 1) < 0.01


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_gated_block_stands_before_every_nth_layer(name: str) -> None:
    assert len(PRESETS[name]().cross_attention_layers) == LAYERS[name]
