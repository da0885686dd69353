"""Results of the official codes, made by `scripts/fixtures/metrics.py`."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[3] / "fixtures" / "metrics"


def official(name: str) -> Any:
    """The cases of a metric and what the official code answered."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
