"""Pairs of answers by path, a JSON object a line:

    {"prompt": {"messages": [...], "images": ["a.jpg"], "audios": []},
     "chosen": "No.", "rejected": "Yes.", "category": "weapons"}

The prompt is a conversation whose media are names of files, relative to the folder of media.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.data.audio import read_audio
from common.data.conversations.messages import Conversation
from common.data.conversations.pairs import Pair
from common.data.conversations.sources import (
    Fields,
    inside,
    list_of,
    names_of,
    read_records,
    text_of,
)
from common.data.conversations.unread import Unread, located, opened
from common.data.images import read_image
from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PairFile:
    """The pairs of one file."""

    records: list[Fields]
    media: Path
    name: str

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Pair:
        with located(index, self.name):
            pair = _pair(self.records[index], self.media)
            return {**pair, "prompt": opened(pair["prompt"])}

    def outline(self, index: int) -> Pair:
        """The pair, whose media are read when they are asked for."""
        with located(index, self.name):
            return _pair(self.records[index], self.media)


def open_pairs(path: Path, *, media: Path) -> PairFile:
    """The pairs of a file.

    Raises:
        UserError: the file is missing or no such JSON.
    """
    return PairFile(records=read_records(path), media=media, name=path.name)


def _pair(record: Fields, media: Path) -> Pair:
    prompt = record.get("prompt")
    if not isinstance(prompt, Mapping):
        raise UserError("the field prompt is no conversation; give an object with messages")
    asked: Conversation = {
        "messages": list_of(prompt, "messages"),
        "images": Unread(names_of(prompt, "images"), lambda name: read_image(inside(media, name))),
        "audios": Unread(names_of(prompt, "audios"), lambda name: read_audio(inside(media, name))),
    }
    return Pair(
        prompt=asked, chosen=text_of(record, "chosen"), rejected=text_of(record, "rejected")
    )
