"""Sounds for fake worlds: tones that a small network can tell apart, and AIFF files as right_whale has them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def tones(pitches: list[float], seconds: float, rate: int, draw: np.random.RandomState) -> np.ndarray:
    """int16: a sum of sines in noise, at a loudness of its own."""
    time = np.arange(round(seconds * rate)) / rate
    sound = sum((np.sin(2 * np.pi * (pitch * time + draw.rand())) for pitch in pitches), np.zeros(len(time)))
    loud = (sound + draw.normal(0, 0.2, len(time))) * draw.uniform(1500, 4000)
    return loud.clip(-32768, 32767).astype(np.int16)


def write_aiff(path: Path, samples: np.ndarray, rate: int, bits: int = 16, kind: bytes = b"") -> None:
    """N or N x channels whole numbers of `bits` as AIFF, or as AIFC with a compression type (NONE, sowt, fl32)."""
    table = samples.reshape(len(samples), -1)
    order = "<" if kind == b"sowt" else ">"
    if kind == b"fl32":
        raw = table.astype(">f4").tobytes()
    else:
        whole = table.astype(f"{order}i4").tobytes()
        keep = slice(4 - bits // 8, 4) if order == ">" else slice(0, bits // 8)
        raw = np.frombuffer(whole, np.uint8).reshape(-1, 4)[:, keep].tobytes()
    power = rate.bit_length() - 1
    extended = struct.pack(">HQ", 16383 + power, rate << (63 - power))
    common = struct.pack(">HLH", table.shape[1], len(table), bits) + extended
    chunks = [(b"COMM", common + (kind + b"\0\0" if kind else b"")), (b"ANNO", b"odd"), (b"SSND", bytes(8) + raw)]
    body = (b"AIFC" if kind else b"AIFF") + b"".join(
        struct.pack(">4sL", name, len(content)) + content + bytes(len(content) % 2) for name, content in chunks
    )
    path.write_bytes(b"FORM" + struct.pack(">L", len(body)) + body)
