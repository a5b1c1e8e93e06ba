"""Audio: one strict way from a sound file to the picture a network sees.

An adapter's `read` gives the waveform once (`Sound.read`), which the cache keeps; its `cut` draws a window of it and
makes the picture (`Sound.picture`). So windows, noise and gain change from draw to draw and cost no second decoding.
"""

from __future__ import annotations

import struct
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.fft import rfft
from scipy.signal import get_window, resample_poly
from scipy.sparse import csr_array

from kit.offline.errors import AudioError, RecipeError, did_you_mean

INT16 = 32768
"""Full scale of 16-bit samples."""
SILENCE = 1e-16
"""Power under which a sound is silent, so that its decibels are finite."""
FAINT = -80.0
"""Decibels of the loudest cell under which a window shows as dark as it is: silence is black, not white."""
WIDTHS = {1: (8, 16, 24, 32), 3: (32, 64)}
"""Bits a sample by WAV's format number: whole numbers, floating point."""


@dataclass(frozen=True)
class Sound:
    """How a waveform is read and shown. An adapter states its own; a recipe's `read` overrides settings by name.

    rate: samples a second after resampling. seconds: length of a window. keep: seconds of a file that are read, from
    its start; None reads all. fft, hop: samples of a frame and between two frames. bands: mel bands, the picture's
    height. low, high: hertz; high None is half the rate. span: decibels from black to white. top: decibels that are
    white, about 0 for a sine at full scale; None takes each window's loudest cell.

    In training alone: gain: decibels up or down at most. noise: signal-to-noise ratio in decibels of the loudest white
    noise that half of the windows get (drawn up to 30 dB fainter); None adds none. mix: chance that another window of
    the same file is laid over the first, which keeps labels of whole files true. Recipe.mixup mixes files.
    """

    rate: int
    seconds: float
    keep: float | None = None
    fft: int = 512
    hop: int = 128
    bands: int = 64
    low: float = 0.0
    high: float | None = None
    span: float = 80.0
    top: float | None = None
    gain: float = 0.0
    noise: float | None = None
    mix: float = 0.0

    def of(self, how: Mapping[str, Any]) -> Self:
        """These settings with a recipe's. Raises RecipeError with the nearest name for one that is not there."""
        known = [field.name for field in fields(self)]
        for name in how:
            if name not in known:
                raise RecipeError("settings of Sound in the recipe's `read`", repr(name), did_you_mean(name, known))
        return replace(self, **how) if how else self

    @property
    def length(self) -> int:
        """Samples of a window."""
        return round(self.seconds * self.rate)

    def read(self, data: Path, name: str, whole: bool = False) -> np.ndarray:
        """`data/name` as a 1-D waveform at `rate`: int16 from files of up to 16 bits, else float32 in -1..1.

        Channels are averaged. whole: read all, whatever `keep` says (long test recordings with many windows). Raises
        AudioError for a file that is missing, damaged or without samples, and for WAV, AIFF and FLAC that are cut off;
        half an OGG or MP3 reads as a shorter sound.
        """
        keep = None if whole else self.keep
        samples, rate = decode(data / name, keep)
        samples = samples if keep is None else samples[: round(keep * rate)]
        return resampled(mono(samples), rate, self.rate)

    def picture(
        self, waveform: np.ndarray, start: float | None = None, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """bands x frames x 1 float32 in 0..1, lowest band first: the log-mel spectrogram of one window of a waveform.

        start: second at which the window begins; None is its middle in evaluation, anywhere in training (`rng`). What
        lies outside the waveform is silent.
        """
        sound = self._window(waveform, start, rng)
        return self.log_mel(sound if rng is None else self._disturbed(waveform, sound, rng))

    def _window(self, waveform: np.ndarray, start: float | None, rng: np.random.Generator | None) -> np.ndarray:
        spare = len(waveform) - self.length
        if start is not None:
            return window(waveform, round(start * self.rate), self.length)
        at = spare // 2 if rng is None else int(rng.integers(min(0, spare), max(0, spare) + 1))
        return window(waveform, at, self.length)

    def _disturbed(self, waveform: np.ndarray, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.mix and rng.random() < self.mix:
            sound = mixed(sound, self._window(waveform, None, rng), rng.uniform(0.3, 0.7))
        if self.noise is not None and rng.random() < 0.5:
            sound = noisy(sound, rng.uniform(self.noise, self.noise + 30), rng)
        return sound * np.float32(10 ** (rng.uniform(-self.gain, self.gain) / 20)) if self.gain else sound

    def log_mel(self, sound: np.ndarray) -> np.ndarray:
        """bands x frames x 1 float32 in 0..1 of a float32 waveform in -1..1. Frames are centred, its ends silent."""
        shape = get_window("hann", self.fft).astype(np.float32)
        framed = np.lib.stride_tricks.sliding_window_view(np.pad(sound, self.fft // 2), self.fft)[:: self.hop]
        waves = rfft(framed * shape, axis=1) / (shape.sum() / 2)
        power = np.square(waves.real) + np.square(waves.imag)
        mel = mel_filters(self.rate, self.fft, self.bands, self.low, self.high or self.rate / 2) @ power.T
        decibels = 10 * np.log10(np.maximum(mel, SILENCE))
        top = max(FAINT, decibels.max()) if self.top is None else self.top
        return ((decibels - top) / self.span + 1).clip(0, 1).astype(np.float32)[:, :, None]


def window(waveform: np.ndarray, start: int, length: int) -> np.ndarray:
    """`length` samples from `start` on as float32 in -1..1, silent before and after the waveform."""
    inside = waveform[max(0, start) : max(0, start + length)]
    before = min(length, max(0, -start))
    sound = np.zeros(length, np.float32)
    sound[before : before + len(inside)] = inside
    return sound / INT16 if waveform.dtype == np.int16 else sound


def mixed(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Two float32 waveforms of one length laid over each other, `share` of the first."""
    return np.float32(share) * one + np.float32(1 - share) * other


def noisy(sound: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """A float32 waveform with white noise at a signal-to-noise ratio in decibels."""
    power = float(np.mean(np.square(sound, dtype=np.float64)))
    scale = np.float32(np.sqrt(power / 10 ** (ratio / 10)))
    return sound + scale * rng.standard_normal(len(sound), np.float32)


def mono(samples: np.ndarray) -> np.ndarray:
    """N x channels samples -> N, their mean in the same dtype."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    mean = samples.mean(axis=1, dtype=np.float64)
    return (mean.round() if samples.dtype == np.int16 else mean).astype(samples.dtype)


def resampled(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """A waveform at another rate, in the same dtype, by scipy's polyphase filter (no aliasing)."""
    if rate == wanted:
        return waveform
    common = gcd(rate, wanted)
    moved = resample_poly(waveform.astype(np.float32), wanted // common, rate // common)
    if waveform.dtype == np.int16:
        return moved.round().clip(-INT16, INT16 - 1).astype(np.int16)
    return moved.astype(np.float32)


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


@lru_cache(maxsize=8)
def mel_filters(rate: int, fft: int, bands: int, low: float, high: float) -> csr_array:
    """bands x (fft // 2 + 1) float32, sparse: triangles evenly spaced in mel (2595 log10(1 + f / 700)), peaks of one.

    Raises RecipeError where a band is narrower than the distance of two bins, and would be empty.
    """
    if not 0 <= low < high <= rate / 2:
        raise RecipeError(
            f"0 <= low < high <= {rate / 2:g} hertz, half the rate", f"low={low:g}, high={high:g}", "mend `read`"
        )
    mels = np.linspace(_mel(low), _mel(high), bands + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = np.arange(fft // 2 + 1) * rate / fft
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    filters = np.minimum(rising, falling).clip(0)
    empty = int((filters.sum(axis=1) == 0).sum())
    if empty:
        raise RecipeError(
            f"bins of {rate / fft:.3g} hertz in every one of {bands} mel bands from {low:g} to {high:g} hertz",
            f"none in {empty} of them",
            "raise fft, lower bands, or raise low in the recipe's `read`",
        )
    return csr_array(filters.astype(np.float32))


# Files


def decode(path: Path, keep: float | None = None) -> tuple[np.ndarray, int]:
    """(N x channels samples, samples a second) of a file: int16 for up to 16 bits, else float32 in -1..1.

    WAV and AIFF are read here, told by their first bytes; all else (OGG, FLAC, MP3) by soundfile, which Kaggle's image
    has. keep: seconds that need decoding, where the format can stop early. Raises AudioError.
    """
    if not path.is_file():
        raise _bad(path, "no such file")
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] in (b"RIFF", b"FORM"):
        wav = head[:4] == b"RIFF"
        samples, rate = (_wav if wav else _aiff)(path, _chunks(path, path.read_bytes(), "<" if wav else ">"))
    else:
        samples, rate = _by_soundfile(path, keep)
    if not len(samples) or not np.isfinite(samples).all():
        raise _bad(path, "samples that are not finite" if len(samples) else "no samples")
    return samples, rate


def write_wav(path: Path, waveform: np.ndarray, rate: int) -> None:
    """Write a 1-D waveform, int16 or float32 in -1..1, as a WAV file of 16 bits."""
    if waveform.dtype != np.int16:
        waveform = (waveform * INT16).round().clip(-INT16, INT16 - 1).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, len(waveform), "NONE", ""))
        file.writeframes(waveform.astype("<i2").tobytes())


def seconds_of(path: Path) -> float:
    """Length of a file in seconds, decoded only where its header does not tell."""
    with path.open("rb") as file:
        own = file.read(4) in (b"RIFF", b"FORM")
    if own:
        samples, rate = decode(path)
        return len(samples) / rate
    try:
        return float(_soundfile(path).info(str(path)).duration)
    except RuntimeError as error:
        raise _bad(path, str(error)) from None


def _bad(path: Path, found: str) -> AudioError:
    size = path.stat().st_size if path.is_file() else 0
    return AudioError(f"a whole sound file {path}", f"{found} ({size} bytes)", "download it again, or drop its row")


def _chunks(path: Path, content: bytes, order: str) -> dict[bytes, bytes]:
    """The chunks of a RIFF or IFF file by name, the first of each; one that runs past the file is refused."""
    return dict(reversed(list(_each_chunk(path, content, order))))


def _each_chunk(path: Path, content: bytes, order: str) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from(f"{order}4sL", content, at)
        if at + 8 + size > len(content):
            raise _bad(
                path, f"a chunk {name.decode('latin-1')!r} of {size} bytes, {len(content) - at - 8} of them there"
            )
        yield name, content[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _wav(path: Path, chunks: Mapping[bytes, bytes]) -> tuple[np.ndarray, int]:
    head = chunks.get(b"fmt ", b"")
    if len(head) < 16 or b"data" not in chunks:
        raise _bad(path, "a WAV file without its chunks 'fmt ' and 'data'")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHLLHH", head)
    if kind == 0xFFFE and len(head) >= 26:  # the extensible form names the real one here
        kind = struct.unpack_from("<H", head, 24)[0]
    if bits not in WIDTHS.get(kind, ()) or not channels or not rate:
        raise _bad(path, f"WAV format {kind} of {bits} bits, {channels} channels, {rate} Hz")
    return _samples(path, chunks[b"data"], channels, bits, "<", real=kind == 3, unsigned=bits == 8), rate


def _aiff(path: Path, chunks: Mapping[bytes, bytes]) -> tuple[np.ndarray, int]:
    head = chunks.get(b"COMM", b"")
    if len(head) < 18 or len(chunks.get(b"SSND", b"")) < 8:
        raise _bad(path, "an AIFF file without its chunks 'COMM' and 'SSND'")
    channels, frames, bits, power, fraction = struct.unpack_from(">HLHHQ", head)
    rate = fraction * 2.0 ** (power - 16383 - 63) if power < 16383 + 32 else 0.0  # an 80-bit float
    form = {b"": (">", False), b"NONE": (">", False), b"sowt": ("<", False), b"fl32": (">", True), b"FL32": (">", True)}
    kind = head[18:22]
    if kind not in form or bits not in WIDTHS[3 if form[kind][1] else 1] or not channels or rate < 1:
        raise _bad(path, f"AIFF compression {kind!r} of {bits} bits, {channels} channels, {rate:g} Hz")
    order, real = form[kind]
    sound = chunks[b"SSND"]
    samples = _samples(path, sound[8 + struct.unpack_from(">L", sound)[0] :], channels, bits, order, real)
    if len(samples) != frames:
        raise _bad(path, f"{len(samples)} of {frames} frames")
    return samples, round(rate)


def _samples(
    path: Path, raw: bytes, channels: int, bits: int, order: str, real: bool, unsigned: bool = False
) -> np.ndarray:
    """Packed samples as N x channels: int16 for up to 16 bits, else float32 in -1..1."""
    width = bits // 8
    if len(raw) % (width * channels):
        raise _bad(path, f"{len(raw)} bytes of samples, no multiple of {width * channels}")
    if real:
        values: np.ndarray = np.frombuffer(raw, f"{order}f{width}").astype(np.float32)
    elif width == 1:
        values = (np.frombuffer(raw, np.uint8) ^ (128 if unsigned else 0)).view(np.int8).astype(np.int16) * 256
    elif width == 2:
        values = np.frombuffer(raw, f"{order}i2").astype(np.int16)
    else:
        packed = np.frombuffer(raw, np.uint8).reshape(-1, width)
        big = packed if order == ">" else packed[:, ::-1]
        whole = np.concatenate([big, np.zeros((len(big), 4 - width), np.uint8)], axis=1)
        values = (np.ascontiguousarray(whole).view(">i4")[:, 0] / 2.0**31).astype(np.float32)
    return values.reshape(-1, channels)


def _by_soundfile(path: Path, keep: float | None) -> tuple[np.ndarray, int]:
    soundfile = _soundfile(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            frames = -1 if keep is None else round(keep * file.samplerate)
            exact = file.subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")
            return file.read(frames, dtype="float32" if exact else "int16", always_2d=True), int(file.samplerate)
    except RuntimeError as error:  # soundfile's own errors are RuntimeErrors
        raise _bad(path, str(error)) from None


def _soundfile(path: Path) -> Any:
    try:
        import soundfile
    except ImportError:
        raise AudioError(
            f"the package soundfile, to read {path.name}", "it is not installed", "pip install soundfile"
        ) from None
    return soundfile
