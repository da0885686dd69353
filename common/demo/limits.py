"""What a visitor of the page may ask for at most."""

from dataclasses import dataclass

from common.errors import UserError

BYTES_PER_MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of every request; what goes beyond them is refused before anything is decoded."""

    # Size of an uploaded file in millions of bytes.
    max_upload_mb: int = 10
    # Pictures and sounds of a conversation, of a prompt and of a search.
    max_media: int = 8
    # Length of an answer.
    max_new_tokens: int = 1024
    # Characters of a message, a question or a list of texts.
    max_characters: int = 4000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                option = name.replace("_", "-")
                raise UserError(f"--{option} {value} leaves nothing to do; give at least 1")

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb * BYTES_PER_MB

    def __str__(self) -> str:
        return (
            f"Files up to {self.max_upload_mb} MB, {self.max_media} pictures or sounds at a time, "
            f"answers up to {self.max_new_tokens} tokens. Nothing leaves this machine."
        )
