"""kit/offline/pixels.py"""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from kit.offline import pixels
from kit.offline.errors import DataError, ImageError
from kit.offline.pixels import Preparation, decode_jpeg, encode_jpeg, read_gray16, read_rgb

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def noise(height, width, channels=3, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    return (np.random.default_rng(seed).random((height, width, channels)) * top).astype(dtype)


def smooth(height, width):
    """A picture that JPEG and resizing keep: its left is dark, its top is red."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 - 255 * y / height, 255 * x / width, np.full(y.shape, 128)], axis=2).astype(np.uint8)


def encoded(image, form, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, form, **options)
    return buffer.getvalue()


def read(tmp_path, content: bytes, name="image"):
    (tmp_path / name).write_bytes(content)
    return read_rgb(tmp_path, name)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_lossless_files_give_their_pixels(tmp_path, form):
    """RGB order, every pixel exact, uint8, for each lossless format."""
    image = noise(5, 7)
    options = {"lossless": True} if form == "WEBP" else {}
    got = read(tmp_path, encoded(image, form, **options))
    assert got.dtype == np.uint8
    assert (got == image).all()


def test_the_content_counts_and_not_the_name(tmp_path):
    """A PNG that is called .jpg is read as the PNG it is."""
    image = noise(5, 7)
    assert (read(tmp_path, encoded(image, "PNG"), "wrong.jpg") == image).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, form, turn):
    """Each of the eight orientations shows the picture upright, in every format that can say so."""
    upright = smooth(32, 48)
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    got = read(tmp_path, encoded(np.ascontiguousarray(undo(upright)), form, exif=exif))
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright).mean() < 6


@pytest.mark.parametrize("cut", [1, 2, 50, 500, -20])
def test_a_truncated_jpeg_is_refused(tmp_path, cut):
    """Any missing end is an error that names the file and its size, where OpenCV returns grey; -20 keeps 20 bytes."""
    content = encoded(noise(40, 40), "JPEG")[:-cut]
    with pytest.raises(ImageError) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "image") in caught.value.expected
    assert f"({len(content)} bytes)" in caught.value.found


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"<html>404</html>"])
def test_what_is_no_image_is_refused(tmp_path, content):
    """Empty files, zeros and a web page saved as an image are errors that tell the size."""
    with pytest.raises(ImageError, match=f"{len(content)} bytes"):
        read(tmp_path, content)


def test_a_missing_file_says_so(tmp_path):
    """A path that is not there is an ImageError like any other, and a folder too."""
    with pytest.raises(ImageError, match="no such file"):
        read_rgb(tmp_path, "nothing.png")
    with pytest.raises(ImageError):
        read_rgb(tmp_path, ".")


@pytest.mark.parametrize(("chunk", "at"), [(b"IHDR", 12), (b"IHDR", 8), (b"IDAT", 40)])
def test_a_png_that_does_not_match_its_checksums_is_refused(tmp_path, chunk, at):
    """A flipped bit in the header, in its CRC or in the pixels is noticed."""
    content = bytearray(encoded(noise(20, 20), "PNG"))
    content[content.index(chunk) + 4 + at] ^= 1
    with pytest.raises(ImageError):
        read(tmp_path, bytes(content))


def test_damaged_exif_is_an_image_error(tmp_path):
    """Random damage in the first bytes of a JPEG ends in pixels or in ImageError, never in another exception."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    whole = encoded(noise(8, 8), "JPEG", exif=exif)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        content = bytearray(whole)
        for at in rng.integers(0, 90, 3):
            content[at] = rng.integers(0, 256)
        try:
            assert read(tmp_path, bytes(content)).dtype == np.uint8
        except ImageError:
            refused += 1
        except UserWarning:  # Pillow's word on EXIF that it skips; an error in tests alone
            pass
    assert refused > 100


def test_cmyk_becomes_rgb(tmp_path):
    """A CMYK JPEG of pure cyan reads as cyan."""
    got = read(tmp_path, encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"))
    assert np.abs(got.astype(int) - [0, 255, 255]).max() < 8


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_on_white(tmp_path, form):
    """Clear pixels are white whatever colour they hide, half clear ones are half white."""
    image = Image.new("RGBA", (2, 1))
    image.putdata([(0, 0, 0, 0), (200, 0, 0, 128)])
    got = read(tmp_path, encoded(image, form, **({"lossless": True, "exact": True} if form == "WEBP" else {})))
    assert got[0, 0].tolist() == [255, 255, 255]
    assert np.abs(got[0, 1].astype(int) - [227, 127, 127]).max() <= 1


def test_palettes_become_their_colours(tmp_path):
    """Palette indices are looked up; a clear palette entry is white."""
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert read(tmp_path, encoded(image, "PNG")).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert read(tmp_path, encoded(image, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [200, 100, 50]]]


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_becomes_three_equal_channels(tmp_path, mode):
    """Grey, one-bit and grey with alpha read as H x W x 3."""
    got = read(tmp_path, encoded(Image.fromarray(noise(6, 5)[:, :, 0]).convert(mode), "PNG"))
    assert got.shape == (6, 5, 3)
    assert (got == got[:, :, :1]).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_refused(tmp_path, suffix, channels):
    """16-bit images, in colour too, would be clipped or cut without a word; the adapter must say how they scale."""
    image = noise(6, 5, channels, np.uint16)
    content = cv2.imencode(suffix, image)[1].tobytes()
    with pytest.raises(ImageError, match="16-bit") as caught:
        read(tmp_path, content)
    assert "override read" in caught.value.fix


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("scale", [1, 255, 1000, 4095, 65535])
def test_sixteen_bits_are_read_by_a_declared_scale(tmp_path, suffix, scale):
    """Black is 0 and the scale is 65535 whatever the picture holds; each stored value has a level of its own."""
    values = np.linspace(0, scale, 48).round().astype(np.uint16).reshape(6, 8)
    for image in (values, values // 2):
        (tmp_path / "image").write_bytes(cv2.imencode(suffix, image)[1].tobytes())
        got = read_gray16(tmp_path, "image", scale)
        assert (got.dtype, got.shape) == (np.uint16, (6, 8))
        assert (np.round(got.astype(float) / 65535 * scale) == image).all()
    assert (read_gray16(tmp_path, "image", scale) == got).all()


def test_what_the_declared_scale_does_not_cover_is_refused(tmp_path):
    """A value above the scale, colour, floats and a damaged file are errors; 8-bit grey is read by its values."""
    (tmp_path / "image").write_bytes(cv2.imencode(".png", np.array([[7, 4096]], np.uint16))[1].tobytes())
    with pytest.raises(ImageError, match="7 to 4096"):
        read_gray16(tmp_path, "image", 4095)
    for content in (encoded(noise(4, 4), "PNG"), encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")):
        (tmp_path / "image").write_bytes(content)
        with pytest.raises(ImageError, match="mode"):
            read_gray16(tmp_path, "image", 4095)
    whole = cv2.imencode(".png", noise(40, 40, 1, np.uint16))[1].tobytes()
    (tmp_path / "image").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="truncated"):
        read_gray16(tmp_path, "image", 65535)
    (tmp_path / "image").write_bytes(encoded(np.array([[0, 255]], np.uint8), "PNG"))
    assert read_gray16(tmp_path, "image", 255).tolist() == [[0, 65535]]


def test_float_images_are_refused(tmp_path):
    """A float TIFF has no scale of its own either."""
    with pytest.raises(ImageError, match="mode F"):
        read(tmp_path, encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))


def test_of_an_animation_the_first_frame_counts(tmp_path):
    """A GIF of a red and a blue frame reads red."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    got = read(tmp_path, encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert got.shape == (4, 4, 3)
    assert (got == [255, 0, 0]).all()


def test_one_pixel_is_an_image(tmp_path):
    """The smallest image is read, and fits any input size in every way."""
    got = read(tmp_path, encoded(np.full((1, 1, 3), 7, np.uint8), "PNG"))
    assert got.tolist() == [[[7, 7, 7]]]
    for fit in ("stretch", "pad", "crop"):
        assert (Preparation((8, 16), **HALF, fit=fit).fit_size(got)[3:5, 7:9] == 7).all()


@pytest.mark.parametrize("shape", [(1, 5000, 3), (5000, 1, 3)])
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_extreme_shapes_shrink_to_no_nothing(tmp_path, shape, fit):
    """A line of one pixel's width keeps at least a pixel in the cache and in every fit, under a name of any letters."""
    got = read(tmp_path, encoded(np.full(shape, 9, np.uint8), "PNG"), "ßチ 1.png")
    preparation = Preparation((16, 24), **HALF, fit=fit, cache_size=1)
    assert min(preparation.store(got).shape) >= 1
    assert 9 in preparation.fit_size(preparation.store(got))


@pytest.mark.parametrize(("form", "options"), [("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})])
def test_of_several_frames_or_pages_the_first_counts(tmp_path, form, options):
    """Animated WebP and PNG and a TIFF of two pages read as their first."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    got = read(tmp_path, encoded(frames[0], form, save_all=True, append_images=frames[1:], **options))
    assert (got == [255, 0, 0]).all()


def test_a_jpeg_with_garbage_inside_is_read_as_decoders_read_it(tmp_path):
    """No decoder notices altered bytes within a JPEG's data: it is read, wrong pixels and all."""
    content = bytearray(encoded(noise(64, 64), "JPEG", quality=95))
    for at in range(len(content) // 2, len(content) // 2 + 40):
        content[at] ^= 0x15 if content[at] ^ 0x15 != 0xFF else 0
    got = read(tmp_path, bytes(content))
    assert got.shape == (64, 64, 3)


@pytest.mark.parametrize("side", [10_001, 20_000, 60_000])
def test_a_huge_header_is_refused_without_decoding(tmp_path, side, monkeypatch):
    """A tiny file that declares 100 million pixels or more is refused from its header: no pixel is decoded."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    monkeypatch.setattr(pixels, "_to_rgb", lambda image: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"pixels"):
        read(tmp_path, content)


# Preparation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 13])
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_any_dtype_and_channels_fit_the_input(dtype, channels, fit):
    """Images of every cached dtype and channel count come out in the input's size and dtype, each channel alone."""
    preparation = Preparation((24, 16), (0.5,) * channels, (1.0,) * channels, fit=fit)
    for height, width in ((50, 31), (9, 12), (24, 16)):
        image = noise(height, width, channels, dtype)
        got = preparation.fit_size(image)
        assert (got.shape, got.dtype) == ((24, 16, channels), dtype)
        last = Preparation((24, 16), (0.5,), (1.0,), fit=fit).fit_size(image[:, :, -1:])
        np.testing.assert_allclose(got[:, :, -1:], last, atol=1 if np.issubdtype(dtype, np.integer) else 1e-3)


def test_a_bag_is_fitted_image_by_image():
    """N x H x W x C gives what its images give alone; a grey H x W gets its channel."""
    preparation = Preparation((8, 8), **HALF, fit="pad")
    bag = np.stack([noise(10, 14, seed=seed) for seed in range(3)])
    assert (preparation.fit_size(bag) == np.stack([preparation.fit_size(one) for one in bag])).all()
    assert preparation.fit_size(noise(10, 14)[:, :, 0]).shape == (8, 8, 1)


def test_pad_keeps_the_whole_image_between_grey_borders():
    """A wide image fills the width, its shape is kept, and borders take the mean, which normalises to zero."""
    preparation = Preparation((32, 32), **HALF, fit="pad")
    got = preparation.fit_size(np.full((10, 20, 3), 255, np.uint8))
    assert (got[8:24] == 255).all()
    assert (got[:8] == 127).all()
    assert (got[24:] == 127).all()
    assert abs(preparation.to_input(torch.from_numpy(got[None]))[0, :, :8]).max() < 0.01


def test_crop_takes_the_centre():
    """Of a wide image the sides are left out: a picture of three parts shows the middle one."""
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200
    assert (Preparation((20, 20), **HALF, fit="crop").fit_size(image)[:, 1:-1] == 200).all()


@pytest.mark.parametrize("shape", [(40, 40), (40, 80), (100, 40)])
def test_crop_of_a_half_shows_the_middle_half(shape):
    """The input's side is that share of the resized image's shorter one: half of it and, of the longer, as much."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    image = np.stack([y, x, x], axis=2).astype(np.float32)
    shorter = min(shape)
    got = Preparation((20, 20), **HALF, fit="crop", crop=0.5).fit_size(image)
    middle = image[tuple(slice((side - shorter // 2) // 2, (side + shorter // 2) // 2) for side in shape)]
    assert got.shape == (20, 20, 3)
    np.testing.assert_allclose(got, middle, atol=0.01)
    whole = Preparation((20, 20), **HALF, fit="crop", crop=1.0).fit_size(image)
    assert np.ptp(whole[:, :, 0]) > 1.8 * np.ptp(got[:, :, 0])
    for fit in ("stretch", "pad"):
        plain, cropped = (Preparation((20, 20), **HALF, fit=fit, crop=crop).fit_size(image) for crop in (1.0, 0.5))
        assert (plain == cropped).all(), "the share is that of a crop alone"


def test_images_are_enlarged_by_the_interpolation_asked_for():
    """Bicubic and bilinear enlarge as OpenCV's do; shrinking averages areas with both, and masks stay nearest."""
    image = noise(12, 9)
    for fit in ("stretch", "crop", "pad"):
        shown = {how: Preparation((36, 27), **HALF, fit=fit, interpolation=how) for how in ("bilinear", "bicubic")}
        for how, flag in (("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC)):
            assert (shown[how].fit_size(image) == cv2.resize(image, (27, 36), interpolation=flag)).all()
        large = noise(72, 54)
        assert (shown["bicubic"].fit_size(large) == shown["bilinear"].fit_size(large)).all()
        assert (shown["bicubic"].fit_size(image, nearest=True) == shown["bilinear"].fit_size(image, nearest=True)).all()


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.int32, np.int64, np.float32])
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_masks_keep_their_labels(dtype, fit):
    """Nearest invents no label, whatever the dtype of the mask, and pads with background."""
    mask = (noise(37, 23, 1) > 128).astype(dtype) * np.array(1 if dtype is bool else 7, dtype)
    got = Preparation((16, 48), **HALF, fit=fit).fit_size(mask, nearest=True)
    assert got.dtype == mask.dtype
    assert set(np.unique(got)) == set(np.unique(mask))


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(24, 40), (100, 90)])
def test_a_mask_lies_where_its_image_lies(fit, size):
    """Nearest and smooth resizing are aligned: an image of two halves and its mask agree away from the edge."""
    image = np.zeros((61, 83, 3), np.uint8)
    image[30:, 40:] = 255
    preparation = Preparation(size, **HALF, fit=fit)
    grown, mask = preparation.fit_size(image), preparation.fit_size(image, nearest=True)
    sure = (grown == 0) | (grown == 255)
    assert sure.mean() > (0.6 if fit == "pad" else 0.9)
    assert (grown[sure] == mask[sure]).all()
    edge = grown.astype(int) - mask
    assert abs(edge[sure | (grown != 127)].mean()) < 3  # a shift by half a pixel would lean to one side


SHAPES = [(30, 40), (40, 30), (64, 64), (17, 200), (333, 7), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grid", [1, 4, 3])
def test_unfit_undoes_pad(shape, grid):
    """What the network says of a padded image, cut to the image: ones inside, no trace of the border's zeros."""
    preparation = Preparation((48, 48), **HALF, fit="pad")
    inside = preparation.fit_size(np.ones((*shape, 1), np.uint8), nearest=True)
    whole = preparation.unfit(inside.transpose(2, 0, 1).astype(np.float32), *shape)
    assert (whole == 1).all()
    coarse = preparation.unfit(np.ones((2, 48 // grid, 48 // grid), np.float32), *shape)
    assert coarse.shape[0] == 2
    assert min(coarse.shape) >= 1
    assert abs(coarse.shape[1] * shape[1] - coarse.shape[2] * shape[0]) <= 2 * max(shape)  # the shape, but for rounding


@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.parametrize("grid", [1, 4, 3])
@pytest.mark.parametrize("crop", [1.0, 0.875])
def test_unfit_undoes_crop(shape, grid, crop):
    """The centre that the network saw is back in the centre, and what it did not see is 0."""
    preparation = Preparation((48, 48), **HALF, fit="crop", crop=crop)
    back = preparation.unfit(np.ones((1, 48 // grid, 48 // grid), np.float32), *shape)[0]
    rows, columns = np.flatnonzero(back.any(axis=1)), np.flatnonzero(back.any(axis=0))
    assert back[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert back.sum() == 48**2  # on the grid of the input, however coarse the network
    assert back.shape[0] / back.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.1)
    for seen, length in ((rows, back.shape[0]), (columns, back.shape[1])):
        assert abs(seen[0] - (length - 1 - seen[-1])) <= 1


def test_unfit_takes_any_grid_and_size():
    """Odd sizes, grids and shapes, a thousand at random: never an empty or a failing map."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        size, shape = rng.integers(8, 100, 2), rng.integers(1, 300, 2)
        grid = [max(1, int(side) // int(rng.choice([1, 2, 4, 16, 32]))) for side in size]
        for fit in ("pad", "crop", "stretch"):
            preparation = Preparation((int(size[0]), int(size[1])), **HALF, fit=fit)
            assert preparation.unfit(np.ones((1, *grid), np.float32), int(shape[0]), int(shape[1])).size > 0


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_a_place_in_the_image_comes_back_to_its_place(fit):
    """A bright square, fitted, said on a coarser grid, unfitted and brought to native size, is where it was."""
    image = np.zeros((120, 80, 1), np.float32)
    image[40:80, 20:60] = 1
    preparation = Preparation((64, 64), (0.0,), (1.0,), fit=fit)
    said = preparation.fit_size(image)[:, :, 0]
    said = said.reshape(32, 2, 32, 2).mean(axis=(1, 3))[None]
    native = cv2.resize(preparation.unfit(said, 120, 80)[0], (80, 120), interpolation=cv2.INTER_LINEAR) > 0.5
    truth = image[:, :, 0] > 0
    assert (native & truth).sum() / (native | truth).sum() > 0.85


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_a_coarse_network_does_not_move_masks(fit):
    """Of images of many shapes, what half the input's resolution says lies where the truth lies."""
    rng, preparation = np.random.default_rng(0), Preparation((64, 64), (0.0,), (1.0,), fit=fit)
    for height, width in rng.integers(40, 160, (40, 2)).tolist():
        mask = np.zeros((height, width), np.uint8)
        centre, axes = (width * 2 // 5, height * 3 // 5), (width // 4, height // 4)
        cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1)
        seen = preparation.fit_size(mask)[:, :, 0].reshape(32, 2, 32, 2).mean(axis=(1, 3), dtype=np.float32) / 255
        said = cv2.resize(preparation.unfit(seen[None], height, width)[0], (width, height)) >= 0.5
        assert 2 * (said & (mask > 0)).sum() / (said.sum() + (mask > 0).sum()) > 0.97, (height, width)


@pytest.mark.parametrize(
    ("dtype", "top"),
    [(torch.uint8, 255), (torch.uint16, 65535), (torch.int16, 32767), (torch.float32, 1), (torch.float16, 1)],
)
def test_inputs_are_normalised_by_the_range_of_their_dtype(dtype, top):
    """Full scale is (1 - mean) / std in every dtype, zero is -mean / std, channels come first, dtype is float32."""
    preparation = Preparation((2, 1), (0.5, 0.25, 0.0), (0.5, 0.25, 2.0))
    batch = torch.tensor([[[[0, 0, 0]], [[top, top, top]]]], dtype=torch.float32).to(dtype)
    got = preparation.to_input(batch)
    assert got.shape == (1, 3, 2, 1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got[0, :, :, 0], torch.tensor([[-1.0, 1.0], [-1.0, 3.0], [0.0, 0.5]]))
    assert preparation.to_input(torch.stack([batch, batch])).shape == (2, 1, 3, 2, 1)


def test_the_cache_shrinks_the_shorter_side_and_never_enlarges():
    """100 x 60 at cache_size 30 is 50 x 30, smaller images stay the arrays they are, grey stays two-dimensional."""
    preparation = Preparation((8, 8), **HALF, cache_size=30)
    assert preparation.store(noise(100, 60)).shape == (50, 30, 3)
    assert preparation.store(noise(100, 60)[:, :, 0]).shape == (50, 30)
    assert preparation.store(noise(100, 60, 1)).shape == (50, 30, 1)
    small = noise(29, 90)
    assert preparation.store(small) is small


def test_the_cache_refuses_to_shrink_what_is_no_image():
    """Volumes and waveforms have no shorter side."""
    for array in (np.zeros((4, 9, 9, 1), np.uint8), np.zeros(100, np.float32)):
        with pytest.raises(DataError, match="cache_size"):
            Preparation((8, 8), **HALF, cache_size=4).store(array)


def test_a_jpeg_cache_and_inference_see_the_same_pixels():
    """With `jpeg`, `store` gives what decoding the cached bytes gives, in RGB order and close to the source."""
    image = smooth(40, 60)
    stored = Preparation((8, 8), **HALF, jpeg=True).store(image)
    assert (stored == decode_jpeg(encode_jpeg(image))).all()
    assert np.abs(stored.astype(int) - image).max() < 12
    assert decode_jpeg(encode_jpeg(image[:, :, 0])).shape == (40, 60)


@pytest.mark.parametrize("image", [noise(4, 4, 3, np.uint16), noise(4, 4, 4), np.zeros((4, 4), np.float32)])
def test_jpeg_refuses_what_it_would_lose(image):
    """16 bits, four channels and floats cannot go through JPEG."""
    with pytest.raises(DataError, match="JPEG"):
        encode_jpeg(image)


def test_damaged_cache_bytes_are_an_error():
    """Bytes that do not decode raise ImageError, not a crash on None."""
    with pytest.raises(ImageError, match="5 bytes"):
        decode_jpeg(b"xxxxx")
