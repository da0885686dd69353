"""A run of the trainer on pairs by path, from a model folder to a model folder."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from common.data.conversations.messages import answered, question
from common.training.run import RunConfig, ScheduleConfig
from common.training.trainer import Trainer
from flare.corpora import SourceConfig
from flare.model import FlareForConditionalGeneration
from flare.recipes import flare_tiny_safety, make_task
from flare.safety.task_reference import FILE
from flare.task_config import FlareTaskConfig
from tests.flare.instruct import chats


def run_on_pairs(folder: Path) -> RunConfig[FlareTaskConfig]:
    """Two updates from a small model on four pairs, of which one is held out."""
    processor = chats.processor()
    chats.model(processor).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    talk = answered(question("what is red?"), "a ring")["messages"]
    prompts = [question(text)["messages"] for text in ("hi", "red?", "a ring?")] + [
        [*talk, *question("sure?")["messages"]]
    ]
    lines = [
        {"prompt": {"messages": messages}, "chosen": f"red {n}", "rejected": "what is a ring"}
        for n, messages in enumerate(prompts)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    run = flare_tiny_safety()
    task = replace(
        run.task,
        model=str(folder / "model"),
        sources=(SourceConfig(kind="pairs", weight=1.0, path=folder / "pairs.jsonl"),),
        batch_size=2,
        max_tokens=130,
    )
    schedule = ScheduleConfig(warmup_steps=1)
    return replace(run, task=task, schedule=schedule, steps=2, log_every=1, validate_every=2)


@pytest.mark.slow
def test_a_run_begins_at_its_reference_and_leaves_a_model_folder(tmp_path: Path) -> None:
    run = run_on_pairs(tmp_path)
    folder = tmp_path / "run"
    assert Trainer(run, make_task(run), folder).train().exit_status == 0
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first, second = (record["loss/mixture/preference"] for record in records)
    assert first == pytest.approx(math.log(2), rel=1e-5)
    assert second < first
    assert records[1]["validation/causal_loss"] > 0
    assert len(json.loads((folder / FILE).read_text())["log_probs"]) == 3
    FlareForConditionalGeneration.from_pretrained(folder / "model", local_files_only=True)
