"""Recordings from files of any rate and number of channels."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.data.audio import read_audio, to_recording
from common.data.document import SAMPLE_RATE_HZ
from common.errors import UserError


def tone(hertz: float, *, rate_hz: int, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate_hz * seconds)) / rate_hz)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100])
def test_every_format_and_rate_gives_the_same_tone(
    suffix: str, rate_hz: int, tmp_path: Path
) -> None:
    path = tmp_path / f"tone{suffix}"
    stereo = np.stack([tone(440, rate_hz=rate_hz), np.zeros(rate_hz // 2)], axis=1)
    soundfile.write(path, stereo, rate_hz)
    samples = read_audio(path).samples
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(SAMPLE_RATE_HZ / 2, rel=0.2)  # mp3 and ogg pad
    loudest = np.abs(np.fft.rfft(samples)).argmax() * SAMPLE_RATE_HZ / len(samples)
    assert loudest == pytest.approx(440, abs=3)
    middle = samples[2000:6000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.05)  # halved


def test_frequencies_beyond_the_new_limit_leave_no_alias() -> None:
    high = tone(9_500, rate_hz=48_000)[:, None]  # would fold to 6,500 Hz
    assert np.abs(to_recording(high, rate_hz=48_000).samples[500:-500]).max() < 0.01


def test_unreadable_files_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"RIFF nothing")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    broken = np.full(100, np.nan, dtype=np.float32)
    soundfile.write(tmp_path / "broken.wav", broken, 16_000, subtype="FLOAT")
    (tmp_path / "headerless.raw").write_bytes(b"\0" * 100)
    for name in ("missing.wav", "noise.wav", "empty.wav", "broken.wav", "headerless.raw"):
        with pytest.raises(UserError, match=name) as error:
            read_audio(tmp_path / name)
        assert "\n" not in str(error.value)
