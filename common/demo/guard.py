"""Stands before Gradio's server. Only what the page needs passes: a short list of addresses, from
this machine's own names, bodies of bounded size, and files that were uploaded here. A link, a path
elsewhere or a crowd of files is refused before Gradio reads it."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from common.demo.limits import BYTES_PER_MB, Limits

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

API = "/gradio_api"
READ = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", f"{API}/startup-events")
READ_BELOW = (
    "/assets/",
    "/static/",
    f"{API}/queue/data",
    f"{API}/heartbeat/",
    f"{API}/upload_progress",
    f"{API}/file=",
)
UPLOAD, JOIN = f"{API}/upload", f"{API}/queue/join"
WRITE = (UPLOAD, JOIN, f"{API}/cancel", f"{API}/reset")
MAX_QUESTION_BYTES = 256_000  # of a message without its files, which come as paths
ROOM_FOR_NAMES = 4_096  # around each uploaded file

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class _Refused(Exception):  # noqa: N818 -- an answer, not a fault
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Guard:
    """An ASGI application around another one."""

    def __init__(
        self, application: Application, *, hosts: tuple[str, ...], uploads: Path, limits: Limits
    ) -> None:
        self.application, self.hosts = application, hosts
        self.uploads, self.limits = uploads.resolve(), limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with 4xx and a line of JSON."""
        if scope["type"] == "lifespan":
            await self.application(scope, receive, send)
            return
        try:
            if scope["type"] != "http":
                raise _Refused(404, "there are only pages here")
            self._check_address(scope)
            received = await self._checked_body(scope, receive)
        except _Refused as refused:
            await _answer(send, refused)
            return
        await self.application(scope, received, _with_headers(send))

    def _check_address(self, scope: Message) -> None:
        headers = _headers(scope)
        # A page elsewhere may let its own name lead here (DNS rebinding), or send forms here.
        if headers.get("host") not in self.hosts:
            raise _Refused(403, "this page is served to this machine only")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc not in self.hosts:
            raise _Refused(403, "other pages may not ask here")
        path, method = str(scope["path"]), scope["method"]
        reads = method in ("GET", "HEAD") and (path in READ or path.startswith(READ_BELOW))
        if not reads and not (method == "POST" and path in WRITE):
            raise _Refused(404, "there is nothing at this address")
        if path.startswith(f"{API}/file="):
            self._check_file(path.removeprefix(f"{API}/file="))

    async def _checked_body(self, scope: Message, receive: Receive) -> Receive:
        if scope["method"] != "POST":
            return receive
        path = scope["path"]
        largest = self._largest_upload if path == UPLOAD else MAX_QUESTION_BYTES
        headers = _headers(scope)
        declared = headers.get("content-length", "")
        if not declared.isdecimal() or "transfer-encoding" in headers:
            raise _Refused(411, "a request says how long it is")
        if int(declared) > largest:
            raise _Refused(413, f"the request is too large; {self.limits}")
        if path == UPLOAD:
            return receive  # the server hands over no more than was declared
        body = await _read(receive)
        if path == JOIN:
            self._check_question(body)
        return _again(body, receive)

    @property
    def _largest_upload(self) -> int:
        one = self.limits.max_upload_mb * BYTES_PER_MB + ROOM_FOR_NAMES
        return one * self.limits.max_media

    def _check_question(self, body: bytes) -> None:
        try:
            question = json.loads(body)
        except (ValueError, RecursionError):
            raise _Refused(400, "the request is no JSON") from None
        files = list(_files(question))
        if len(files) > self.limits.max_media:
            raise _Refused(
                413, f"{len(files)} files are too many; give at most {self.limits.max_media}"
            )
        for file in files:
            self._check_reference(file)

    def _check_reference(self, file: Mapping[str, object]) -> None:
        """A file that was uploaded here, told by its path and perhaps by our own address of it."""
        path, url = file.get("path"), file.get("url")
        if not isinstance(path, str) or file.get("is_stream"):
            raise _Refused(400, "a file is named by its path; upload it")
        self._check_file(path)
        if url is None:
            return
        if not isinstance(url, str) or urlsplit(url).netloc not in (*self.hosts, ""):
            raise _Refused(400, "files from elsewhere are not fetched; upload them")
        place = unquote(urlsplit(url).path)
        if not place.startswith(f"{API}/file="):
            raise _Refused(400, "files from elsewhere are not fetched; upload them")
        self._check_file(place.removeprefix(f"{API}/file="))

    def _check_file(self, path: str) -> None:
        try:
            found = Path(path).resolve()
        except (OSError, ValueError):
            raise _Refused(400, "this is no path of a file") from None
        if not found.is_relative_to(self.uploads):
            raise _Refused(403, "only files that were uploaded here can be used")


def _files(value: object) -> Iterator[Mapping[str, object]]:
    """Everything in a question that Gradio might take for a file, however deep."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            if part.keys() & {"path", "url"}:
                yield part
            waiting += part.values()


def _headers(scope: Message) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Hands over what was read already, then whatever comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return waiting.pop() if waiting else await receive()

    return received


def _with_headers(send: Send) -> Send:
    added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.encode() for name in HEADERS}
            kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in own]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return sent


async def _answer(send: Send, refused: _Refused) -> None:
    body = json.dumps({"detail": refused.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await _with_headers(send)(
        {"type": "http.response.start", "status": refused.status, "headers": headers}
    )
    await send({"type": "http.response.body", "body": body})
