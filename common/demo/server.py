"""Serves the page on this machine: bound to 127.0.0.1, behind the guard, without share links,
documentation of an interface or anything else that Gradio offers beside the page."""

import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.utils import get_upload_folder

from common.demo.abilities import Demonstrated
from common.demo.guard import Guard
from common.demo.limits import Limits
from common.demo.page import build_page
from common.demo.samples import write_samples
from common.demo.theme import CSS, theme
from common.errors import UserError

HOST = "127.0.0.1"


def serve(
    models: Sequence[Demonstrated], *, port: int, limits: Limits, ready: Callable[[str], None]
) -> None:
    """Serve until interrupted; `ready` is told the address. Uploads are gone afterwards.

    Raises:
        UserError: the port is taken.
    """
    with _bound(port) as own, tempfile.TemporaryDirectory(prefix="demo-") as folder:
        # Gradio keeps uploads in the system's folder for temporary files, where others can look.
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            address = f"{HOST}:{own.getsockname()[1]}"
            guarded = application(models, address=address, folder=Path(folder), limits=limits)
            server = uvicorn.Server(uvicorn.Config(guarded, log_level="warning"))
            ready(f"http://{address}")
            server.run(sockets=[own])
        finally:
            tempfile.tempdir = before


def application(
    models: Sequence[Demonstrated], *, address: str, folder: Path, limits: Limits
) -> Guard:
    """The guarded page; the folder takes its example inputs."""
    page = build_page(models, samples=write_samples(folder), limits=limits)
    page.has_launched = True  # else Gradio does not check where files lie
    served = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        server_name=HOST,
        allowed_paths=[],
        max_file_size=limits.max_upload_bytes,
        show_error=False,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        theme=theme(),
        css=CSS,
    )
    port = address.rpartition(":")[2]
    hosts = (address, f"localhost:{port}")
    return Guard(served, hosts=hosts, uploads=Path(get_upload_folder()), limits=limits)


def _bound(port: int) -> socket.socket:
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        own.bind((HOST, port))
    except OSError as error:
        own.close()
        raise UserError(f"port {port} is taken: {error.strerror}; give another --port") from error
    return own
