"""Folders as training, evaluation and tuning write them, with few and small figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from common.data.document import Recording
from common.evaluation.scores import Sample, Score, SuiteResult
from common.evaluation.suite_files import result_to_json
from common.training.metrics import JsonLines

HOSTILE = '<script>alert("x")</script> & | `code`'


def run(folder: Path, *, starts: list[dict[str, Any]] | None = None, **last: Any) -> Path:
    """Of four records, the last with further figures; with a model of 2 x 3 + 5 numbers."""
    folder.mkdir(parents=True)
    sources = [{"kind": "scenes", "weight": 2.5, "path": None}]
    task = {"model": "small", "sources": sources, "data_seed": 0}
    config = {"task": task, "steps": 40, "seed": 3, "precision": "fp32"}
    write(folder / "config.json", config)
    metrics = JsonLines(folder / "metrics.jsonl")
    for step in (10, 20, 30, 40):
        metrics.append(record(step, **(last if step == 40 else {})))
    if starts is not None:
        write(folder / "run.json", starts)
    model = folder / "model"
    model.mkdir()
    text = {"num_hidden_layers": 7, "hidden_size": 24}
    write(model / "config.json", {"model_type": "small", "text_config": text})
    weights = {"head.weight": torch.zeros(2, 3), "body.bias": torch.zeros(5)}
    save_file(weights, model / "model.safetensors")
    return folder


def record(step: int, **figures: Any) -> dict[str, Any]:
    """As a run logs it."""
    return {
        "step": step,
        "loss": 8.0 / step,
        "loss/pairs/pairs": 4.0 / step,
        "learning_rate": 0.001,
        "tokens": 100 * step,
        "skipped_updates": 0,
        "roll_backs": 0,
        "data/scenes/documents": 3 * step,
        "speed/tokens_per_second": 50.0 + step,
        "speed/seconds_per_update": 2.0,
        "gate/0/attention": 0.01 * step,
    } | figures


def start(*, devices: dict[str, int], ended: str | None, started: str) -> dict[str, Any]:
    """An entry of `run.json`."""
    entry = {
        "command": "/srv/somebody/.venv/bin/python scripts/train_flare.py flare_tiny",
        "started": started,
        "commit": "0123456789abcdef",
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "devices": devices,
        "from_step": 0,
    }
    end = {} if ended is None else {"ended": ended, "to_step": 40, "exit_status": 0}
    return entry | end


def evaluation(folder: Path, *, notes: tuple[str, ...] = (), limit: int | None = None) -> Path:
    """VQAv2 with 0 and 8 shots, the latter no better than blind; a picture and a sound."""
    seeing = [(0, 64.4, (60.0, 70.0)), (8, 31.0, (25.0, 37.0))]
    blind = [(0, 26.0, (20.0, 32.0)), (8, 28.0, (22.0, 34.0))]
    scores = [
        Score(
            metric="VQA accuracy",
            value=value,
            num=60,
            interval=interval,
            shots=shots,
            blind=is_blind,
            setting={"demonstrations": "random"},
        )
        for is_blind, rows in ((False, seeing), (True, blind))
        for shots, value, interval in rows
    ]
    image = np.full((4, 6, 3), 90, dtype=np.uint8)
    sound = Recording(samples=np.sin(np.arange(1600, dtype=np.float32)))
    samples = tuple(
        Sample(media=(medium,), asked=HOSTILE, written="blue", expected=("red",), is_hit=hit)
        for medium, hit in ((image, True), (sound, False))
    )
    result = SuiteResult(name="VQAv2", scores=tuple(scores), samples=samples, notes=notes)
    folder.mkdir(parents=True)
    write(folder / "results.json", result_to_json(result, folder))
    settings = {"suite": "vqa", "settings": {}, "model": "elsewhere/model", "weights": "0" * 64}
    write(folder / "config.json", settings | {"dtype": "fp32", "limit": limit})
    return folder


def alignment(folder: Path) -> Path:
    """Before and after."""
    folder.mkdir(parents=True)
    before = {
        "scene colour": [1, 8],
        "harmful text refused": [0, 9],
        "harmless text refused": [0, 7],
    }
    after = {
        "scene colour": [6, 8],
        "harmful text refused": [9, 9],
        "harmless text refused": [1, 7],
    }
    write(folder / "results.json", {"trained": before, "aligned": after})
    return folder


def write(path: Path, data: object) -> None:
    """As JSON."""
    path.write_text(json.dumps(data))
