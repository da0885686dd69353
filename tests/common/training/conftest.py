"""Pictures take longer than a toy's training; one test draws them."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw_nothing(metrics: Path, folder: Path) -> list[Path]:
        return []

    monkeypatch.setattr("common.training.finish.write_plots", draw_nothing)
