"""The end of a run: the model in its own public format, with its card, which appears whole under
its name."""

import shutil
from pathlib import Path

from common.checkpoint.model_card import write_model_card
from common.checkpoint.writing import disk_faults_told
from common.parallel.engine import Engine
from common.training.plots import write_plots
from common.training.runtime import Runtime
from common.training.task import ModelT, Reports


def export_model(
    engine: Engine[ModelT], task: Reports[ModelT], folder: Path, *, runtime: Runtime
) -> None:
    """Write `model/` and, beside it, the plots of `metrics.jsonl`; all ranks call."""
    model = engine.portable()
    if model is not None:
        with disk_faults_told(folder / "model"):
            _write(model, task, folder)
    runtime.barrier()


def _write(model: ModelT, task: Reports[ModelT], folder: Path) -> None:
    unfinished = folder / ".model.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        task.export(model.eval(), unfinished)
        write_model_card(unfinished, run=folder)
        write_plots(folder / "metrics.jsonl", folder / "plots")
        shutil.rmtree(folder / "model", ignore_errors=True)
        unfinished.rename(folder / "model")
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
