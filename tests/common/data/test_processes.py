"""Jobs in other processes: their results, and the one line when one of them is killed."""

import math
import os

import pytest

from common.data.processes import in_processes
from common.errors import UserError


def test_processes_give_every_result_and_one_line_when_one_is_killed() -> None:
    jobs = [(number, 2) for number in range(5)]
    expected = [number**2 for number in range(5)]
    assert list(in_processes(math.pow, jobs, num_workers=1, doing="counting")) == expected
    assert sorted(in_processes(math.pow, jobs, num_workers=2, doing="counting")) == expected
    killed = in_processes(os._exit, [(9,)] * 3, num_workers=2, doing="indexing data/a")
    with pytest.raises(UserError, match=r"indexing data/a was killed.* fewer workers than 2"):
        list(killed)
