"""Audio: files to the sample or refused, windows where they are asked for, pictures that show what sounds."""

from __future__ import annotations

import struct
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from kit import audio
from kit.offline.errors import AudioError, RecipeError
from tests.sounds import write_aiff

SOUND = audio.Sound(rate=8000, seconds=0.5, fft=256, hop=64, bands=32, low=60)
RATE = 8000


def whole(count: int, channels: int = 1, bits: int = 16, seed: int = 0) -> np.ndarray:
    """Samples of that many bits, extremes among them."""
    top = 2 ** (bits - 1)
    samples = np.random.RandomState(seed).randint(-top, top, (count, channels))
    samples[:2] = [[-top] * channels, [top - 1] * channels]
    return samples


def sine(hertz: float, seconds: float = 0.5, loud: float = 1.0, rate: int = RATE) -> np.ndarray:
    """float32 in -1..1."""
    return (loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(-9000, 9000, length).astype(np.int16)


# Files


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_16_bit_wav_is_read_to_the_sample(tmp_path, channels):
    """WAV of 16 bits comes back as its very int16 samples, any number of channels, at its rate."""
    samples = whole(101, channels).astype(np.int16)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((channels, 2, 11025, len(samples), "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    found, rate = audio.decode(tmp_path / "a.wav")
    assert found.dtype == np.int16 and rate == 11025
    assert (found == samples).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_other_wav_samples_keep_their_scale(tmp_path, dtype):
    """8 bits become int16; 32 bits and floats become float32 in -1..1 (scipy writes the files)."""
    shape = np.array([-1.0, -0.5, 0.0, 0.25, 0.5])
    samples = {
        np.uint8: (shape * 128 + 128).astype(np.uint8),
        np.int32: (shape * 2**31).astype(np.int32),
        np.float32: shape.astype(np.float32),
        np.float64: shape,
    }[dtype]
    wavfile.write(tmp_path / "a.wav", RATE, samples)
    found, _ = audio.decode(tmp_path / "a.wav")
    assert found.dtype == (np.int16 if dtype is np.uint8 else np.float32)
    assert np.allclose(found[:, 0] / (32768 if found.dtype == np.int16 else 1), shape, atol=1e-6)


def test_24_bit_wav_keeps_its_scale(tmp_path):
    """Three bytes a sample, negative ones too."""
    samples = whole(50, bits=24)[:, 0]
    raw = samples.astype("<i4").tobytes()
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 3, RATE, len(samples), "NONE", ""))
        file.writeframes(b"".join(raw[at : at + 3] for at in range(0, len(raw), 4)))
    found, _ = audio.decode(tmp_path / "a.wav")
    assert np.allclose(found[:, 0], samples / 2**23, atol=1e-7)


@pytest.mark.parametrize("kind", [b"", b"NONE", b"sowt"])
@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2])
def test_aiff_is_read_to_the_sample(tmp_path, kind, bits, channels):
    """AIFF and AIFC of either byte order, odd chunks between, as the samples that were written."""
    samples = whole(33, channels, bits)
    write_aiff(tmp_path / "a.aif", samples, 2000, bits, kind)
    found, rate = audio.decode(tmp_path / "a.aif")
    assert rate == 2000 and found.shape == samples.shape
    if bits <= 16:
        assert found.dtype == np.int16
        assert (found == samples * 2 ** (16 - bits)).all()
    else:
        assert np.allclose(found, samples / 2.0 ** (bits - 1), atol=1e-7)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the standard library has no aifc any more")
@pytest.mark.filterwarnings("ignore:'aifc' is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:'audioop' is deprecated:DeprecationWarning")
def test_aiff_agrees_with_the_standard_library(tmp_path):
    """What Python's own writer, gone since 3.13, writes is read as it was meant."""
    import aifc

    samples = whole(77)
    with aifc.open(str(tmp_path / "a.aiff"), "wb") as file:
        file.aiff()
        file.setparams((1, 2, 44100, len(samples), b"NONE", b""))
        file.writeframes(samples.astype(">i2").tobytes())
    found, rate = audio.decode(tmp_path / "a.aiff")
    assert rate == 44100 and (found == samples).all()


