"""Recordings from encoded sounds of any rate and number of channels, and what is refused."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.data import audio
from common.data.audio import decode_audio, read_audio, to_recording
from common.data.document import SAMPLE_RATE_HZ
from common.data.faults import BadSample
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


def encoded(
    samples: np.ndarray, *, rate_hz: int = 16_000, form: str = "WAV", subtype: str | None = None
) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, samples, rate_hz, format=form, subtype=subtype)
    return data.getvalue()


def cause_of(data: bytes) -> str:
    with pytest.raises(BadSample, match=r"sound shard/7\.flac") as fault:
        decode_audio(data, name="shard/7.flac")
    assert "\n" not in str(fault.value)
    return fault.value.cause


def test_bytes_and_files_give_the_same_recording(tmp_path: Path) -> None:
    data = encoded(tone(440, rate_hz=22_050), rate_hz=22_050, form="FLAC")
    (tmp_path / "a.flac").write_bytes(data)
    from_file = read_audio(tmp_path / "a.flac").samples
    assert np.array_equal(decode_audio(data, name="a").samples, from_file)


@pytest.mark.proves("S5", "every fault of a sound", 11)
def test_every_fault_of_a_sound_has_its_cause() -> None:
    loud = tone(440, rate_hz=16_000)
    no_number, beyond = loud.astype(np.float32), loud.astype(np.float32)
    no_number[70], beyond[90] = np.nan, 3e38
    opposite = np.stack([loud, -loud], axis=1)  # nothing is left of it in mono
    assert cause_of(b"fLaC nothing") == "audio_corrupt"
    assert cause_of(b"") == "audio_corrupt"
    rateless = bytearray(encoded(loud))
    rateless[24:28] = bytes(4)
    assert cause_of(bytes(rateless)) == "audio_rate"
    assert cause_of(encoded(loud, rate_hz=999)) == "audio_rate"
    assert cause_of(encoded(loud, rate_hz=384_001)) == "audio_rate"
    assert cause_of(encoded(no_number, subtype="FLOAT")) == "audio_nan"
    assert cause_of(encoded(beyond, subtype="FLOAT")) == "audio_nan"
    assert cause_of(encoded(opposite)) == "audio_silent"
    assert cause_of(encoded(5e-5 * np.ones(900), subtype="FLOAT")) == "audio_silent"
    assert cause_of(encoded(loud[:0])) == "audio_short"
    assert cause_of(encoded(loud[:399])) == "audio_short"


def test_one_frame_of_sound_is_enough_after_resampling() -> None:
    fast = tone(440, rate_hz=48_000)
    assert len(decode_audio(encoded(fast[:1200], rate_hz=48_000), name="a").samples) == 400
    assert cause_of(encoded(fast[:1197], rate_hz=48_000)) == "audio_short"


def test_what_a_user_plays_may_be_silent_or_short(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encoded(np.zeros(9)))
    assert np.array_equal(read_audio(tmp_path / "a.wav").samples, np.zeros(9))


def test_the_length_is_checked_in_the_header_over_all_channels_and_as_resampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audio, "MAX_SAMPLES", 24_000)
    loud = tone(440, rate_hz=8_000, seconds=2)
    assert len(decode_audio(encoded(loud[:12_000], rate_hz=8_000), name="a").samples) == 24_000
    assert cause_of(encoded(loud[:12_001], rate_hz=8_000)) == "audio_long"
    assert cause_of(encoded(np.stack([loud[:8_001]] * 3, axis=1))) == "audio_long"


@pytest.mark.proves("S5", "lengths that are not there", 1)
@pytest.mark.parametrize("claimed", [0, 500_000_000, 60_000_000_000])
def test_a_flac_that_lies_about_its_length_is_refused(claimed: int) -> None:
    data = bytearray(encoded(tone(440, rate_hz=16_000), form="FLAC"))
    data[21] = data[21] & 0xF0 | claimed >> 32  # the number of samples has 36 bits
    data[22:26] = (claimed & 0xFFFFFFFF).to_bytes(4, "big")
    expected = "audio_long" if claimed > audio.MAX_SAMPLES else "audio_corrupt"
    assert cause_of(bytes(data)) == expected


@pytest.mark.parametrize("rate_hz", [1_009, 22_254, 44_101, 383_999])
def test_rates_without_common_factors_keep_their_pitch(rate_hz: int) -> None:
    seconds = 1.0
    samples = to_recording(tone(300, rate_hz=rate_hz, seconds=seconds)[:, None], rate_hz=rate_hz)
    assert len(samples.samples) == pytest.approx(SAMPLE_RATE_HZ, abs=5)
    expected = tone(300, rate_hz=SAMPLE_RATE_HZ, seconds=seconds)
    assert np.abs(samples.samples[2000:14_000] - expected[2000:14_000]).max() < 0.01
