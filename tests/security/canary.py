"""Payloads that would leave a trace if anything of a folder ran, and a network that notes every
look-up and connection instead of making it."""

import io
import pickle
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest


class Canary:
    """A file that does not exist unless something was executed."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "executed"

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.file), "w")

    @property
    def code(self) -> str:
        """Python that leaves the trace."""
        return f"open({str(self.file)!r}, 'w')\n"

    @property
    def pickled(self) -> bytes:
        """A pickle that leaves the trace when it is read."""
        buffer = io.BytesIO()
        pickle.dump({"weight": self}, buffer)
        return buffer.getvalue()

    def has_sung(self) -> bool:
        """Whether anything was executed."""
        return self.file.exists()


@contextmanager
def watched_network() -> Iterator[list[str]]:
    """Names and addresses that were asked for, though the libraries think themselves online."""
    asked: list[str] = []

    def note(*address: object, **options: object) -> Any:
        asked.append(repr(address))
        raise OSError("no network here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        for name in ("getaddrinfo", "gethostbyname", "create_connection"):
            patch.setattr(socket, name, note)
        patch.setattr(socket.socket, "connect", note)
        yield asked
