"""R8: however many checkpoints are kept and whatever cannot be removed, at least two good ones
remain, and a run goes on."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from common.checkpoint.folder import list_checkpoints, newest_good_checkpoint, verify_folder
from common.checkpoint.store import CheckpointStore
from common.errors import UserError
from tests.matrix import Counted


class Trained:
    """A model that is saved, after one update."""

    def __init__(self) -> None:
        self.model = nn.Linear(3, 5)
        self.optimizer = AdamW(self.model.parameters())
        self.model(torch.ones(2, 3)).sum().backward()
        self.optimizer.step()

    def save(self, store: CheckpointStore, *steps: int) -> None:
        for step in steps:
            store.save([self.model], self.optimizer, step=step, facts={})
        store.wait()


def good_steps(folder: Path) -> list[int]:
    for checkpoint in list_checkpoints(folder):
        verify_folder(checkpoint)
    return [int(path.name.removeprefix("step_")) for path in list_checkpoints(folder)]


@contextmanager
def nothing_can_be_removed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As from a folder without the right to write, or on a file system that answers with errors."""

    def refuse(path: object, **named: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)

    with monkeypatch.context() as patch:
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, refuse)
        yield


@pytest.mark.parametrize("keep", [2, 5])
def test_the_newest_remain_and_every_one_is_good(
    keep: int, tmp_path: Path, counted: Counted
) -> None:
    store = CheckpointStore(tmp_path, keep=keep)
    trained = Trained()
    for step in range(1, 8):
        trained.save(store, step)
        assert good_steps(tmp_path) == [*range(step, max(step - keep, 0), -1)]
    counted("R8", f"{keep} kept of seven", 1)


def test_what_cannot_be_removed_is_told_and_removed_later(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    counted: Counted,
) -> None:
    store, trained = CheckpointStore(tmp_path, keep=2), Trained()
    trained.save(store, 1, 2)
    with (
        nothing_can_be_removed(monkeypatch),
        caplog.at_level(logging.WARNING, logger="common"),
    ):
        trained.save(store, 3)
    assert good_steps(tmp_path) == [3, 2, 1]
    (record,) = [r for r in caplog.records if r.name.startswith("common.")]
    assert "step_00000001 could not be removed and is kept (Permission" in record.getMessage()
    trained.save(store, 4)
    assert good_steps(tmp_path) == [4, 3]
    counted("R8", "removal fails", 1)


def test_a_roll_back_that_cannot_remove_what_it_undoes_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    store, trained = CheckpointStore(tmp_path, keep=3), Trained()
    trained.save(store, 1, 2, 3)
    refusal = pytest.raises(UserError, match=r"step_00000003 was not removed \(Permission denied\)")
    with nothing_can_be_removed(monkeypatch), refusal:
        store.forget_from(2)
    store.forget_from(2)
    assert good_steps(tmp_path) == [1]
    counted("R8", "removal fails in a roll-back", 1)


def test_behind_a_damaged_checkpoint_two_good_ones_come_together_again(
    tmp_path: Path, counted: Counted
) -> None:
    store, trained = CheckpointStore(tmp_path, keep=2), Trained()
    trained.save(store, 1, 2)
    (tmp_path / "step_00000002" / "index.json").unlink()
    assert newest_good_checkpoint(tmp_path) == tmp_path / "step_00000001"
    trained.save(store, 2)
    assert good_steps(tmp_path) == [2, 1]
    trained.save(store, 3)
    assert good_steps(tmp_path) == [3, 2]
    assert (tmp_path / "damaged_step_00000002").is_dir()
    counted("R8", "behind a damaged one", 1)


def test_a_killed_removal_leaves_good_checkpoints_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    store, trained = CheckpointStore(tmp_path, keep=2), Trained()
    trained.save(store, 1, 2, 3)
    # As a kill leaves it: the oldest has lost some of its files but not yet its folder.
    (tmp_path / "step_00000002" / "manifest.json").rename(tmp_path / "manifest.json")
    assert newest_good_checkpoint(tmp_path) == tmp_path / "step_00000003"
    trained.save(store, 4)
    assert good_steps(tmp_path) == [4, 3]
    counted("R8", "killed in a removal", 1)
