"""What a stranger may send to the running page, and what it answers: through HTTP, as Gradio's own
script in the browser would."""

import errno
import io
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest

from tests.demo.conftest import MAX_UPLOAD_MB
from tests.demo.serving import Served

pytestmark = pytest.mark.slow
API = "/gradio_api"
JSON = {"content-type": "application/json"}
PASSWORDS = str(Path("/", "etc", "passwd"))


@dataclass(frozen=True)
class Visitor:
    """A session with the page."""

    http: httpx.Client
    say_index: int  # of the event that says something to FLARE
    session: str = "visitor"

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """The file as the page then names it."""
        answer = self.http.post(f"{API}/upload", files={"files": (name, data)})
        answer.raise_for_status()
        return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}

    def say(self, text: object, *files: object, tokens: object = 4) -> httpx.Response:
        """A message of a conversation; the answer says whether it is let through."""
        question = {
            "data": [{"text": text, "files": files}, tokens, 0],
            "fn_index": self.say_index,
            "session_hash": self.session,
        }
        return self.http.post(f"{API}/queue/join", content=json.dumps(question), headers=JSON)

    def last_event(self) -> dict[str, Any]:
        """How the page answered."""
        with self.http.stream("GET", f"{API}/queue/data?session_hash={self.session}") as lines:
            events = (
                json.loads(line.removeprefix("data: ")) for line in lines.iter_lines() if line
            )
            return next(event for event in events if event["msg"] == "process_completed")

    def told(self, joined: httpx.Response) -> str:
        """The message of the page about a click that was let through."""
        assert joined.status_code == 200, joined.text
        last = self.last_event()
        assert not last["success"], last
        return str(last["output"]["error"])


@pytest.fixture(scope="module")
def visitor(page: Served) -> Iterator[Visitor]:
    with httpx.Client(base_url=page.address, timeout=30) as http:
        config = http.get("/config").json()
        boxes = {part["id"] for part in config["components"] if part["type"] == "multimodaltextbox"}
        says = [event["id"] for event in config["dependencies"] if boxes & {*event["inputs"]}]
        yield Visitor(http, says[-1])


def picture(side: int = 40) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side + 10, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_picture_that_was_uploaded_is_talked_about(visitor: Visitor) -> None:
    """What the refusals below are compared with."""
    joined = visitor.say("what is it", visitor.upload("a.png", picture()))
    assert joined.status_code == 200
    assert visitor.last_event()["success"]


@pytest.mark.proves("S8", "uploads beyond the limits", 4)
def test_files_beyond_the_limit_are_refused_while_they_come(visitor: Visitor) -> None:
    large = bytes(MAX_UPLOAD_MB * 1_000_000 + 1)
    assert visitor.http.post(f"{API}/upload", files={"files": ("a.png", large)}).status_code == 413
    # So many bytes in all are refused by what the request says of itself.
    many = [("files", (f"{i}.png", large)) for i in range(9)]
    assert visitor.http.post(f"{API}/upload", files=many).status_code == 413
    unknown = visitor.http.post(f"{API}/upload", content=iter([b"a"]), headers=JSON)
    assert unknown.status_code == 411
    twice = {"transfer-encoding": "chunked", "content-length": "1"}
    both = visitor.http.post(f"{API}/upload", content=iter([b"a"]), headers=twice)
    assert both.status_code in {400, 411}


@pytest.mark.proves("S8", "files of another kind", 5)
def test_what_is_no_picture_is_told_in_a_line_without_the_place_of_the_file(
    visitor: Visitor,
) -> None:
    bomb = io.BytesIO()
    PIL.Image.new("1", (9000, 9000)).save(bomb, "PNG")
    for name, data, told in (
        ("a.png", b"<html><script>alert(1)</script>", "cannot decode image a.png"),
        ("b.png", bomb.getvalue(), "pixels"),
        ("c.wav", b"RIFF no sound", "cannot decode sound c.wav"),
        ("d.svg", b"<svg/>", "d.svg is no file that this model takes"),
        ("e", picture(), "e is no file that this model takes"),
    ):
        message = visitor.told(visitor.say("", visitor.upload(name, data)))
        assert told in message
        assert "\n" not in message
        assert "/gradio/" not in message