def test_floats_in_aifc(tmp_path):
    """fl32 holds floats in -1..1."""
    write_aiff(tmp_path / "a.aifc", np.array([0.5, -0.25, 1.0]), 22050, 32, b"fl32")
    assert audio.decode(tmp_path / "a.aifc")[0][:, 0].tolist() == [0.5, -0.25, 1.0]


def test_formats_are_told_by_content(tmp_path):
    """A name does not make a format."""
    audio.write_wav(tmp_path / "a.ogg", noise(10), RATE)
    assert (audio.decode(tmp_path / "a.ogg")[0][:, 0] == noise(10)).all()


def make(path: Path) -> bytes:
    """A good file's bytes, of the format that the name says."""
    if path.suffix == ".wav":
        audio.write_wav(path, noise(50), RATE)
    else:
        write_aiff(path, noise(50), RATE)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.wav", "a.aif"])
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    """Every proper beginning of a file raises an AudioError that names it; no cut gives a shorter sound."""
    content = make(tmp_path / name)
    for length in range(4, len(content)):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(AudioError, match=name):
            audio.decode(tmp_path / name)


@pytest.mark.parametrize("name", ["a.wav", "a.aif"])
def test_damage_never_raises_anything_else(tmp_path, name):
    """A file with changed bytes is read or refused with an AudioError."""
    content, draw = make(tmp_path / name), np.random.RandomState(0)
    for _ in range(600):
        damaged = bytearray(content)
        for at in draw.randint(4, 60, draw.randint(1, 4)):
            damaged[at] = draw.randint(256)
        (tmp_path / name).write_bytes(bytes(damaged))
        try:
            audio.decode(tmp_path / name)
        except AudioError:
            continue


def test_what_is_no_sound_is_refused(tmp_path):
    """No file, no samples, samples without a value, an unknown compression: each is said."""
    with pytest.raises(AudioError, match="no such file"):
        audio.decode(tmp_path / "gone.wav")
    audio.write_wav(tmp_path / "a.wav", noise(0), RATE)
    with pytest.raises(AudioError, match="no samples"):
        audio.decode(tmp_path / "a.wav")
    wavfile.write(tmp_path / "b.wav", RATE, np.array([0.0, np.nan], np.float32))
    with pytest.raises(AudioError, match="not finite"):
        audio.decode(tmp_path / "b.wav")
    write_aiff(tmp_path / "c.aif", noise(8), RATE, 16, b"ulaw")
    with pytest.raises(AudioError, match="ulaw"):
        audio.decode(tmp_path / "c.aif")


def test_a_frame_count_that_lies_is_refused(tmp_path):
    """An AIFF header that promises other frames than there are is damage."""
    content = bytearray(make(tmp_path / "a.aif"))
    at = content.index(b"COMM") + 10
    content[at : at + 4] = struct.pack(">L", 49)
    (tmp_path / "a.aif").write_bytes(bytes(content))
    with pytest.raises(AudioError, match="50 of 49 frames"):
        audio.decode(tmp_path / "a.aif")


def test_ogg_and_flac_are_read_by_soundfile(tmp_path):
    """OGG is int16 at its rate, and stops early where only its beginning is kept; FLAC of 24 bits is float32."""
    import soundfile

    tone = sine(440, 3.0, 0.5, 32000)
    soundfile.write(str(tmp_path / "a.ogg"), tone, 32000, format="OGG", subtype="VORBIS")
    found, rate = audio.decode(tmp_path / "a.ogg")
    assert rate == 32000 and found.dtype == np.int16 and abs(len(found) - len(tone)) < 2000
    assert np.abs(found[1000:90000, 0] / 32768 - tone[1000:90000]).max() < 0.05
    assert len(audio.decode(tmp_path / "a.ogg", keep=0.5)[0]) == 16000
    assert audio.seconds_of(tmp_path / "a.ogg") == pytest.approx(3.0, abs=0.05)
    soundfile.write(str(tmp_path / "a.flac"), tone, 32000, format="FLAC", subtype="PCM_24")
    assert audio.decode(tmp_path / "a.flac")[0].dtype == np.float32
    (tmp_path / "b.ogg").write_bytes((tmp_path / "a.ogg").read_bytes()[:40])
    for reader in (audio.decode, audio.seconds_of):
        with pytest.raises(AudioError, match=r"b\.ogg"):
            reader(tmp_path / "b.ogg")


