"""The death or silence of another rank, told in one line instead of a traceback of the network."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from common.errors import UserError

# The exit status for "nothing is wrong with the run itself, start it again" (EX_TEMPFAIL).
RUN_AGAIN = 75
# gloo has no exceptions of its own.
SIGNS = re.compile(r"gloo/|pair closure|NCCL|Connection (closed|reset|refused)|Broken pipe")


class LostRankError(UserError):
    """No mistake of the user's: the same command again goes on from the last checkpoint."""


@contextmanager
def lost_ranks_told(consequence: str) -> Iterator[None]:
    """Around what ranks do together; the consequence is how the line begins.

    Raises:
        LostRankError: another rank has died or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        # Without the place in the library's source before it and the advice behind it.
        reason = re.sub(r"^\[\S+\] ", "", str(error).splitlines()[0]).split(". ")[0]
        raise LostRankError(
            f"{consequence}: another rank has died or does not answer ({reason}), see logs/; the "
            "checkpoints before it are kept: run the same command again to continue"
        ) from error


def is_lost_rank(error: RuntimeError) -> bool:
    """True of what a collective raises when not all ranks take part."""
    return isinstance(error, dist.DistError) or SIGNS.search(str(error)) is not None
