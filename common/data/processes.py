"""Jobs by several processes, which start afresh, so that nothing is inherited half-way through. A
process may be killed, as systems do when memory runs out; that is told in one line."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from common.errors import UserError

ResultT = TypeVar("ResultT")


def in_processes(
    work: Callable[..., ResultT],
    jobs: Iterable[tuple[object, ...]],
    *,
    num_workers: int,
    doing: str,
) -> Iterator[ResultT]:
    """What `work` returns for each job's arguments, as the jobs are finished; with one worker this
    process does them in order. What is finished shall be kept by `work` itself.

    Raises:
        UserError: a process was killed; says what it was `doing`.
    """
    if num_workers <= 1:
        for job in jobs:
            yield work(*job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        try:
            futures = [pool.submit(work, *job) for job in jobs]
            yield from map(Future.result, as_completed(futures))
        except BrokenProcessPool as error:
            raise UserError(
                f"a process that was {doing} was killed, perhaps for want of memory; run it again "
                f"with fewer workers than {num_workers}, what is finished is kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
