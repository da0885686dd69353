"""R1: `kill -9` at random points, also inside a save: the same command goes on, and in the end
weights, losses and the digests of all samples are those of a run that nobody has killed."""

import random
import shutil
import time
from pathlib import Path

import pytest

from tests.common.training.test_resume import results
from tests.matrix import Counted
from tests.reliability.small_runs import SCRIPTS, Death, num_operations, start, wait_for

pytestmark = pytest.mark.slow
KILLED = -9
NIGHTLY = [
    pytest.param(name, num_ranks, kills, marks=pytest.mark.nightly)
    for num_ranks, kills in ((1, 60), (2, 40))
    for name in ("flamingo", "flare")
]


class Killer:
    """Draws when a start of a run dies: in turns inside a save, before any operation on its files,
    and at a time."""

    def __init__(self, straight: Path, *, seconds: float) -> None:
        self.random = random.Random(0)
        self.operations = [num_operations(straight, of_save=kind) for kind in (False, True)]
        self.seconds = seconds
        self.drawn = 0

    def draw(self, num_ranks: int) -> list[Death]:
        self.drawn += 1
        of_save, victim = self.drawn % 3 == 1, 0
        if self.drawn % 3:
            nth = self.random.randint(1, self.operations[of_save])
            death = Death(before_operation=nth, of_save=of_save)
        else:
            death = Death(after_s=self.random.uniform(0.0, self.seconds))
            victim = self.random.randrange(num_ranks)
        return [death if rank == victim else Death() for rank in range(num_ranks)]


@pytest.mark.parametrize(
    ("name", "num_ranks", "kills"),
    [("flamingo", 1, 5), ("flare", 1, 5), ("flamingo", 2, 3), ("flare", 2, 3), *NIGHTLY],
)
def test_a_run_that_is_killed_again_and_again_equals_the_unbroken_one(
    name: str, num_ranks: int, kills: int, tmp_path: Path, counted: Counted
) -> None:
    least_in_save = -(-kills // 4)
    straight, began = tmp_path / "straight", time.monotonic()
    everyone = [Death()] * num_ranks
    assert wait_for(start(SCRIPTS[name], straight, deaths=everyone)) == [0] * num_ranks
    killer = Killer(straight, seconds=time.monotonic() - began)
    expected = results(straight)
    broken, killed, killed_in_save = tmp_path / "broken", 0, 0
    while killed < kills:
        statuses = wait_for(start(SCRIPTS[name], broken, deaths=killer.draw(num_ranks)))
        assert set(statuses) <= {0, KILLED}, (killer.drawn, statuses)
        killed += KILLED in statuses
        killed_in_save += any((broken / "checkpoints").glob(".step_*"))
        if (broken / "model").is_dir():
            # It may have ended before its death came, or between the end of the work and its own.
            assert results(broken) == expected
            shutil.rmtree(broken)
    assert wait_for(start(SCRIPTS[name], broken, deaths=everyone)) == [0] * num_ranks
    assert results(broken) == expected
    assert killed_in_save >= least_in_save
    ranks = f"{name}, {num_ranks} process{'es' * (num_ranks > 1)}"
    counted("R1", f"{ranks}, at least {least_in_save} inside a save", kills)
