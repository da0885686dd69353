"""Captions as numbers, so that a contrast never takes an equal caption for a negative."""

from hashlib import blake2b


def caption_id(caption: str) -> int:
    """A number of 63 bits, the same in every process; it marks equal captions."""
    return int.from_bytes(blake2b(caption.encode(), digest_size=8).digest(), "big") >> 1
