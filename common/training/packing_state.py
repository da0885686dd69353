"""How far the packing of every source is, as a checkpoint keeps it: with the digest of the data, so
that a run never goes on with others unseen."""

from collections.abc import Mapping
from typing import Any

from common.data.packing import PackState
from common.errors import UserError
from common.training.task import Packs, Source


def packing_to_json(
    sources: Mapping[str, Source[Any, Any]], states: Mapping[str, PackState]
) -> dict[str, Any]:
    """State and data of every source that packs."""
    return {
        name: {"digest": source.digest, **states.get(name, PackState()).to_json()}
        for name, source in sources.items()
        if isinstance(source, Packs)
    }


def packing_from_json(
    sources: Mapping[str, Source[Any, Any]], saved: Mapping[str, Any]
) -> dict[str, PackState]:
    """The states that were stored.

    Raises:
        UserError: the data are not those of the checkpoint.
    """
    for name, source in sources.items():
        if isinstance(source, Packs) and source.digest != saved.get(name, {}).get("digest"):
            raise UserError(
                f"the data of source {name} are not those that the checkpoint was trained on "
                "(their digests differ); give the same data, or another run folder"
            )
    return {name: PackState.from_json(state) for name, state in saved.items()}
