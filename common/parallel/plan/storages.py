"""Memory without memory: bytes of the storages that operations make, while they exist.

A storage counts from the operation that makes it until the last reference goes, at the size that
it has, which shards' storages change. Tensors hold no data (meta device, fake tensors).
"""

import weakref
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveStorages(TorchDispatchMode):
    """All storages that were made inside and still exist.

    kind: the name under which storages count that are made from now on.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.bytes = self.peak = 0
        self.kinds: Counter[str] = Counter()
        self.kinds_at_peak: dict[str, int] = {}
        self._known: dict[int, _Known] = {}
        self._patches = ExitStack()

    def relabel(self, values: object, kind: str) -> None:
        """Storages of tensors that turn out to be something else than they were made for."""
        for value in tree_leaves(values):
            known = self._known.get(_key(value)) if isinstance(value, Tensor) else None
            if known is not None:
                self.kinds[known.kind] -= known.size
                self.kinds[kind] += known.size
                known.kind = kind

    def __enter__(self) -> "LiveStorages":
        resize = torch.UntypedStorage.resize_

        def resized(storage: torch.UntypedStorage, size: int) -> None:
            resize(storage, size)
            self._grow(storage._cdata, size)

        # Sharding frees and fills storages without an operation.
        self._patches.enter_context(mock.patch.object(torch.UntypedStorage, "resize_", resized))
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(
        self, operation: Any, types: Any, given: Any = (), options: Any = None
    ) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it calls operations on its shard, and these come here
        # What is not made here, like weights, may come out again as a view.
        self._meet((given, options), made_here=False)
        result = operation(*given, **(options or {}))
        self._meet(result, made_here=True)
        self._observe(operation, given, options, result)
        return result

    def _observe(self, operation: Any, given: Any, options: Any, result: Any) -> None:
        """Collective operations of sharding tell what their tensors are."""
        kind = _KINDS.get(operation.name())
        if kind is not None:
            self.relabel((given, options, result), kind)
        if self.bytes > self.peak:
            self.peak, self.kinds_at_peak = self.bytes, dict(self.kinds)

    def _meet(self, values: object, *, made_here: bool) -> None:
        for value in tree_leaves(values):
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            key = storage._cdata
            if key not in self._known:
                gone = weakref.ref(storage, partial(self._forget, key))
                self._known[key] = _Known(self.kind, made_here, gone)
                self._grow(key, storage.nbytes())

    def _grow(self, key: int, size: int) -> None:
        known = self._known.get(key)
        if known is None or not known.made_here:
            return
        self.bytes += size - known.size
        self.kinds[known.kind] += size - known.size
        known.size = size

    def _forget(self, key: int, _: object) -> None:
        self._grow(key, 0)
        del self._known[key]


class _Known:
    def __init__(self, kind: str, made_here: bool, gone: object) -> None:
        self.kind, self.made_here, self.gone, self.size = kind, made_here, gone, 0


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


GATHERED, REDUCED = "gathered weights", "gradients on their way"
_KINDS = {
    "fsdp::all_gather_copy_in": GATHERED,
    "c10d::_allgather_base_": GATHERED,
    "fsdp::split_with_sizes_copy": GATHERED,
    "fsdp::chunk_cat": REDUCED,
    "fsdp::chunk_cat_mixed_dtype": REDUCED,
    "c10d::_reduce_scatter_base_": REDUCED,
    "c10d::allreduce_": REDUCED,
}
