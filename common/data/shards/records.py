"""What a sample says: which medium or text stands where. An image or a sound with captions
(img2dataset's and CLAP's members), a document of parallel lists, or a line of text. Media are
named here, not decoded."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from common.data.document import Document, Image, Recording
from common.data.faults import BadSample, Cause
from common.data.text_decoding import decode_json, decode_text

MediumKind = Literal["image", "audio"]
Kind = Literal["image", "audio", "interleaved", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EXTENSIONS: dict[MediumKind, tuple[str, ...]] = {
    "image": ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"),
    "audio": ("flac", "wav", "mp3", "ogg"),
}
# Where a pair's json has its captions, the first that says something.
CAPTION_FIELDS: dict[MediumKind, tuple[str, ...]] = {
    "image": ("caption",),
    "audio": ("text", "tag"),
}
Read: TypeAlias = Callable[[str], bytes]  # the bytes of a member by its extension


@dataclass(frozen=True, kw_only=True)
class Medium:
    """A member to be decoded."""

    kind: MediumKind
    member: str


Texts: TypeAlias = tuple[str, ...]  # one text in several wordings, mostly one


@dataclass(frozen=True, kw_only=True)
class Record:
    """Media and texts in reading order, and the caption of an interleaved document."""

    kind: Kind
    parts: tuple[Medium | Texts, ...]
    caption: str | None = None

    @property
    def media(self) -> list[Medium]:
        return [part for part in self.parts if isinstance(part, Medium)]

    @property
    def texts(self) -> list[Texts]:
        return [part for part in self.parts if not isinstance(part, Medium)]

    def document(
        self, *, key: str, variant: int, decode: Callable[[Medium], Image | Recording]
    ) -> Document:
        """The document itself; `variant` chooses the wording, counted around.

        Raises:
            BadSample: from `decode`.
        """
        parts = tuple(
            decode(part) if isinstance(part, Medium) else part[variant % len(part)]
            for part in self.parts
        )
        caption = parts[-1] if self.kind in EXTENSIONS else self.caption
        assert caption is None or isinstance(caption, str)
        return Document(key=key, parts=parts, caption=caption)


def parse_sample(members: Collection[str], read: Read, *, name: str) -> Record:
    """The record of a sample in a tar, from its text members; `name` appears in errors.

    A medium `KEY.jpg` has its text in `KEY.txt`, or else in `KEY.json`. Without a medium of that
    form, or with `texts` in it, the json is an interleaved document.

    Raises:
        BadSample: a part is missing or malformed.
    """
    medium = _plain_medium(members)
    if medium is not None and "txt" in members:
        text = decode_text(read("txt"), name=f"{name}.txt")
        return Record(kind=medium.kind, parts=(medium, (text,)))
    if "json" not in members:
        missing: Cause = "media_missing" if medium is None else "text_missing"
        raise _bad(missing, name, "holds no image or sound" if medium is None else "has no text")
    entry = decode_json(read("json"), name=f"{name}.json")
    if "texts" in entry:
        return _interleaved(entry, members, name=f"{name}.json")
    if medium is None:
        raise _bad("media_missing", name, "holds no image or sound")
    captions = _captions(entry, CAPTION_FIELDS[medium.kind], name=f"{name}.json")
    return Record(kind=medium.kind, parts=(medium, captions))


def parse_line(line: bytes, *, name: str) -> tuple[str | None, Record]:
    """Key, if the line has one, and record of a line like `{"id": "a", "text": "..."}`.

    Raises:
        BadSample: it is no such line.
    """
    entry = decode_json(line, name=name)
    text = entry.get("text")
    if text is None:
        raise _bad("text_missing", name, "has no text")
    keys = (entry.get("key"), entry.get("id"))
    key = next((str(key) for key in keys if isinstance(key, str | int) and key != ""), None)
    return key, Record(kind="text", parts=((_text(text, name=name),),))


def _plain_medium(members: Collection[str]) -> Medium | None:
    """The image of a pair, or else its sound."""
    for kind, extensions in EXTENSIONS.items():
        for member in members:
            if member in extensions:
                return Medium(kind=kind, member=member)
    return None


def _captions(entry: dict[str, object], fields: tuple[str, ...], *, name: str) -> Texts:
    for field in fields:
        captions = _strings(entry.get(field), name=f"{name} field {field}")
        if captions:
            # Each tag alone says less of the sound than all of them.
            return (", ".join(captions),) if field == "tag" else captions
    empty = any(entry.get(field) is not None for field in fields)
    raise _bad("text_empty" if empty else "text_missing", name, f"has no {' or '.join(fields)}")


def _strings(value: object, *, name: str) -> Texts:
    """The strings, of one or a list, that are not blank."""
    strings = value if isinstance(value, list) else [] if value is None else [value]
    captions = [string.strip() for string in strings if isinstance(string, str)]
    if len(captions) != len(strings):
        raise _bad("json_invalid", name, "is not a string or a list of strings")
    return tuple(caption for caption in captions if caption)


def _interleaved(entry: dict[str, object], members: Collection[str], *, name: str) -> Record:
    texts = entry["texts"]
    if not isinstance(texts, list) or not texts:
        raise _bad("json_invalid", name, "has no list texts")
    nothing = [None] * len(texts)
    lists = [nothing if (v := entry.get(field)) is None else v for field in ("images", "audios")]
    if not all(isinstance(values, list) and len(values) == len(texts) for values in lists):
        raise _bad("json_invalid", name, "has lists of different lengths")
    positions = enumerate(zip(texts, *lists, strict=True))
    parts = tuple(_part(values, members, name=f"{name} position {n}") for n, values in positions)
    record = Record(kind="interleaved", parts=parts, caption=_caption(entry, name=name))
    if record.caption is not None and len(record.media) != 1:
        raise _bad("json_invalid", name, f"has a caption for {len(record.media)} media, not one")
    return record


def _part(values: tuple[object, ...], members: Collection[str], *, name: str) -> Medium | Texts:
    text, image, audio = values
    if sum(value is not None for value in values) != 1:
        raise _bad("json_invalid", name, "must be given in exactly one of the lists")
    if text is not None:
        return (_text(text, name=name),)
    member = audio if image is None else image
    if not isinstance(member, str):
        raise _bad("json_invalid", name, "does not name a file")
    if member.lower() not in members:
        raise _bad("media_missing", name, f"names {member[:100]!r}, which is not in the tar")
    return Medium(kind="audio" if image is None else "image", member=member.lower())


def _text(text: object, *, name: str) -> str:
    """Text as it is, blanks around it and all: pieces of a longer one must fit together."""
    if not isinstance(text, str):
        raise _bad("json_invalid", name, "has a text that is no string")
    if not text.strip():
        raise _bad("text_empty", name, "has an empty text")
    return text


def _caption(entry: dict[str, object], *, name: str) -> str | None:
    caption = entry.get("caption")
    return None if caption is None else _text(caption, name=f"{name} field caption")


def _bad(cause: Cause, name: str, fault: str) -> BadSample:
    return BadSample(cause, f"{name} {fault}; correct it or leave it out")
