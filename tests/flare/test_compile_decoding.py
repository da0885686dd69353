"""Decoding with a static cache is one graph, whatever the text's length."""

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig

from tests.flare import tiny
from tests.flare.test_generation import write


@pytest.mark.slow
def test_every_decoding_step_runs_the_same_graph() -> None:
    model = tiny.model()
    torch._dynamo.reset()
    counters.clear()
    compiled = CompileConfig(fullgraph=True, mode=None, backend="aot_eager")
    compiled._compile_all_devices = True  # transformers' switch for CPUs
    static = write(model, cache_implementation="static", compile_config=compiled)
    assert torch.equal(static, write(model))
    assert counters["stats"]["unique_graphs"] == 1
