"""Image files of every mode become square uint8 arrays with the right colours."""

import io
import struct
import subprocess
import sys

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms

from resnet.errors import UserError
from resnet.images import PADDING, fit_square, read_square, ten_crops
from tests.resnet.pictures import (
    ORIENTATION,
    as_camera_stores,
    decode,
    encode,
    photograph,
    red_blue_swapped_profile,
)

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def patch(mode: str, colour, size=(8, 8)) -> Image.Image:
    return Image.new(mode, size, colour)


def assert_colour(image: np.ndarray, colour, within: int = 1):
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    np.testing.assert_allclose(image.astype(int), np.broadcast_to(colour, image.shape), atol=within)


# Colours


@pytest.mark.parametrize(
    ("image", "file_format", "expected"),
    [
        (patch("RGB", (10, 200, 90)), "PNG", (10, 200, 90)),
        (patch("L", 77), "PNG", (77, 77, 77)),
        (patch("1", 1), "PNG", WHITE),
        (patch("1", 0), "TIFF", BLACK),
        (patch("RGB", (10, 200, 90)).quantize(4), "PNG", (10, 200, 90)),
        (patch("RGB", (10, 200, 90)).quantize(4), "GIF", (10, 200, 90)),
        (patch("RGB", (10, 200, 90)), "BMP", (10, 200, 90)),
        (patch("CMYK", (255, 0, 0, 0)), "TIFF", (0, 255, 255)),
        (patch("CMYK", (0, 255, 255, 0)), "TIFF", RED),
        (patch("CMYK", (0, 0, 0, 255)), "TIFF", BLACK),
        pytest.param(
            patch("RGB", RED).convert("YCbCr"),
            "TIFF",
            RED,
            marks=pytest.mark.skipif(
                int(PIL.__version__.split(".")[0]) < 13, reason="Pillow before 13 calls such files truncated"
            ),
        ),
        # CIE L*a*b* (D50) by the formulas of the standard, as 8-bit L * 2.55, a + 128, b + 128.
        (patch("LAB", (133, 171, 167)), "TIFF", (200, 90, 60)),
        (patch("LAB", (150, 86, 156)), "TIFF", (60, 160, 90)),
        (patch("LAB", (137, 128, 128)), "TIFF", (128, 128, 128)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_every_mode_keeps_its_colour(image, file_format, expected):
    within = 4 if image.mode == "LAB" else 1
    assert_colour(decode(encode(image, file_format)), expected, within)


@pytest.mark.parametrize(
    ("cmyk", "expected"), [((0, 255, 255, 0), RED), ((255, 0, 255, 0), GREEN), ((0,) * 4, WHITE)]
)
def test_adobe_cmyk_jpeg_is_not_inverted(cmyk, expected):
    data = encode(patch("CMYK", cmyk, (16, 16)), "JPEG", quality=95)
    assert b"Adobe" in data[:64]
    assert_colour(decode(data), expected, within=3)


def test_jpeg_colour_is_decoded_from_ycbcr():
    data = encode(patch("RGB", (200, 30, 60), (16, 16)), "JPEG", quality=95)
    assert_colour(decode(data), (200, 30, 60), within=3)


def test_hsv_pillow_image():
    assert_colour(fit_square(patch("HSV", (0, 255, 255)), 8), RED)
    assert_colour(fit_square(patch("HSV", (170, 255, 255)), 8), BLUE)


@pytest.mark.parametrize(("mode", "file_format"), [("I;16", "PNG"), ("I;16", "TIFF")])
def test_sixteen_bit_grey_is_scaled_not_clipped(mode, file_format):
    levels = np.array([[0, 128, 129, 257], [255, 32768, 65278, 65535]], np.uint16)
    image = Image.fromarray(levels)
    assert image.mode == mode
    result = decode(encode(image, file_format))
    expected = [[0, 0, 1, 1], [1, 128, 254, 255]]
    np.testing.assert_array_equal(result, np.repeat(np.array(expected)[..., None], 3, axis=2))


def test_sixteen_bit_big_endian_grey():
    levels = np.array([[0, 257, 65535, 32768]], ">u2")
    data = encode(Image.frombytes("I;16B", (4, 1), levels.tobytes()), "TIFF")
    assert data.startswith(b"MM")
    assert decode(data)[0, :, 0].tolist() == [0, 1, 255, 128]


def test_sixteen_bit_pgm_and_integer_tiff_are_0_to_65535():
    pgm = b"P5 3 1 65535\n" + np.array([0, 32768, 65535], ">u2").tobytes()
    assert decode(pgm)[0, :, 0].tolist() == [0, 128, 255]
    levels = Image.fromarray(np.array([[-5, 0, 32768, 65535, 2**30]], np.int32))
    assert decode(encode(levels, "TIFF"))[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_float_images_are_0_to_1_or_else_0_to_255():
    unit = Image.fromarray(np.array([[0, 0.5, 1, np.nan]], np.float32))
    assert decode(encode(unit, "TIFF"))[0, :, 0].tolist() == [0, 128, 255, 0]
    bytes_ = Image.fromarray(np.array([[-np.inf, 1, 254.6, np.inf]], np.float32))
    assert decode(encode(bytes_, "TIFF"))[0, :, 0].tolist() == [0, 1, 255, 255]


# Transparency


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_are_white(file_format):
    pixels = np.array([[[255, 0, 0, 0], [255, 0, 0, 128], [255, 0, 0, 255]]], np.uint8)
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    result = decode(encode(pixels, file_format, **options))
    np.testing.assert_allclose(result[0], [WHITE, (255, 127, 127), RED], atol=1)


def test_transparent_grey_is_composited_on_white():
    image = Image.merge("LA", [patch("L", 100), patch("L", 51)])
    assert_colour(decode(encode(image, "PNG")), (224, 224, 224))


@pytest.mark.parametrize(
    ("image", "transparency"),
    [
        (Image.fromarray(np.array([[9, 200]], np.uint8)), 9),
        (Image.fromarray(np.array([[9, 200 * 257]], np.uint16)), 9),
        (Image.fromarray(np.array([[[1, 2, 3], [200] * 3]], np.uint8)), (1, 2, 3)),
        (Image.fromarray(np.array([[9, 200]], np.uint8)).convert("P"), 9),
        (Image.fromarray(np.array([[0, 200]], np.uint8)).convert("P"), b"\x00"),
    ],
    ids=["L", "I;16", "RGB", "P index", "P alphas"],
)
def test_png_transparent_colour_is_white(image, transparency):
    result = decode(encode(image, "PNG", transparency=transparency))
    np.testing.assert_array_equal(result[0], [WHITE, (200, 200, 200)])


def test_gif_transparent_index_is_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([0, 0, 0, 0, 0, 255])
    np.testing.assert_array_equal(decode(encode(image, "GIF", transparency=0))[0], [WHITE, BLUE])


# Orientation, animation, colour profiles


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_gives_the_upright_image(orientation, file_format):
    upright = photograph()
    stored, exif = as_camera_stores(upright, orientation)
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    data = encode(stored, file_format, exif=exif, **options.get(file_format, {}))
    result = decode(data)
    assert result.shape == upright.shape
    np.testing.assert_allclose(result.astype(int), upright, atol=6 if file_format == "JPEG" else 0)


@pytest.mark.parametrize("exif", [b"Exif\x00\x00MM\x00*\x00\x00\x00", b"Exif\x00\x00no header"])
def test_damaged_exif_is_ignored(exif):
    data = encode(photograph(), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data), photograph())


def test_orientation_counts_when_another_exif_tag_is_malformed():
    width_as_text = struct.pack(">HHI4s", 0x0100, 2, 2, b"x")
    turn_by_half = struct.pack(">HHIHH", ORIENTATION, 3, 1, 3, 0)
    directory = struct.pack(">H", 2) + width_as_text + turn_by_half + bytes(4)
    exif = b"Exif\x00\x00MM\x00*" + struct.pack(">I", 8) + directory
    data = encode(photograph(), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data), photograph()[::-1, ::-1])


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_gives_its_first_frame(file_format):
    frames = [patch("RGB", colour) for colour in (GREEN, RED, BLUE)]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert_colour(decode(data), GREEN)


def test_embedded_profile_is_converted_to_srgb():
    profile = red_blue_swapped_profile()
    assert_colour(decode(encode(patch("RGB", RED), "PNG", icc_profile=profile)), BLUE, within=2)
    transparent = encode(patch("RGBA", (255, 0, 0, 128)), "PNG", icc_profile=profile)
    assert_colour(decode(transparent), (127, 127, 255), within=2)


def linear_grey_profile() -> bytes:
    """Returns a minimal ICC version 2 profile in which grey levels are proportional to luminance."""
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)  # D50
    curve = b"curv" + bytes(4) + struct.pack(">I", 0)
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 12) + white + curve
    header = struct.pack(">I4sI4s4s4s", 128 + len(tags), b"", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    signature = struct.pack(">12x4s24x3i48x", b"acsp", 63190, 65536, 54061)
    return (header + signature).ljust(128, b"\0")[:128] + tags


@pytest.mark.parametrize(("mode", "colour"), [("L", 128), ("LA", (128, 255))])
def test_grey_profile_is_converted_to_srgb(mode, colour):
    data = encode(patch(mode, colour), "PNG", icc_profile=linear_grey_profile())
    # sRGB encodes half the luminance of white as 188 (IEC 61966-2-1).
    assert_colour(decode(data), (188, 188, 188))


def test_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    result = decode(encode(photograph(), "PNG", icc_profile=profile))
    np.testing.assert_allclose(result.astype(int), photograph(), atol=1)


@pytest.mark.parametrize(
    ("image", "profile", "expected"),
    [
        (patch("RGB", RED), b"not a profile", RED),
        (patch("RGB", RED), red_blue_swapped_profile()[:200], RED),
        (patch("L", 90), red_blue_swapped_profile(), (90, 90, 90)),
        (patch("CMYK", (0, 255, 255, 0)), red_blue_swapped_profile(), RED),
        (patch("LAB", (133, 171, 167)), red_blue_swapped_profile(), (200, 90, 60)),
        (patch("RGB", RED), linear_grey_profile(), RED),
    ],
    ids=["garbage", "cut", "RGB for L", "RGB for CMYK", "RGB for LAB", "grey for RGB"],
)
def test_invalid_profile_is_ignored(image, profile, expected):
    assert_colour(decode(encode(image, "TIFF", icc_profile=profile)), expected, within=2)


# Resizing


def bicubic_weights(length: int, size: int) -> np.ndarray:
    """Returns the weights, [size, length], of Keys' cubic convolution (a = -1/2), widened by the scale."""
    scale = length / size
    stretch = max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    x = np.abs(np.arange(length) + 0.5 - centres[:, None]) / stretch
    weights = np.where(
        x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0)
    )
    return weights / weights.sum(axis=1, keepdims=True)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes the whole image and, like Pillow, rounds after each direction."""
    across = np.einsum("xw,hwc->hxc", bicubic_weights(image.shape[1], width), image).round().clip(0, 255)
    down = np.einsum("yh,hxc->yxc", bicubic_weights(image.shape[0], height), across)
    return down.round().clip(0, 255)


@pytest.mark.parametrize(
    ("shape", "size", "crop", "whole"),
    [
        ((32, 32), 16, 1.0, (16, 16)),
        ((48, 70), 16, 1.0, (16, 23)),
        ((33, 20), 10, 1.0, (16, 10)),
        ((6, 9), 15, 1.0, (15, 22)),
        ((7, 40), 7, 1.0, (7, 40)),
        # ImageNet's protocol: the shorter side 256, the longer in proportion.
        ((375, 500), 224, 224 / 256, (256, 341)),
        ((500, 343), 224, 224 / 256, (373, 256)),
        ((256, 300), 224, 224 / 256, (256, 300)),
        ((90, 70), 28, 0.95, (37, 29)),
        ((80, 100), 64, 64 / 72, (72, 90)),
    ],
)
def test_crops_equal_those_of_an_independently_resized_image(shape, size, crop, whole):
    image = np.random.default_rng(0).integers(64, 192, (*shape, 3), np.uint8)
    height, width = whole
    scaled = resized(image, height, width)
    bottom, right = height - size, width - size
    corners = [(round(bottom / 2), round(right / 2)), (0, 0), (0, right), (bottom, 0), (bottom, right)]
    expected = [scaled[y : y + size, x : x + size] for y, x in corners]
    expected += [square[:, ::-1] for square in expected]
    crops = ten_crops(image, size, crop)
    assert crops.dtype == np.uint8
    np.testing.assert_allclose(crops.astype(int), expected, atol=2)  # Pillow may begin with the columns.
    np.testing.assert_array_equal(fit_square(image, size, crop), crops[0])


def test_resize_keeps_constant_blocks():
    """Halving 16 x 16 blocks leaves 8 x 8 blocks, whose inner 2 x 2 pixels no edge reaches."""
    blocks = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    result = fit_square(blocks.repeat(16, axis=0).repeat(16, axis=1), 32)
    inner = result.reshape(4, 8, 4, 8, 3)[:, 3:5, :, 3:5]
    np.testing.assert_array_equal(inner, np.broadcast_to(blocks[:, None, :, None], inner.shape))


def test_image_of_the_right_size_is_bit_identical():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    result = fit_square(image, 64)
    np.testing.assert_array_equal(result, image)
    np.testing.assert_array_equal(fit_square(decode(encode(image, "PNG")), 64), image)
    wide = np.concatenate([image[:, ::-1], image, image[:, ::-1]], axis=1)
    np.testing.assert_array_equal(fit_square(wide, 64), image)
    result[:] = 0
    assert image.any()


@pytest.mark.parametrize("axis", [0, 1])
def test_crop_is_central(axis):
    parts = [np.full((32, 32, 3), colour, np.uint8) for colour in (BLUE, RED, GREEN)]
    assert_colour(fit_square(np.concatenate(parts, axis), 32), RED, within=0)
    inner = fit_square(np.concatenate(parts, axis), 16)[2:-2, 2:-2]
    assert_colour(inner, RED, within=0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50_000), (50_000, 1), (2, 3), (3000, 5)])
def test_extreme_aspect_ratios(shape):
    image = np.full((*shape, 3), (10, 20, 30), np.uint8)
    result = fit_square(image, 64)
    assert result.shape == (64, 64, 3)
    assert_colour(result, (10, 20, 30), within=0)
    for square in ten_crops(image, 56, 0.875):
        assert_colour(square, (10, 20, 30), within=0)


def test_pillow_image_is_converted_like_a_file(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "turned.png"
    path.write_bytes(encode(np.rot90(photograph(24, 24)).copy(), "PNG", exif=exif))
    np.testing.assert_array_equal(fit_square(Image.open(path), 24), photograph(24, 24))
    path.write_bytes(encode(photograph(), "PNG")[:-40])
    with pytest.raises(UserError, match=r"turned\.png: .*truncated"):
        fit_square(Image.open(path), 24)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64, 3), np.float32),
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((0, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 3), np.uint8),
    ],
)
def test_array_of_another_kind_is_refused(image):
    with pytest.raises(UserError, match=r"expected uint8 \[H, W, 3\]"):
        fit_square(image, 64)


# Fits


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (7, 90)])
def test_stretch_is_the_whole_picture_in_another_aspect_ratio(shape):
    image = np.random.default_rng(0).integers(64, 192, (*shape, 3), np.uint8)
    result = fit_square(image, 16, fit="stretch")
    np.testing.assert_allclose(result.astype(int), resized(image, 16, 16), atol=2)


@pytest.mark.parametrize("axis", [0, 1])
def test_pad_is_the_whole_picture_between_grey(axis):
    image = np.random.default_rng(0).integers(64, 192, (24, 48, 3), np.uint8)
    result = fit_square(image.swapaxes(0, axis), 32, fit="pad").swapaxes(0, axis)
    assert (result[:8] == PADDING).all()
    assert (result[24:] == PADDING).all()
    np.testing.assert_allclose(result[8:24].astype(int), resized(image, 16, 32), atol=2)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("shape", [(40, 60), (90, 30), (50, 50)])
def test_with_a_crop_the_centre_of_the_larger_square_is_left(fit, shape):
    image = np.random.default_rng(0).integers(64, 192, (*shape, 3), np.uint8)
    whole = fit_square(image, 32, fit=fit)
    np.testing.assert_allclose(
        fit_square(image, 24, 0.75, fit).astype(int), whole[4:28, 4:28].astype(int), atol=1
    )


def test_every_fit_of_a_square_picture_is_the_same():
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    for fit in ("pad", "stretch"):
        np.testing.assert_array_equal(fit_square(image, 24, 0.75, fit), fit_square(image, 24, 0.75))
        np.testing.assert_array_equal(fit_square(image, 50, fit=fit), image)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1), (3_000_000, 5)])
def test_extreme_aspect_ratios_of_every_fit(fit, shape):
    image = np.full((*shape, 3), (10, 20, 30), np.uint8)
    result = fit_square(image, 64, 0.875, fit)
    assert result.shape == (64, 64, 3)
    assert_colour(result[32:33, 32:33], (10, 20, 30), within=0)


def test_a_long_thin_picture_takes_no_more_memory_than_its_pixels():
    program = """
import resource
import numpy as np
from resnet.images import fit_square
image = np.zeros((8_000_000, 1, 3), np.uint8)
fit_square(np.zeros((9, 9, 3), np.uint8), 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for fit in ("crop", "pad", "stretch"):
    fit_square(image, 64, fit=fit)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_file_becomes_the_same_square_as_its_pixels(fit):
    data = encode(photograph(60, 90), "JPEG")
    expected = fit_square(decode(data), 32, 0.875, fit)
    np.testing.assert_array_equal(read_square(io.BytesIO(data), 32, 0.875, fit), expected)
