"""How a click reaches the model: one at a time, as the browser sent it, and with a user's mistake
told in one line of the page."""

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, TypedDict

import gradio as gr

from common.errors import UserError

SECONDS_SHOWN = 12


class EventOptions(TypedDict):
    """Of the events of a component."""

    preprocess: bool
    api_visibility: str
    concurrency_limit: int | None
    concurrency_id: str | None
    show_progress: str


# Inputs are read by `common.demo.inputs` alone; nothing has a name that a script could call.
AT_ONCE = EventOptions(
    preprocess=False,
    api_visibility="private",
    concurrency_limit=None,
    concurrency_id=None,
    show_progress="hidden",
)
# All of them share one model, which serves them one after the other.
IN_TURN = EventOptions(
    preprocess=False,
    api_visibility="private",
    concurrency_limit=1,
    concurrency_id="model",
    show_progress="minimal",
)


@contextmanager
def mistakes_told() -> Iterator[None]:
    """A user's mistake becomes a message in the page, in which nothing is read as HTML."""
    try:
        yield
    except UserError as error:
        told = escape(" ".join(str(error).split()))
        raise gr.Error(
            told, title="That did not work", duration=SECONDS_SHOWN, print_exception=False
        ) from error


def unchanged() -> dict[str, Any]:
    """What a component is told that is to stay as it is."""
    return gr.skip()
