"""What holds for every test: fixed seeds, no network, no display, no GPU test without a GPU."""

from __future__ import annotations

import os

# Before torch, transformers and matplotlib read them. Workers share the cores: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import random
import socket

import hypothesis
import numpy as np
import pytest
import torch

pytest_plugins = ["tests.matrix"]

hypothesis.settings.register_profile("house", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("house")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Each test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that leaves the machine is a defect, not a slow test."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: tuple[str, int] | str) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise AssertionError(f"a test tried to reach {host}; tests use embedded data only")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


# Whose files take longest; the workers that `make test` starts should end together.
LONGEST_FIRST = ("tests/distributed/", "tests/scripts/", "tests/reliability/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST_FIRST))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
