"""Decoding with a static cache is one graph, whatever the text's length."""

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig

from tests.flamingo import test_generation as flamingo
from tests.flamingo import tiny as tiny_flamingo
from tests.flare import test_generation as flare
from tests.flare import tiny as tiny_flare


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "generation"), [(tiny_flamingo, flamingo), (tiny_flare, flare)])
def test_every_decoding_step_runs_the_same_graph(sizes: Any, generation: Any) -> None:
    model, write = sizes.model(), generation.write
    torch._dynamo.reset()
    counters.clear()
    compiled = CompileConfig(fullgraph=True, mode=None, backend="aot_eager")
    compiled._compile_all_devices = True  # transformers' switch for CPUs
    static = write(model, cache_implementation="static", compile_config=compiled)
    assert torch.equal(static, write(model))
    assert counters["stats"]["unique_graphs"] == 1
