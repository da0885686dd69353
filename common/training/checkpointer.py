"""Saving and finding the state of this run: which checkpoint to go on from, and whether one may.

A checkpoint of another configuration or another frozen model is refused with the differences
named; another division of the work over ranks and micro-batches is not. Everything about files
and digests is in `common/checkpoint`.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from accelerate.utils import set_seed
from torch import nn

from common.checkpoint.random_state import restore_random_state
from common.checkpoint.store import CheckpointStore, Facts, load_facts
from common.checkpoint.tensors import frozen_sha256
from common.errors import UserError
from common.training.config_json import Json, flatten, to_json
from common.training.manifest import source_commit, versions
from common.training.run import DIVISION, FREE_ON_RESUME, RunConfig
from common.training.runtime import Runtime
from common.training.task import BatchT, ModelT
from common.training.update import Updater

logger = logging.getLogger(__name__)


@runtime_checkable
class Part(Protocol):
    """A part of a trainer that remembers something beside tensors."""

    def to_json(self) -> Json:
        """The memory, exactly; all ranks call."""
        ...

    def load(self, saved: Json) -> None:
        """Go on where `to_json` stopped."""
        ...


class Checkpointer:
    """The checkpoints of one run folder; left only when the last one is written."""

    def __init__(self, run: RunConfig[Any], folder: Path, runtime: Runtime) -> None:
        self.run, self.folder, self.runtime = run, folder, runtime
        self.store = CheckpointStore(folder / "checkpoints", keep=run.checkpoint.keep)
        self._frozen: str | None = None
        self.found = self.store.newest_good()
        self.facts: Facts | None = load_facts(self.found) if self.found else None
        if self.facts is not None:
            self._refuse_another_run(self.facts)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.store.wait()
        except UserError:
            if error is None:  # What ended the run is the news.
                raise

    @property
    def description(self) -> str:
        """What was found, and how the work was divided then, where it is divided otherwise now."""
        assert self.facts is not None
        changes = _difference("ranks", self.facts["num_ranks"], self.runtime.num_ranks)
        changes += self._differences(self.facts, lambda name: name in DIVISION)
        otherwise = f"; the same but for rounding, with {', '.join(changes)}" if changes else ""
        return f"continuing after step {self.facts['step']} of {self.found}{otherwise}"

    def save(
        self, updater: Updater[ModelT, BatchT], parts: Mapping[str, Part], *, step: int
    ) -> None:
        """Copy the state after a step; it is written while training goes on.

        Raises:
            UserError: when the checkpoint before this one could not be written.
        """
        start = time.perf_counter()
        facts = {
            "step": step,
            "parts": {name: part.to_json() for name, part in parts.items()},
            "config": to_json(self.run),
            "num_ranks": self.runtime.num_ranks,
            "frozen_sha256": self._frozen_sha256(updater.model),
            "commit": source_commit(),
            "versions": versions(),
        }
        self.store.save([updater.model], updater.optimizer, step=step, facts=facts)
        logger.debug("step %d copied in %.1f s", step, time.perf_counter() - start)

    def restore(self, updater: Updater[ModelT, BatchT], parts: Mapping[str, Part]) -> None:
        """Bring model, optimizer, random generators and parts to the state that was found.

        Raises:
            UserError: when model or frozen part are not those of the checkpoint.
        """
        assert self.found is not None
        assert self.facts is not None
        if self.facts["frozen_sha256"] != self._frozen_sha256(updater.model):
            raise UserError(
                f"the frozen part of the model is not the one {self.found} was trained with "
                "(SHA-256 differs); give the same pre-trained weights, or another run folder"
            )
        random = self.store.load(self.found, [updater.model], updater.optimizer)
        if random is not None:
            restore_random_state(random)
        else:
            # Another number of ranks: other dropout, yet not that of the first steps once more.
            set_seed(self.run.seed + self.facts["step"], device_specific=True)
        for name, part in parts.items():
            part.load(self.facts["parts"][name])

    def go_back(self, *, before: int) -> bool:
        """Find the newest good checkpoint before a step and remove those behind it.

        False, and nothing changed, when there is none. One that an interruption has left counts,
        too: the run then goes back less far than it would have gone without the interruption.
        """
        found = self.store.newest_good(before=before)
        if found is None:
            return False
        self.store.forget_from(before)
        self.found, self.facts = found, load_facts(found)
        return True

    def _refuse_another_run(self, facts: Facts) -> None:
        differences = self._differences(facts, lambda name: name not in FREE_ON_RESUME)
        if differences:
            raise UserError(
                f"{self.folder} holds a run of another configuration: {', '.join(differences)}; "
                "go back to the old values, or choose another run folder"
            )

    def _differences(self, facts: Facts, counts: Callable[[str], bool]) -> list[str]:
        """`steps 100 -> 200` for every field that differs, of the groups that count."""
        before, now = flatten(facts["config"]), flatten(to_json(self.run))
        names = [name for name in {**before, **now} if counts(name.split(".")[0])]
        pairs = [(name, before.get(name, "absent"), now.get(name, "absent")) for name in names]
        return [text for pair in pairs for text in _difference(*pair)]

    def _frozen_sha256(self, model: nn.Module) -> str:
        if self._frozen is None:
            self._frozen = frozen_sha256([model], self.store.ranks)
        return self._frozen


def _difference(name: str, before: Json, now: Json) -> list[str]:
    return [f"{name} {before} -> {now}"] if before != now else []
