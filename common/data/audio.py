"""Recordings from encoded bytes: any rate and number of channels becomes mono at 16 kHz. What
cannot be decoded, is empty or no sound is a `BadSample` with the sound's name; of a file that was
cut short most formats still give what is left, which cannot be told from a shorter sound."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from common.data.document import SAMPLE_RATE_HZ, Recording
from common.data.faults import BadSample
from common.errors import UserError

MAX_SAMPLES = 512_000_000  # over all channels, and of the result: two gigabytes each
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 384_000
MIN_SAMPLES = 400  # 25 ms, one frame of the audio encoder
MIN_PEAK = 1e-4
# Samples lie in -1..1. Some writers scale them to integers, but beyond this they are damage.
MAX_AMPLITUDE = 1e10
UNKNOWN_LENGTH = (1 << 63) - 1  # libsndfile's, of a FLAC stream whose writer could not go back
# A rate that has few factors in common with ours is taken for its neighbour, at most 5e-5 of it
# away, since the length of the resampling filter grows with the terms of the fraction.
MAX_DENOMINATOR = 10_000


def read_audio(path: Path) -> Recording:
    """A wav, flac, ogg or mp3 file. It may be silent or very short, other than training data.

    Raises:
        UserError: the file is missing, undecodable, too long, empty or no sound.
    """
    try:
        with path.open("rb") as file:
            return _decode(file, name=str(path))
    except OSError as error:
        raise UserError(f"cannot read sound {path}: {error.strerror}; check the path") from error


def decode_audio(data: bytes, *, name: str) -> Recording:
    """An encoded sound for training, where silence teaches nothing. `name` appears in errors.

    Raises:
        BadSample: `audio_corrupt`, `audio_rate`, `audio_nan`, `audio_silent`, `audio_short` or
            `audio_long`.
    """
    recording = _decode(io.BytesIO(data), name=name)
    if len(recording.samples) < MIN_SAMPLES:
        milliseconds = 1000 * len(recording.samples) // SAMPLE_RATE_HZ
        fault = f"lasts {milliseconds} ms, less than one frame; remove it"
        raise BadSample("audio_short", f"sound {name} {fault}")
    if np.abs(recording.samples).max() < MIN_PEAK:
        raise BadSample("audio_silent", f"sound {name} is silent; remove it")
    return recording


def to_recording(samples: Float[np.ndarray, "t c"], *, rate_hz: int) -> Recording:
    """Channels averaged, and resampled by a polyphase filter that lets no alias through."""
    from scipy.signal import resample_poly  # noqa: PLC0415 -- loads for a second

    mono = samples.mean(axis=1)
    if rate_hz != SAMPLE_RATE_HZ:
        ratio = Fraction(SAMPLE_RATE_HZ, rate_hz).limit_denominator(MAX_DENOMINATOR)
        mono = resample_poly(mono, ratio.numerator, ratio.denominator)
    return Recording(samples=np.clip(mono, -1, 1).astype(np.float32))


def lacks_rate(header: bytes) -> bool:
    """Whether a WAV that cannot be opened claims 0 samples a second, for which there is no error of
    libsndfile's own; 28 bytes tell."""
    is_wav = header.startswith(b"RIFF") and header[8:16] == b"WAVEfmt "
    return is_wav and header[24:28] == bytes(4)


def _decode(encoded: io.BytesIO | io.BufferedReader, *, name: str) -> Recording:
    import soundfile  # noqa: PLC0415 -- loads a library; most of the code never needs it

    try:
        with soundfile.SoundFile(encoded) as file:
            rate_hz = file.samplerate
            _check_header(file.frames, file.channels, rate_hz=rate_hz, name=name)
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        encoded.seek(0)
        if lacks_rate(encoded.read(28)):
            raise BadSample("audio_rate", f"sound {name} has no rate; set it") from error
        reason = str(error.error_string).rstrip(".")
        fault = f"{reason}; replace or remove it"
        raise BadSample("audio_corrupt", f"cannot decode sound {name}: {fault}") from error
    except TypeError as error:  # how soundfile refuses headerless samples, by the name `.raw`
        fault = "has no header; convert it to wav or flac"
        raise BadSample("audio_corrupt", f"sound {name} {fault}") from error
    _check_samples(samples, name=name)
    return to_recording(samples, rate_hz=rate_hz)


def _check_header(frames: int, channels: int, *, rate_hz: int, name: str) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        fault = f"has a rate of {rate_hz} Hz; resample it to {SAMPLE_RATE_HZ} Hz"
        raise BadSample("audio_rate", f"sound {name} {fault}")
    if frames == UNKNOWN_LENGTH:
        fault = "its header does not say how long it is; convert it to a file once more"
        raise BadSample("audio_corrupt", f"cannot decode sound {name}: {fault}")
    if frames * max(channels, SAMPLE_RATE_HZ / rate_hz) > MAX_SAMPLES:
        fault = "is too long to read at once; cut it into pieces"
        raise BadSample("audio_long", f"sound {name} {fault}")


def _check_samples(samples: Float32[np.ndarray, "t c"], *, name: str) -> None:
    if not len(samples):
        fault = "holds no samples; replace or remove it"
        raise BadSample("audio_short", f"sound {name} {fault}")
    if not (samples.max() < MAX_AMPLITUDE and samples.min() > -MAX_AMPLITUDE):
        fault = "holds samples that are no numbers; replace or remove it"
        raise BadSample("audio_nan", f"sound {name} {fault}")
