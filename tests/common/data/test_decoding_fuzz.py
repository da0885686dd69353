"""Whatever a file was turned into, it decodes or is a `BadSample`: nothing else is raised, nothing
takes long and nothing takes much memory. The damage is drawn from fixed seeds."""

import io
import json
import resource
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import get_args

import numpy as np
import PIL.Image
import pytest
import soundfile

from common.data.audio import decode_audio
from common.data.faults import BadSample, Cause
from common.data.images import decode_image
from common.data.text_decoding import decode_json
from tests.matrix import Counted
from tests.timing import within

INPUTS = {"image": 48, "sound": 78, "text": 42}  # of each format
SECONDS_PER_INPUT = 0.5  # of the processor
MAX_GROWTH_KB = 300_000
SIZES = (0, 1, 255, 700, 2_000, 16_000, 65_535, 10**8, 2**31, 2**32 - 1)

Decode = Callable[..., object]
Damage = Callable[[bytes, np.random.Generator], bytes]


def picture(format_name: str, **options: object) -> bytes:
    """Smooth colours with noise, as hard to compress as a photo, to be turned by a quarter."""
    y, x = np.mgrid[:120, :170]
    noise = np.random.default_rng(0).integers(0, 30, (120, 170, 3))
    pixels = np.stack([x, y, (x + y) // 2], axis=2) + noise
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a photo"
    encoded = io.BytesIO()
    image = PIL.Image.fromarray(pixels.astype(np.uint8))
    image.save(encoded, format_name, exif=exif, **options)
    return encoded.getvalue()


def sound(format_name: str) -> bytes:
    times = np.arange(9_000) / 22_050
    stereo = 0.4 * np.stack([np.sin(2_800 * times), np.sin(900 * times)], axis=1)
    encoded = io.BytesIO()
    soundfile.write(encoded, stereo, 22_050, format=format_name)
    return encoded.getvalue()


def document() -> bytes:
    entry = {"texts": [None, "a ä 😀 \\"] * 9, "images": ["0.jpg", None] * 9, "x": [1.5e3, -2]}
    return json.dumps(entry).encode()


FORMATS: dict[str, tuple[Callable[[], bytes], Decode]] = {
    "jpeg": (lambda: picture("JPEG"), decode_image),
    "progressive jpeg": (lambda: picture("JPEG", progressive=True), decode_image),
    "png": (lambda: picture("PNG"), decode_image),
    "webp": (lambda: picture("WEBP"), decode_image),
    "gif": (lambda: picture("GIF"), decode_image),
    "bmp": (lambda: picture("BMP"), decode_image),
    "tiff": (lambda: picture("TIFF", compression="tiff_lzw"), decode_image),
    "wav": (lambda: sound("WAV"), decode_audio),
    "flac": (lambda: sound("FLAC"), decode_audio),
    "ogg": (lambda: sound("OGG"), decode_audio),
    "mp3": (lambda: sound("MP3"), decode_audio),
    "json": (document, decode_json),
}
# Rows of the matrix that decoders belong to, and damages of each of their formats.
PROVES: dict[Decode, tuple[str, int]] = {
    decode_image: ("S4", INPUTS["image"]),
    decode_audio: ("S5", INPUTS["sound"]),
}


def truncated(data: bytes, generator: np.random.Generator) -> bytes:
    return data[: int(generator.integers(len(data)))]


def with_flipped_bytes(data: bytes, generator: np.random.Generator) -> bytes:
    damaged = np.frombuffer(data, np.uint8).copy()
    places = generator.integers(len(data), size=int(generator.integers(1, 9)))
    damaged[places] = generator.integers(0, 256, len(places))
    return damaged.tobytes()


def with_absurd_header(data: bytes, generator: np.random.Generator) -> bytes:
    """One or two neighbouring fields of the header hold other sizes or rates."""
    form = str(generator.choice(["<I", ">I", "<H", ">H"]))
    width = struct.calcsize(form)
    values = generator.choice(SIZES, size=int(generator.integers(1, 3))) % (1 << 8 * width)
    fields = b"".join(struct.pack(form, int(value)) for value in values)
    place = int(generator.integers(4, 60))
    if data.startswith(b"\x89PNG"):
        damaged = data[:16] + fields[:8].ljust(8, b"\0") + data[24:]
        return damaged[:29] + struct.pack(">I", zlib.crc32(damaged[12:29])) + damaged[33:]
    return data[:place] + fields + data[place + len(fields) :]


def with_a_piece_doubled(data: bytes, generator: np.random.Generator) -> bytes:
    start, end = sorted(generator.integers(len(data), size=2).tolist())
    return data[:end] + data[start:]


def with_a_piece_removed(data: bytes, generator: np.random.Generator) -> bytes:
    start, end = sorted(generator.integers(len(data), size=2).tolist())
    return data[:start] + data[end:]


def random_after_the_magic(data: bytes, generator: np.random.Generator) -> bytes:
    return data[: int(generator.integers(4, 60))] + generator.bytes(1_000)


DAMAGES: tuple[Damage, ...] = (
    truncated,
    with_flipped_bytes,
    with_absurd_header,
    with_a_piece_doubled,
    with_a_piece_removed,
    random_after_the_magic,
)


def outcome(decode: Decode, data: bytes) -> str:
    try:
        decode(data, name="the input")
    except BadSample as fault:
        return fault.cause if "\n" not in str(fault) else f"told in two lines: {fault}"
    return "decoded"


@pytest.fixture(scope="module")
def memory_before_kb() -> int:
    for make, decode in FORMATS.values():  # loads libraries, and proves the undamaged files good
        assert outcome(decode, make()) == "decoded"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damaged metadata
@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_decoded_or_refused_quickly_and_in_little_memory(
    name: str, memory_before_kb: int, counted: Counted
) -> None:
    make, decode = FORMATS[name]
    row, inputs = PROVES.get(decode, ("", INPUTS["text"]))
    data, generator = make(), np.random.default_rng(5)
    outcomes: Counter[str] = Counter()
    for index in range(inputs):
        damaged = DAMAGES[index % len(DAMAGES)](data, generator)
        decoding = partial(outcome, decode, damaged)
        outcomes[within(SECONDS_PER_INPUT, decoding, of=(name, index))] += 1
    assert outcomes.keys() <= {"decoded", *get_args(Cause)}
    assert outcomes["decoded"] < inputs
    growth_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before_kb
    assert growth_kb < MAX_GROWTH_KB
    if row:
        counted(row, f"damaged {name}", inputs)
