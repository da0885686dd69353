"""Saving and finding the state of this run: which checkpoint to go on from, and whether one may.

A checkpoint of another configuration, another number of ranks or another frozen model is refused
with the differences named. Everything about files and digests is in `common/checkpoint`.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import accelerate
import torch
from torch import nn
from torch.optim import Optimizer

from common.checkpoint.folder import newest_good_checkpoint, remove_old_checkpoints
from common.checkpoint.random_state import capture_random_state, restore_random_state
from common.checkpoint.state import (
    Facts,
    TrainingState,
    load_facts,
    load_model_tensors,
    load_optimizer_tensors,
    load_training_state,
    save_training_state,
)
from common.errors import UserError
from common.training.config_json import flatten, to_json
from common.training.gathered_state import (
    divide_state,
    frozen_digest,
    gather_moments,
    gather_weights,
)
from common.training.run import FREE_ON_RESUME, RunConfig
from common.training.runtime import Runtime


class Checkpointer:
    """The checkpoints of one run folder."""

    def __init__(self, run: RunConfig[Any], folder: Path, runtime: Runtime) -> None:
        self.run, self.folder, self.runtime = run, folder, runtime
        self.checkpoints = folder / "checkpoints"
        self.found = self._find()
        self._frozen: str | None = None

    def facts(self) -> Facts | None:
        """What the checkpoint to go on from knows beside tensors; None when starting anew."""
        return load_facts(self.found) if self.found else None

    def save(
        self, model: nn.Module, optimizer: Optimizer, *, step: int, facts: Mapping[str, Any]
    ) -> None:
        """Write the state after a step and remove checkpoints beyond the newest few."""
        is_main = self.runtime.is_main
        state = TrainingState(
            weights=gather_weights(model, is_main=is_main),
            optimizer=gather_moments(model, optimizer, is_main=is_main),
            random=self.runtime.collect(capture_random_state()),
            facts={
                **facts,
                "config": to_json(self.run),
                "num_ranks": self.runtime.num_ranks,
                "frozen_sha256": self._frozen_digest(model),
                "commit": source_commit(),
                "versions": {"torch": torch.__version__, "accelerate": accelerate.__version__},
            },
        )
        if is_main:
            save_training_state(self.checkpoints, state, step=step)
            remove_old_checkpoints(self.checkpoints, newest=self.run.checkpoint.keep)
        self.runtime.barrier()

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Bring model, optimizer and random generators to the state that was found."""
        assert self.found is not None
        state = load_training_state(self.found)
        if state.facts["frozen_sha256"] != self._frozen_digest(model):
            raise UserError(
                f"the frozen part of the model is not the one {self.found} was trained with "
                "(SHA-256 differs); give the same pre-trained weights, or another run folder"
            )
        state = divide_state(state, model)
        load_model_tensors(model, state.weights)
        load_optimizer_tensors(model, optimizer, state.optimizer)
        restore_random_state(state.random[self.runtime.rank])

    def _find(self) -> Path | None:
        """The main rank looks and checks; all ranks go on from its answer or fail with it."""
        found, failure = None, None
        if self.runtime.is_main:
            try:
                found = newest_good_checkpoint(self.checkpoints)
                if found is not None:
                    self._refuse_another_run(load_facts(found))
            except UserError as error:
                failure = str(error)
        found, failure = self.runtime.from_main((found, failure))
        if failure is not None:
            raise UserError(failure)
        return found

    def _refuse_another_run(self, facts: Facts) -> None:
        now = {**to_json(self.run), "number of ranks": self.runtime.num_ranks}
        before = {**facts["config"], "number of ranks": facts["num_ranks"]}
        differences = differing_fields(before, now)
        if differences:
            raise UserError(
                f"{self.folder} holds a run of another configuration: {', '.join(differences)}; "
                "go back to the old values, or choose another run folder"
            )

    def _frozen_digest(self, model: nn.Module) -> str:
        if self._frozen is None:
            self._frozen = frozen_digest(model)
        return self._frozen


def differing_fields(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`steps 100 -> 200` for every field that differs and could change the result."""
    old, new = flatten(dict(before)), flatten(dict(now))
    names = [name for name in {**old, **new} if name.split(".")[0] not in FREE_ON_RESUME]
    return [
        f"{name} {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in names
        if old.get(name, "absent") != new.get(name, "absent")
    ]


def source_commit() -> str | None:
    """The commit of the source tree, None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
