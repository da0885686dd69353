"""Recordings from files: any rate and number of channels becomes mono at 16 kHz. What cannot be
decoded, is empty or no sound is a `UserError` with the file's name; of a file that was cut short
most formats still give what is left, which cannot be told from a shorter sound."""

from math import gcd
from pathlib import Path

import numpy as np
from jaxtyping import Float

from common.data.document import SAMPLE_RATE_HZ, Recording
from common.errors import UserError

MAX_SAMPLES = 512_000_000  # over all channels, two gigabytes when decoded


def read_audio(path: Path) -> Recording:
    """A wav, flac, ogg or mp3 file.

    Raises:
        UserError: the file is missing, undecodable, too long, empty or no sound.
    """
    import soundfile  # noqa: PLC0415 -- loads a library; most of the code never needs it

    if not path.is_file():
        raise UserError(f"cannot read sound {path}: no such file; check the path")
    try:
        with soundfile.SoundFile(path) as file:
            if file.frames * file.channels > MAX_SAMPLES:
                raise UserError(f"sound {path} is too long to read at once; cut it into pieces")
            samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
    except soundfile.LibsndfileError as error:
        reason = str(error.error_string).rstrip(".")
        raise UserError(f"cannot decode sound {path}: {reason}; replace or remove it") from error
    except TypeError as error:  # how soundfile refuses headerless samples, by the name `.raw`
        raise UserError(f"sound {path} has no header; convert it to wav or flac") from error
    if not len(samples) or not np.isfinite(samples).all():
        fault = "holds no samples" if not len(samples) else "holds samples that are no numbers"
        raise UserError(f"sound {path} {fault}; replace or remove it")
    return to_recording(samples, rate_hz=rate)


def to_recording(samples: Float[np.ndarray, "t c"], *, rate_hz: int) -> Recording:
    """Channels averaged, and resampled by a polyphase filter that lets no alias through."""
    from scipy.signal import resample_poly  # noqa: PLC0415 -- loads for a second

    mono = samples.mean(axis=1)
    if rate_hz != SAMPLE_RATE_HZ:
        common = gcd(rate_hz, SAMPLE_RATE_HZ)
        mono = resample_poly(mono, SAMPLE_RATE_HZ // common, rate_hz // common)
    return Recording(samples=np.clip(mono, -1, 1).astype(np.float32))