@pytest.mark.proves("S8", "references to other files and addresses", 1)
@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"path": PASSWORDS}, 403),
        ({"path": f"UPLOADS/../../../../../..{PASSWORDS}"}, 403),
        ({"path": "pyproject.toml"}, 403),
        ({"path": "http://127.0.0.1:1/secret.png"}, 403),
        ({"path": "a\0b"}, 400),
        ({"path": None}, 400),
        ({"url": "http://127.0.0.1:1/secret.png"}, 400),
        ({"url": "http://169.254.169.254/latest/meta-data"}, 400),
        ({"url": "file:///etc/passwd"}, 400),
        ({"url": "data:image/png;base64,AAAA"}, 400),
        ({"url": f"{API}/file={PASSWORDS}"}, 403),
        ({"is_stream": True}, 400),
    ],
)
def test_a_file_that_was_not_uploaded_here_is_refused(
    visitor: Visitor, change: dict[str, Any], status: int
) -> None:
    file = visitor.upload("a.png", picture())
    if isinstance(path := change.get("path"), str):
        change = {"path": path.replace("UPLOADS", str(file["path"]))}
    assert visitor.say("what is it", {**file, **change}).status_code == status


@pytest.mark.proves("S8", "crowds of files, long and nested messages", 5)
def test_crowds_of_files_and_long_messages_are_refused(visitor: Visitor) -> None:
    file = visitor.upload("a.png", picture())
    assert visitor.say("", *[file] * 100).status_code == 413
    assert visitor.say("", *[file] * 9).status_code == 413
    assert visitor.say("a" * 300_000).status_code == 413
    assert "shorten it" in visitor.told(visitor.say("a" * 5_000))
    nested = b"[" * 100_000
    assert visitor.http.post(f"{API}/queue/join", content=nested, headers=JSON).status_code == 400


@pytest.mark.proves("S8", "absurd lengths of answers", 1)
@pytest.mark.parametrize("tokens", [10**9, 1025, 0, -1, 1.5, float("nan"), float("inf"), "many"])
def test_absurd_lengths_of_answers_are_refused(visitor: Visitor, tokens: object) -> None:
    assert "1 to 1024 tokens" in visitor.told(visitor.say("hello", tokens=tokens))


def test_an_empty_message_is_refused(visitor: Visitor) -> None:
    assert "empty" in visitor.told(visitor.say(" "))


@pytest.mark.proves("S8", "addresses beside the page", 1)
@pytest.mark.parametrize(
    "address",
    [
        "/docs",
        "/openapi.json",
        "/monitoring",
        "/svelte/x",
        f"{API}/info",
        f"{API}/openapi.json",
        f"{API}/call/say",
        f"{API}/runs",
        f"{API}/proxy=http://127.0.0.1:1/",
        f"{API}/run/predict",
        f"{API}/vibe-edit",
        f"{API}/mcp/",
    ],
)
def test_what_gradio_offers_beside_the_page_is_not_there(visitor: Visitor, address: str) -> None:
    assert visitor.http.get(address).status_code == 404
    assert visitor.http.post(address, json={}).status_code == 404


@pytest.mark.proves("S8", "files of the machine", 4)
def test_files_of_this_machine_cannot_be_read(visitor: Visitor) -> None:
    inside = visitor.upload("a.png", picture())["path"]
    assert visitor.http.get(f"{API}/file={inside}").content == picture()
    upwards = inside + "/%2e%2e" * 9 + PASSWORDS
    for path in (PASSWORDS, upwards, "pyproject.toml"):
        assert visitor.http.get(f"{API}/file={path}").status_code in {403, 404}
    assert visitor.http.get(f"{API}/file=http://127.0.0.1:1/").status_code == 403


def test_other_pages_and_other_machines_are_kept_out(page: Served, visitor: Visitor) -> None:
    assert visitor.http.get("/", headers={"host": "attacker.example"}).status_code == 403
    assert visitor.http.get("/", headers={"origin": "http://attacker.example"}).status_code == 403
    # Another loopback address stands for all others of this machine.
    with socket.socket() as other:
        port = int(page.address.rpartition(":")[2])
        assert other.connect_ex(("127.0.0.2", port)) == errno.ECONNREFUSED
    policy = visitor.http.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
