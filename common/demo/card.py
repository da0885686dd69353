"""The line about a model at the top of the page, from its folder and from that of its run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn


def model_card(folder: Path, model: nn.Module, *, kind: str) -> tuple[str, str]:
    """Its name and a line of Markdown; a model that lies in the folder of its run says of it what
    it was trained on."""
    run, place = _run_of(folder), folder.resolve()
    task = run.get("task", {})
    # What it was before, where that is a preset's name and no path; else what its folder is called.
    name = str(task.get("model", "/"))
    if "/" in name:
        name = place.parent.name if task or place.name == "model" else place.name
    size = sum(parameter.numel() for parameter in model.parameters())
    sources = [str(source["kind"]).replace("_", " ") for source in task.get("sources", ())]
    trained = "no record of its training is at hand"
    if sources:
        trained = f"trained for {run['steps']:,} updates on {', '.join(sources)}"
    return name, f"**{name}** · {kind} · {_rounded(size)} parameters · {trained}"


def _run_of(folder: Path) -> Mapping[str, Any]:
    file = folder.resolve().parent / "config.json"
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) and isinstance(run.get("task"), dict) else {}


def _rounded(size: int) -> str:
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:,}"
