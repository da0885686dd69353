"""What the header of an image or a sound tells without decoding: its size, its length, and whether
it will be refused. The rest is found when the sample is read."""

import io

import PIL.Image

from common.data import audio, images
from common.data.faults import BadSample, Cause


def image_size(data: bytes, *, name: str) -> tuple[int, int]:
    """Width and height as stored, before a rotation that the header may ask for.

    Raises:
        BadSample: no image, or of a size that is refused.
    """
    try:
        with PIL.Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
            width, height = image.size
    except PIL.Image.DecompressionBombError as error:
        raise _bad("image_pixels", name, "has too many pixels") from error
    except images.DECODING_ERRORS as error:
        raise _bad("image_corrupt", name, "has no header of an image") from error
    short, long = sorted((width, height))
    if short * long > images.MAX_PIXELS:
        raise _bad("image_pixels", name, f"has {width} x {height} pixels, too many")
    if short < images.MIN_SIDE or long > images.MAX_SIDE:
        raise _bad("image_side", name, f"has {width} x {height} pixels, a side out of bounds")
    if long > images.MAX_ASPECT * short:
        raise _bad("image_aspect", name, f"has {width} x {height} pixels, too narrow")
    return width, height


def audio_seconds(data: bytes, *, name: str) -> float:
    """Duration by the header.

    Raises:
        BadSample: no sound, or longer than is read at once.
    """
    import soundfile  # noqa: PLC0415 -- loads a library; most of the code never needs it

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            frames, rate, channels = sound.frames, sound.samplerate, sound.channels
    except (soundfile.LibsndfileError, TypeError) as error:
        if audio.lacks_rate(data[:28]):
            raise _bad("audio_rate", name, "has no rate") from error
        raise _bad("audio_corrupt", name, "has no header of a sound") from error
    if not audio.MIN_RATE_HZ <= rate <= audio.MAX_RATE_HZ:
        raise _bad("audio_rate", name, f"has a rate of {rate} Hz")
    if frames * channels > audio.MAX_SAMPLES:
        raise _bad("audio_long", name, f"has {frames} samples, too many to read at once")
    return frames / rate


def _bad(cause: Cause, name: str, fault: str) -> BadSample:
    return BadSample(cause, f"{name} {fault}; replace it or leave it out")
