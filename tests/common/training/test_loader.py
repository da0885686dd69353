import os
import signal

import pytest

from common.errors import UserError
from common.training.loader import Share, read_updates
from tests.common.training.toy import ToyConfig, ToySource


def keys_read(*, first: int, last: int, share: Share, num_workers: int) -> list[str]:
    sources = {"sine": ToySource(name="sine", batch_size=12, weight=1.0, config=ToyConfig())}
    updates = read_updates(sources, first=first, last=last, share=share, num_workers=num_workers)
    return [key for update in updates for part in update.parts for key in part.batch.keys]


def test_every_position_of_an_update_is_read_once_by_one_rank() -> None:
    shares = [Share(rank=rank, num_ranks=3, num_micro_batches=2) for rank in range(3)]
    rows = range(12)
    read = [r for part in (0, 1) for s in shares for r in rows[s.rows(part, batch_size=12)]]
    assert read == list(rows)


def test_a_loader_started_late_reads_what_an_early_one_reads_then() -> None:
    share = Share(rank=0, num_ranks=1, num_micro_batches=3)
    whole = keys_read(first=0, last=6, share=share, num_workers=0)
    assert whole[4 * 12 :] == keys_read(first=4, last=6, share=share, num_workers=0)


def test_workers_change_nothing() -> None:
    share = Share(rank=1, num_ranks=2, num_micro_batches=3)
    alone = keys_read(first=2, last=5, share=share, num_workers=0)
    assert alone == keys_read(first=2, last=5, share=share, num_workers=2)


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers() -> None:
    share = Share(rank=0, num_ranks=5, num_micro_batches=1)
    with pytest.raises(UserError, match=r"batch size 12 of source sine .* 5 x 1 = 5"):
        keys_read(first=0, last=1, share=share, num_workers=0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_users_error_in_the_data_stays_one_line(
    num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ToySource, position: int) -> None:
        raise UserError(f"no image at {position}")

    monkeypatch.setattr(ToySource, "example", fail)
    share = Share(rank=0, num_ranks=1, num_micro_batches=1)
    with pytest.raises(UserError, match=r"^no image at 24$"):
        keys_read(first=2, last=3, share=share, num_workers=num_workers)


def test_the_death_of_a_worker_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(self: ToySource, position: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ToySource, "example", die)
    share = Share(rank=0, num_ranks=1, num_micro_batches=1)
    with pytest.raises(UserError, match=r"^a process .* was killed, .* lower num_workers"):
        keys_read(first=0, last=1, share=share, num_workers=1)
