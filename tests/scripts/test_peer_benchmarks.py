"""Suites beside other libraries run at tiny sizes; each checks itself that results are equal."""

from pathlib import Path
from typing import Any

import pytest

from flamingo.presets import flamingo_tiny
from scripts.benchmarks import media_attention, peers, resampler, step

pytestmark = pytest.mark.slow


def shrink(patch: pytest.MonkeyPatch, suite: Any, **sizes: object) -> None:
    for name, value in sizes.items():
        patch.setattr(suite, name, value)


def test_media_attention_is_timed_and_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counts = {"TOKENS": 96, "EVEN": (8,), "LONG": 60, "DOCUMENTS": 4, "BEFORE": 5}
    widths = {"LATENTS": 5, "HEADS": 2, "HEAD_DIM": 16, "WIDTH": 32}
    shrink(monkeypatch, media_attention, REPEATS=1, **counts, **widths)
    rows = media_attention.figures()
    assert {(row["part"], row["segments"]) for row in rows} == {
        (part, kind)
        for part in ("layer", "attention")
        for kind in ("even", "long", "packed", "all previous")
    }
    media_attention.plot(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 0


def test_the_resampler_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"IMAGES": (2,), "FEATURES": 9, "WIDTH": 24, "LATENTS": 5, "HEADS": 3, "HEAD_DIM": 8}
    shrink(monkeypatch, resampler, REPEATS=1, **sizes)
    assert next(row["way"] for row in resampler.figures()) == "ours"


def test_steps_of_training_are_timed_and_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = step.Shape(name="tiny", config=flamingo_tiny(), rows=2, tokens=48, images=4)
    shrink(monkeypatch, step, REPEATS=1, shapes=lambda: [tiny])
    beside = step.figures()
    monkeypatch.setattr(peers, "is_installed", lambda library: False)
    alone = step.figures()
    assert [row["documents"] for row in alone] == [row["documents"] for row in beside]
    assert all(row["open_flamingo"] == peers.NOT_INSTALLED for row in alone)
