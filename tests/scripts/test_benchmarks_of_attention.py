"""The suites about WavLM, packed attention and the loss run, at sizes that say nothing."""

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
    assert {"wavlm": 7, "self_attention": 4, "loss": 3}[name] == len(rows)