def test_without_soundfile_the_error_says_what_to_install(tmp_path, monkeypatch):
    """OGG needs the package soundfile."""
    (tmp_path / "a.ogg").write_bytes(b"OggS" + bytes(60))
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(AudioError, match="pip install soundfile"):
        audio.decode(tmp_path / "a.ogg")


# Waveforms


def test_written_files_come_back(tmp_path):
    """write_wav and Sound.read are inverse on int16; floats are clipped, not wrapped."""
    sound = noise(4000)
    audio.write_wav(tmp_path / "a.wav", sound, RATE)
    assert (SOUND.read(tmp_path, "a.wav") == sound).all()
    audio.write_wav(tmp_path / "b.wav", np.array([2.0, -2.0, 0.5], np.float32), RATE)
    assert SOUND.read(tmp_path, "b.wav").tolist() == [32767, -32768, 16384]
    assert audio.seconds_of(tmp_path / "a.wav") == 0.5


def test_keep_reads_the_beginning_unless_whole(tmp_path):
    """`keep` bounds what training files take of the cache; `whole` reads long test recordings all the same."""
    audio.write_wav(tmp_path / "a.wav", noise(4000), RATE)
    kept = SOUND.of({"keep": 0.1})
    assert (kept.read(tmp_path, "a.wav") == noise(4000)[:800]).all()
    assert len(kept.read(tmp_path, "a.wav", whole=True)) == 4000


def test_channels_are_averaged():
    """The mean, rounded, in the same dtype and without overflow."""
    two = np.array([[30000, 30001], [-32768, -32768], [1, 2]], np.int16)
    assert audio.mono(two).dtype == np.int16
    assert audio.mono(two).tolist() == [30000, -32768, 2]


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 8000), (8000, 22050), (16000, 8000)])
def test_resampling_keeps_a_tone_where_it_is(rate, wanted):
    """A tone below half of both rates keeps its pitch, its loudness and its dtype; the length is the new rate's."""
    tone = (sine(440, 1.0, 0.5, rate) * 32767).astype(np.int16)
    moved = audio.resampled(tone, rate, wanted)
    assert moved.dtype == np.int16 and abs(len(moved) - wanted) <= 1
    spectrum = np.abs(np.fft.rfft(moved[:wanted] / 32767, wanted))
    assert spectrum.argmax() == 440
    assert spectrum.max() / (wanted / 2) == pytest.approx(0.5, rel=0.02)


def test_resampling_removes_what_the_new_rate_cannot_hold():
    """A tone above half the new rate vanishes and does not come back lower (aliasing)."""
    assert np.abs(audio.resampled(sine(7000, 1.0, 0.5, 16000), 16000, 8000)[200:-200]).max() < 0.005
    assert audio.resampled(noise(9), 8000, 8000) is not None


@pytest.mark.parametrize("start", [-5000, -3, 0, 2, 97, 5000])
def test_windows_are_silent_outside_the_waveform(start):
    """Sample for sample what lies there, zero before and after, in -1..1."""
    sound = noise(100)
    wanted = [sound[start + at] / 32768 if 0 <= start + at < 100 else 0.0 for at in range(10)]
    cut = audio.window(sound, start, 10)
    assert cut.dtype == np.float32
    assert np.allclose(cut, wanted)


# Pictures


