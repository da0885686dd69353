"""The suites about WavLM, packed attention and the loss run, at sizes that say nothing."""

import os
import subprocess
import sys
from importlib import import_module

import pytest

SMALL: dict[str, dict[str, object]] = {
    "wavlm": {
        "DIM": 32,
        "HEADS": 2,
        "LAYERS": 1,
        "FEED_FORWARD": 24,
        "CONV_DIM": 12,
        "FRAMES": (7, 9),
        "SECONDS": 1,
        "ENCODER_REPEATS": 1,
        "BATCH_SECONDS": (1, 2),
        "BATCH_LAYERS": 1,
    },
    "self_attention": {"TOKENS": 11, "HEAD_DIM": 6, "PACKED": {"3 documents": (5, 4, 2)}},
    "loss": {"POSITIONS": 40, "VOCABULARY": 90, "WIDTH": 6, "MASKED_POSITIONS": 7, "THREADS": 1},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_suite_compares_equal_results_and_gives_a_table(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = import_module(f"scripts.benchmarks.{name}")
    for constant, value in {**SMALL[name], "REPEATS": 1}.items():
        monkeypatch.setattr(suite, constant, value)
    rows = suite.figures()
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert {"wavlm": 7, "self_attention": 4, "loss": 6}[name] == len(rows)


@pytest.mark.slow
def test_the_loss_of_liger_kernel_is_ours() -> None:
    pytest.importorskip("liger_kernel")
    # Its kernels, interpreted: chosen when they are imported, hence in a process of their own.
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", BOTH_LOSSES], env=environment, check=True, timeout=300)


BOTH_LOSSES = """
import torch
from common.objectives.language import linear_next_token_loss
from scripts.benchmarks.loss import by_liger

hidden = torch.randn(13, 8, generator=torch.manual_seed(0), requires_grad=True)
weight = torch.randn(50, 8, requires_grad=True)
targets = torch.randint(50, (13,)).masked_fill(torch.arange(13) == 3, -100)
ours = linear_next_token_loss(hidden, weight, targets, z_loss=0.01)
theirs = by_liger(hidden, weight, targets, z_loss=0.01)
torch.testing.assert_close(ours, theirs)
torch.testing.assert_close(
    *(torch.autograd.grad(loss, (hidden, weight)) for loss in (ours, theirs)), rtol=1e-5, atol=1e-5
)
"""
