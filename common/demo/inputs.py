"""What the browser sent, read with care. Gradio passes it on as it came (`preprocess=False`), so
that files are decoded here only, by the project's own bounded decoders."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.data.audio import read_audio
from common.data.document import Image, Recording
from common.data.faults import BadSample
from common.data.images import read_image
from common.demo.limits import Limits
from common.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")


def words(value: object, limits: Limits) -> str:
    """Text that was typed, without the space around it.

    Raises:
        UserError: it is no text, or too long.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError("the text is no text; type it again")
    if len(value) > limits.max_characters:
        raise UserError(
            f"the text has {len(value)} characters; shorten it to {limits.max_characters}"
        )
    return value.strip()


def lines(value: object, limits: Limits) -> list[str]:
    """Typed texts, one a line.

    Raises:
        UserError: it is no text, or too long.
    """
    return [line.strip() for line in words(value, limits).splitlines() if line.strip()]


def number_of_tokens(value: object, limits: Limits) -> int:
    """Length of an answer.

    Raises:
        UserError: it is no whole number from 1 to the limit.
    """
    is_whole = isinstance(value, int | float) and value == value // 1
    if not (isinstance(value, int | float) and is_whole and 1 <= value <= limits.max_new_tokens):
        raise UserError(f"an answer has 1 to {limits.max_new_tokens} tokens; move the slider")
    return int(value)


def temperature(value: object) -> float | None:
    """Of sampling; None, the most probable words, for 0.

    Raises:
        UserError: it is no number from 0 to 2.
    """
    if not (isinstance(value, int | float) and 0 <= value <= 2):
        raise UserError("the temperature is a number from 0 to 2; move the slider")
    return float(value) or None


def stored_files(value: object, limits: Limits) -> list[Path]:
    """Where uploaded files lie, of any component that holds files.

    Raises:
        UserError: there are too many, or they are too large.
    """
    files = [Path(path) for path in _paths(value)]
    if len(files) > limits.max_media:
        raise UserError(f"{len(files)} files are too many; give at most {limits.max_media}")
    for file in files:
        if file.is_file() and file.stat().st_size > limits.max_upload_bytes:
            raise UserError(f"a file may have {limits.max_upload_mb} MB; make it smaller")
    return files


def picture(file: Path) -> Image:
    """A picture, decoded within the bounds of `common.data.images`.

    Raises:
        UserError: it is damaged, too large or no picture.
    """
    try:
        return read_image(file)
    except BadSample as error:
        raise _without_folder(error, file) from error


def sound(file: Path) -> Recording:
    """A recording, decoded within the bounds of `common.data.audio`.

    Raises:
        UserError: it is damaged, too long or no sound.
    """
    try:
        return read_audio(file)
    except BadSample as error:
        raise _without_folder(error, file) from error


def medium(file: Path, *, hears: bool) -> Image | Recording:
    """A picture or, for a model that hears, a recording; which of them says the file's ending.

    Raises:
        UserError: it is neither, or cannot be decoded.
    """
    kind = file.suffix.lower()
    if kind in PICTURES:
        return picture(file)
    if kind in SOUNDS and hears:
        return sound(file)
    endings = ", ".join([*PICTURES, *(SOUNDS if hears else ())])
    raise UserError(f"{file.name} is no file that this model takes; give one of {endings}")


def _paths(value: object) -> list[str]:
    """Paths of all files in what a component sent, in order."""
    if isinstance(value, Mapping):
        if isinstance(path := value.get("path"), str):
            return [path]
        return [path for part in value.values() for path in _paths(part)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [path for part in value for path in _paths(part)]
    return []


def _without_folder(error: BadSample, file: Path) -> UserError:
    """Where uploads lie is nobody's business."""
    return UserError(str(error).replace(str(file), file.name))