def test_a_tone_lights_its_band():
    """The brightest band holds the tone's pitch; bands run from low to high, and all values are in 0..1."""
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([60, 4000]) / 700)), 34) / 2595) - 1)
    for hertz in (150, 700, 1500, 3300):
        picture = SOUND.picture(sine(hertz))
        assert picture.shape == (32, 4000 // 64 + 1, 1) and picture.dtype == np.float32
        assert picture.min() >= 0 and picture.max() <= 1
        band = int(picture.mean(axis=(1, 2)).argmax())
        assert edges[band] <= hertz <= edges[band + 2]


def test_loudness_is_kept_or_not_as_asked():
    """With a fixed top a fainter sound is darker by its decibels; relative to its own loudest cell it is the same."""
    loud, faint = sine(1000, loud=0.5), sine(1000, loud=0.05)
    fixed = SOUND.of({"top": 0.0, "span": 100.0})
    difference = fixed.picture(loud).max() - fixed.picture(faint).max()
    assert difference == pytest.approx(20 / 100, abs=1e-3)
    assert fixed.picture(sine(1000)).max() == pytest.approx(1.0, abs=0.03)
    assert np.allclose(SOUND.picture(loud), SOUND.picture(faint), atol=0.02)


def test_silence_is_black():
    """A silent window is dark under either scale, and finite."""
    assert SOUND.picture(np.zeros(4000, np.int16)).max() == 0
    assert SOUND.of({"top": 0.0}).picture(np.zeros(4000, np.int16)).max() == 0


def test_mel_filters_cover_the_spectrum_evenly():
    """Inside the range the triangles add up to one at every bin; peaks rise in order; settings that fail say why."""
    filters = audio.mel_filters(8000, 1024, 32, 100.0, 3500.0).toarray()
    bins = np.arange(513) * 8000 / 1024
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([100, 3500]) / 700)), 34) / 2595) - 1)
    inside = (bins >= edges[1]) & (bins <= edges[-2])
    assert np.allclose(filters[:, inside].sum(axis=0), 1, atol=1e-6)
    assert (filters[:, (bins < 100) | (bins > 3500)] == 0).all()
    assert (np.diff(filters.argmax(axis=1)) > 0).all()
    with pytest.raises(RecipeError, match="raise fft"):
        SOUND.of({"fft": 64, "bands": 60}).picture(sine(500))
    with pytest.raises(RecipeError, match="half the rate"):
        SOUND.of({"high": 5000.0}).picture(sine(500))


def test_a_misspelt_setting_names_the_nearest():
    """A recipe's `read` is strict; what it states replaces the adapter's setting, and nothing else."""
    with pytest.raises(RecipeError, match="did you mean 'bands'"):
        SOUND.of({"band": 64})
    assert SOUND.of({"bands": 48}).bands == 48 and SOUND.of({"bands": 48}).fft == SOUND.fft
    assert SOUND.of({}) is SOUND


def test_evaluation_stands_still_and_training_moves():
    """Without rng: the window asked for or the middle one, always the same. With it: another, by its seed."""
    sound = noise(16000)
    assert np.array_equal(SOUND.picture(sound), SOUND.picture(sound, start=6000 / RATE))
    assert not np.array_equal(SOUND.picture(sound), SOUND.picture(sound, start=0.0))
    draws = [SOUND.picture(sound, rng=np.random.default_rng(seed)) for seed in (1, 2, 1)]
    assert np.array_equal(draws[0], draws[2]) and not np.array_equal(draws[0], draws[1])
    short = [SOUND.picture(noise(900), rng=np.random.default_rng(seed)) for seed in (1, 2)]
    assert not np.array_equal(*short), "a sound shorter than its window lies anywhere in it"


def test_evaluation_knows_no_disturbance():
    """Gain, noise and overlaid windows are for training alone."""
    wild = SOUND.of({"gain": 12.0, "noise": 0.0, "mix": 1.0})
    assert np.array_equal(wild.picture(noise(9000)), SOUND.picture(noise(9000)))


def test_noise_has_the_ratio_asked_for():
    """White noise at a signal-to-noise ratio in decibels; silence stays silent."""
    tone = sine(500, 4.0, 0.5)
    added = audio.noisy(tone, 10.0, np.random.default_rng(0)) - tone
    assert 10 * np.log10(np.mean(tone**2) / np.mean(added**2)) == pytest.approx(10, abs=0.2)
    assert (audio.noisy(np.zeros(50, np.float32), 10.0, np.random.default_rng(0)) == 0).all()


def test_overlaid_windows_show_both():
    """`mix` lays another window of the same sound over the first: a file of two tones shows both at once."""
    sound = np.concatenate([sine(500, 0.5), sine(3000, 0.5)])
    mixing = SOUND.of({"mix": 1.0, "top": 0.0})
    bright = [mixing.picture(sound, start=0.0, rng=np.random.default_rng(seed)).max(axis=(1, 2)) for seed in range(9)]
    plain = SOUND.of({"top": 0.0}).picture(sound, start=0.0).max(axis=(1, 2))
    high = slice(24, 32)
    assert plain[high].max() < 0.7 < max(one[high].max() for one in bright)
    assert audio.mixed(np.ones(3, np.float32), np.zeros(3, np.float32), 0.25).tolist() == [0.25] * 3
