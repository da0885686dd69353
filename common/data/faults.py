"""What can be wrong with a sample: a closed list of causes, so that faults can be counted, and one
exception that carries the cause. Whoever reads data counts them; nothing is dropped unseen."""

from typing import Literal

from common.errors import UserError

Cause = Literal[
    "tar_truncated",  # the shard ends inside the sample
    "member_unsafe",  # link, device, absolute path or path upwards
    "member_changed",  # CRC-32 differs from the index
    "unreadable",  # the file system gave an error
    "json_invalid",
    "text_missing",
    "text_empty",
    "text_encoding",  # not UTF-8
    "text_long",
    "media_missing",
    "image_corrupt",
    "image_pixels",  # more than may be decoded
    "image_side",  # too short or too long
    "image_aspect",
    "audio_corrupt",
    "audio_rate",  # missing or absurd sample rate
    "audio_nan",
    "audio_silent",
    "audio_short",
    "audio_long",
]


class BadSample(UserError):  # noqa: N818 -- a finding about data more than an error
    """A sample that cannot be used, and why; its text is a whole line for a user."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause: Cause = cause
