"""Full size is real: every preset is built on the meta device and counted."""

import pytest
import torch

from flare.model import FlareForConditionalGeneration
from flare.presets import PRESETS, count_parameters

COUNTS = {
    "flare_1b": {
        "decoder": 449_904_640,
        "vision encoder": 85_799_424,
        "vision projector": 64_045_824,
        "audio encoder": 315_453_120,
        "audio projector": 66_143_232,
        "contrastive heads": 1_572_866,
    },
    "flare_13b": {
        "decoder": 9_521_760_768,
        "vision encoder": 630_766_080,
        "vision projector": 1_868_110_080,
        "audio encoder": 315_453_120,
        "audio projector": 685_742_080,
        "contrastive heads": 7_864_322,
    },
}


@pytest.mark.parametrize("name", list(COUNTS))
def test_components_hold_what_the_table_says(name: str) -> None:
    counts = count_parameters(PRESETS[name]())
    assert {component: counts[component] for component in COUNTS[name]} == COUNTS[name]
    assert counts["total"] == sum(COUNTS[name].values())
    assert counts["vision side"] == counts["vision encoder"] + counts["vision projector"]
    assert counts["audio side"] == counts["audio encoder"] + counts["audio projector"]


def test_the_published_sizes_hold_within_one_percent() -> None:
    counts = count_parameters(PRESETS["flare_13b"]())
    published = {"decoder": 9.5e9, "vision side": 2.5e9, "audio side": 1.0e9, "total": 13e9}
    for name, size in published.items():
        assert abs(counts[name] / size - 1) < 0.01, name


def test_blocks_of_the_projectors_hold_what_was_planned() -> None:
    with torch.device("meta"):
        model = FlareForConditionalGeneration(PRESETS["flare_13b"]())
    for projector, size in (
        (model.vision_projector, 93_069_312),
        (model.audio_projector, 84_877_312),
    ):
        assert {sum(p.numel() for p in block.parameters()) for block in projector.blocks} == {size}
    block = sum(p.numel() for p in model.decoder.blocks[77].parameters())
    assert block == 71_767_296


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_parameter_has_a_dimension(name: str) -> None:
    with torch.device("meta"):
        model = FlareForConditionalGeneration(PRESETS[name]())
    assert all(parameter.ndim for parameter in model.parameters())
