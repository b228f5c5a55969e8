"""Finds image files, decodes them, and resizes and crops them for a network."""

import io
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, TiffImagePlugin, UnidentifiedImageError

from resnet.errors import UserError
from resnet.files import open_file, printable
from resnet.preprocessing import Fit, Resample
from resnet.streams import libraries_silenced

MAX_FILE_SIZE = 512 * 2**20  # bytes; some formats are read as a whole before they are decoded
MAX_PIXELS = 100_000_000
MAX_SIDE = 300_000  # pixels; Pillow needs more memory for the start of a row than for a short row itself
LARGE_PIXELS = 25_000_000  # larger images are decoded one at a time, as each takes gigabytes
PADDING = 128  # the grey level beside a padded picture

# EPS starts Ghostscript, IPTC opens whatever is embedded in it (even EPS), and WMF calls a renderer of the
# system. FITS unpacks files without a limit before Pillow 12.2 (CVE-2026-40192). Pillow recognises the others
# but cannot decode them.
_EXCLUDED_FORMATS = {"EPS", "IPTC", "WMF", "FITS", "BUFR", "GRIB", "HDF5", "MPEG"}
_GREY_MODES = {"L", "LA", "La"}
_DEEP_MODES = {"I;16", "I;16L", "I;16B", "I;16N", "I", "F"}

# What operating systems and disk stations leave beside pictures, such as their thumbnails.
_HIDDEN = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}
# What people keep beside pictures: kinds of pictures that are not read, by their extensions.
_UNREADABLE_KINDS = {
    **dict.fromkeys(
        (
            *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25", ".kdc"),
            *(".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2"),
            *(".srf", ".srw", ".x3f"),
        ),
        "raw pictures of cameras",
    ),
    **dict.fromkeys((".svg", ".svgz", ".eps", ".ps", ".ai", ".wmf", ".emf", ".cdr"), "vector graphics"),
    ".jxl": "JPEG XL",
    ".jxr": "JPEG XR",
    ".exr": "OpenEXR",
    ".hdr": "Radiance HDR",
    ".psb": "large Photoshop documents",
    ".xcf": "documents of GIMP",
    ".djvu": "DjVu",
    ".dcm": "DICOM",
    **dict.fromkeys((".fits", ".fit"), "FITS"),
}
# By how a file begins, for files that no format claims.
_UNREADABLE_BEGINNINGS = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "XML, perhaps SVG",
    b"8BPS\0\x02": "a large Photoshop document",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"II*\0": "TIFF of a kind that is not read, perhaps a raw picture of a camera",
    b"MM\0*": "TIFF of a kind that is not read, perhaps a raw picture of a camera",
    b"FUJIFILMCCD-RAW": "a raw picture of a camera",
    b"FOVb": "a raw picture of a camera",
    b"IIRO": "a raw picture of a camera",
    b"IIU\0": "a raw picture of a camera",
}
# Tags of TIFF files by which raw pictures of cameras are known. Their first image is a thumbnail.
_SUBFILE_TYPE, _DNG_VERSION = 254, 50706
_REDUCED_IMAGE = 1  # a value of _SUBFILE_TYPE

# By the value of the EXIF orientation, which may have any type in a damaged file.
_TRANSPOSITIONS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Where a square lies in the image: 0 is the upper (left) edge, 1 the lower (right) edge.
_CENTRE = (0.5, 0.5)
_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))

_large_image_lock = threading.Lock()


def find_images(
    paths: Sequence[str | PathLike], report: Callable[[UserError], None] | None = None
) -> list[Path]:
    """Lists the image files that `paths` name, in the given order and without repetitions.

    A file is listed whatever its name. A folder stands for all files below it, sorted, whose extension
    belongs to a format that `read_image` accepts. Hidden files and folders are skipped, and links to folders
    are not followed. If folders hold pictures of other kinds, `report` is called once with an error that
    counts them.

    Raises:
      UserError: a path is empty or does not exist, a folder cannot be listed, or a folder has no images.
    """
    images: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for path in paths:
        if not os.fspath(path):
            raise UserError("'': is an empty path, expected a file or a folder; name one")
        if os.path.isdir(path):
            files, kinds = _images_in_folder(Path(path))
            others += kinds
        elif os.path.lexists(path):
            files = [Path(path)]
        else:
            raise UserError(f"{printable(path)}: no such file or folder; check the path")
        for file in files:
            images.setdefault(os.path.abspath(file), file)
    if report is not None:
        report_unreadable(others, paths, report)
    return list(images.values())


def report_unreadable(
    kinds: Counter[str], paths: Sequence[str | PathLike], report: Callable[[UserError], None]
) -> None:
    """Calls `report` with an error that counts pictures of kinds that cannot be read, if any."""
    if kinds:
        place = printable(paths[0]) if len(paths) == 1 else f"{len(paths):,} folders"
        report(UserError(f"{place}: {describe_kinds(kinds)} cannot be read; convert them to JPEG or PNG"))


def unreadable_kind(name: str) -> str | None:
    """Returns the kind of picture that `name` says by its extension, if it is one that is not read."""
    return _UNREADABLE_KINDS.get(os.path.splitext(name)[1].lower())


def describe_kinds(counts: Counter[str]) -> str:
    """Returns in words how many pictures there are of each `unreadable_kind`."""
    return " and ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))


def read_image(source: str | PathLike | BinaryIO, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes an image file of any format, mode and size that Pillow reads, or HEIC, the format of iPhones.

    EXIF orientation is applied, a valid embedded ICC profile is converted to sRGB, transparent images are
    composited on white, and animations give their first frame. 16-bit grey is scaled from 0..65535, as are
    32-bit integers after clipping to that range. 32-bit floats are scaled from 0..1 if all of them lie in it.
    Otherwise they count as 0..255 and are clipped. NaN is black.

    Formats that need another program (EPS, WMF) are not accepted, nor raw pictures of cameras (DNG), whose
    first image is a thumbnail. Threads with the same limit decode side by side.

    Args:
      source: a path, or a binary stream, which is read from its position to its end.
      max_pixels: limit on width x height, which is checked before anything is decoded.

    Returns:
      uint8 `[H, W, 3]`, sRGB.

    Raises:
      UserError: the file is missing, unreadable, a folder, a pipe, empty, not an image, truncated or
        damaged, or it has more than `max_pixels` pixels, `MAX_SIDE` of them along a side, or
        `MAX_FILE_SIZE` bytes.
    """
    with _opened(source, max_pixels) as image:
        return np.array(_to_rgb(image))


def read_square(
    source: str | PathLike | BinaryIO,
    size: int,
    crop: float = 1.0,
    fit: Fit = "crop",
    *,
    resample: Resample = "bicubic",
) -> np.ndarray:
    """Decodes an image file to a square, uint8 `[size, size, 3]`.

    The pixels are those of `fit_square` of `read_image`. It takes less time and memory, as the whole image
    never becomes an array. Threads decode side by side, but for images of more than 25 megapixels.

    Raises:
      UserError: as `read_image`.
    """
    with _opened(source, MAX_PIXELS) as image:
        is_large = image.width * image.height > LARGE_PIXELS
        with _large_image_lock if is_large else nullcontext():
            return _squares(_to_rgb(image), size, crop, fit, resample=resample, places=[_CENTRE])[0]


@contextmanager
def _opened(source: str | PathLike | BinaryIO, max_pixels: int) -> Iterator[Image.Image]:
    """Opens an image without decoding it. Whatever goes wrong inside is a UserError."""
    path = source if isinstance(source, str | PathLike) else getattr(source, "name", None)
    name = printable(path) if isinstance(path, str | PathLike) else "image data"
    with _open(source, name) as file, _pillow_errors(file, name, max_pixels):
        _check_size(file, name)
        # Pillow maps a file into memory if it is given a path, but not if it is given an open file. A file
        # that another program cuts short meanwhile is then an error instead of a crash.
        with Image.open(file, formats=_accepted_formats()) as image:
            _check_side(image)
            _check_is_no_raw_picture(image, file, name)
            # If a file is damaged, libtiff prints a message that does not name it. Ours does.
            with libraries_silenced() if image.format == "TIFF" else nullcontext():
                yield image


def _open(source: str | PathLike | BinaryIO, name: str) -> BinaryIO:
    """Opens a file, or what remains of a stream.

    Raises:
      UserError: it cannot be read, or is no ordinary file.
    """
    try:
        if isinstance(source, str | PathLike):
            return open_file(Path(source))
        return io.BytesIO(source.read(MAX_FILE_SIZE + 1))
    except FileNotFoundError:
        raise UserError(f"{name}: no such file; check the path") from None
    except OSError as error:
        raise _unreadable(name, error) from None


def _check_size(file: BinaryIO, name: str) -> None:
    if not file.read(1):
        raise UserError(f"{name}: is empty (0 bytes), expected an image; save it again")
    if file.seek(0, os.SEEK_END) > MAX_FILE_SIZE:
        raise UserError(
            f"{name}: is larger than {MAX_FILE_SIZE // 2**20} MB, the limit; reduce its size first"
        )


def _unreadable(name: str, error: OSError) -> UserError:
    return UserError(f"{name}: cannot be read ({error.strerror}); check it, or copy it again")


class _TooLongError(Exception):
    """A side of an image has more than `MAX_SIDE` pixels."""


def _check_side(image: Image.Image) -> None:
    if max(image.size) > MAX_SIDE:
        raise _TooLongError(
            f"is {image.width:,}x{image.height:,} pixels, expected at most {MAX_SIDE:,} along a side"
        )


def _check_is_no_raw_picture(image: Image.Image, file: BinaryIO, name: str) -> None:
    """Raises UserError for a TIFF file that holds a raw picture of a camera, and a thumbnail before it."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    file.seek(8)
    is_cr2 = file.read(2) == b"CR"
    tags = image.tag_v2
    is_dng = _DNG_VERSION in tags
    is_thumbnail = tags.get(TiffImagePlugin.SUBIFD) and tags.get(_SUBFILE_TYPE) == _REDUCED_IMAGE
    if is_cr2 or is_dng or is_thumbnail:
        kind = "DNG" if is_dng else "such as CR2 or NEF"
        raise UserError(
            f"{name}: is a raw picture of a camera ({kind}), of"
            " which only the thumbnail could be read; convert it to JPEG or PNG"
        )


def fit_square(
    image: np.ndarray | Image.Image,
    size: int,
    crop: float = 1.0,
    fit: Fit = "crop",
    *,
    resample: Resample = "bicubic",
) -> np.ndarray:
    """Makes a picture of any size and shape a square, by antialiased resizing.

    `fit` says how. `crop` scales the shorter side to `size / crop` and cuts out the centre. `stretch` scales
    both sides to `size / crop`, and `pad` the longer side, with grey beside the shorter one; both then cut
    out the centre too, which is everything if `crop` is 1.

    With `crop`, the pixels are those of torchvision, timm and transformers within rounding. If the centre
    lies between two pixels, torchvision and timm choose the same one as this function. transformers chooses
    the other. Only the square is computed, so extreme aspect ratios cost nothing. A picture that already has
    the size to scale to is cut without changing a pixel.

    Args:
      image: uint8 `[H, W, 3]`, or a Pillow image, which is converted as in `read_image`.
      size: side of the result in pixels, at least 1.
      crop: side of the square as a share of the scaled side; ImageNet's 224 of 256 is 0.875.
      fit: one of crop, pad and stretch.
      resample: the filter, one of bicubic, bilinear and lanczos.

    Returns:
      uint8 `[size, size, 3]`.

    Raises:
      UserError: the array has another shape, another dtype or no pixels, or the Pillow image cannot be
        decoded.
    """
    return _squares(_as_rgb(image), size, crop, fit, resample=resample, places=[_CENTRE])[0]


def ten_crops(
    image: np.ndarray | Image.Image, size: int, crop: float = 1.0, *, resample: Resample = "bicubic"
) -> np.ndarray:
    """Cuts out the centre and the four corners of the scaled image, and adds their mirror images.

    Krizhevsky, Sutskever & Hinton 2012 (NeurIPS), section 4.1, average a network's probabilities over them.
    Here the corners are those of the whole image. Arguments and errors are the same as for `fit_square`.

    Returns:
      uint8 `[10, size, size, 3]`; the first is what `fit_square` returns.
    """
    places = [_CENTRE, *_CORNERS]
    crops = _squares(_as_rgb(image), size, crop, "crop", resample=resample, places=places)
    return np.concatenate([crops, crops[:, :, ::-1]])


def _as_rgb(image: np.ndarray | Image.Image) -> Image.Image:
    """Returns an array, or a Pillow image of any mode, as an RGB image."""
    if isinstance(image, Image.Image):
        name = getattr(image, "filename", "")
        with _pillow_errors(None, printable(name) if name else "image", MAX_PIXELS):
            return _to_rgb(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise UserError(
            f"image array: is {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3] with at least one"
            " pixel; convert it first"
        )
    return Image.fromarray(image)


def _squares(
    image: Image.Image,
    size: int,
    crop: float,
    fit: Fit,
    *,
    resample: Resample,
    places: Sequence[tuple[float, float]],
) -> np.ndarray:
    """Cuts squares out of the scaled image: uint8 [places, size, size, 3].

    A place (down, right) is (0, 0) for the upper left corner and (1, 1) for the lower right corner.
    """
    filter = Image.Resampling[resample.upper()]
    side = int(round(size / crop, 6))  # In floating point 64 / (64 / 72) is a little less than 72.
    if fit == "stretch":
        scaled = (side, side)
        if image.width < side < image.height:
            # Older versions of Pillow resize across first, which enlarges all rows of a tall thin picture.
            image = image.resize((image.width, side), filter)
    else:
        whole = min(image.size) if fit == "crop" else max(image.size)
        scaled = (max(side * image.height // whole, 1), max(side * image.width // whole, 1))
    return np.stack([_square(image, size, scaled, place, filter=filter) for place in places])


def _square(
    image: Image.Image,
    size: int,
    scaled: tuple[int, int],
    place: tuple[float, float],
    *,
    filter: Image.Resampling,
) -> np.ndarray:
    """Cuts a square out of the image of `scaled` height and width; where it lies outside, it is grey."""
    top, left = (round((length - size) * share) for length, share in zip(scaled, place, strict=True))
    upper, lower = max(top, 0), min(top + size, scaled[0])
    first, last = max(left, 0), min(left + size, scaled[1])
    # Pillow's filter reads beyond the box, so this equals cropping after resizing the whole image.
    box = (
        first * image.width / scaled[1],
        upper * image.height / scaled[0],
        min(last * image.width / scaled[1], image.width),
        min(lower * image.height / scaled[0], image.height),
    )
    part = np.array(image.resize((last - first, lower - upper), filter, box=box))
    if part.shape[:2] == (size, size):
        return part
    square = np.full((size, size, 3), PADDING, np.uint8)
    square[upper - top : lower - top, first - left : last - left] = part
    return square


@cache
def _accepted_formats() -> tuple[str, ...]:
    import pillow_heif  # Imported here, as it takes 40 ms, which most commands need not spend.

    Image.init()
    pillow_heif.register_heif_opener()
    accepted = [name for name in Image.ID if name not in _EXCLUDED_FORMATS]
    # Pillow tries them in this order, which for most files is over at once.
    return tuple(sorted(accepted, key=lambda name: name not in ("JPEG", "PNG")))


@cache
def image_extensions() -> frozenset[str]:
    """Returns the extensions of the formats that `read_image` accepts, in lower case, such as `.jpg`."""
    accepted = {*_accepted_formats(), "MPO"}  # The JPEG plugin opens MPO files.
    return frozenset(e for e, name in Image.registered_extensions().items() if name in accepted)


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of that name, without a path, is none of the user's own pictures."""
    return name.startswith(".") or name.lower() in _HIDDEN


def _images_in_folder(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Returns the image files below a folder, sorted, and how many pictures there are of other kinds."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{printable(error.filename)}: the folder cannot be listed ({error.strerror}); "
            "check its permissions"
        )

    files = []
    others: Counter[str] = Counter()
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in names:
            if is_hidden(name):
                continue
            if os.path.splitext(name)[1].lower() in image_extensions():
                files.append(Path(parent, name))
            elif kind := unreadable_kind(name):
                others[kind] += 1
    if not files:
        content = f"only {describe_kinds(others)}, which cannot be read" if others else "no image files"
        raise UserError(
            f"{printable(folder)}: the folder has {content}, expected some such as "
            "*.jpg or *.png; name another folder, or the files themselves"
        )
    return sorted(files), others


class _StrictPillow:
    """Makes Pillow strict while anybody is inside. Its settings hold for the whole process.

    Threads that want the same limit are inside together, and others wait until they have left.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._max_pixels = MAX_PIXELS
        self._settings = ExitStack()

    @contextmanager
    def __call__(self, max_pixels: int) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._inside or self._max_pixels == max_pixels)
            if not self._inside:
                self._settings.enter_context(_strict_settings(max_pixels))
                self._max_pixels = max_pixels
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                if not self._inside:
                    self._settings.close()
                    self._condition.notify_all()


@contextmanager
def _strict_settings(max_pixels: int) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Pillow warns above MAX_IMAGE_PIXELS and fails above twice that number. Turned into an error, the
        # warning is an exact limit, which also covers images nested in ICO or TIFF files.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        saved = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = saved


_strict_pillow = _StrictPillow()


@contextmanager
def _pillow_errors(file: BinaryIO | None, name: str, max_pixels: int) -> Iterator[None]:
    """Makes Pillow strict, and turns whatever it raises into a UserError that begins with `name`."""
    try:
        with _strict_pillow(max_pixels):
            yield
    except UserError:
        raise
    except _TooLongError as error:
        raise UserError(f"{name}: {error}; reduce its size first") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(
            f"{name}: has more than {max_pixels:,} pixels, the limit; reduce its size first"
        ) from None
    except UnidentifiedImageError:
        kind = _unreadable_kind_of(file) if file else None
        problem = f"is {kind}" if kind else "is not an image of a known format, or its header is damaged"
        raise UserError(f"{name}: {problem}; expected a file such as JPEG or PNG") from None
    except MemoryError:
        raise UserError(f"{name}: does not fit into the memory; reduce its size first") from None
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files.
        if isinstance(error, OSError) and error.strerror:
            raise _unreadable(name, error) from None
        raise UserError(
            f"{name}: the image is truncated or damaged ({type(error).__name__}: {error}); "
            "save or download it again"
        ) from error


def _unreadable_kind_of(file: BinaryIO) -> str | None:
    """Returns the kind of a file that no format claims, by how it begins, if it is known."""
    try:
        file.seek(0)
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    except OSError:
        return None
    return next((kind for magic, kind in _UNREADABLE_BEGINNINGS.items() if start.startswith(magic)), None)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode, loaded or not, to upright 8-bit sRGB without alpha."""
    image.load()
    _check_side(image)  # An icon can hold a larger one.
    icc_profile = image.info.get("icc_profile")
    image = _upright(image)
    if image.mode in _DEEP_MODES:
        image = _to_eight_bits(image)
    alpha = None
    if image.has_transparency_data:
        grey = image.mode in _GREY_MODES
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("L" if grey else "RGB")
    elif image.mode not in ("L", "CMYK", "LAB", "RGB"):
        image = image.convert("RGB")
    image = _to_srgb(image, icc_profile)
    if alpha is None:
        return image
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=alpha)
    return canvas


def _upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation, even if other EXIF tags are damaged.

    `ImageOps.exif_transpose` writes the EXIF block anew, and fails if any tag in it has an unexpected type.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Only the EXIF block is damaged: the pixels have been loaded.
        return image
    transposition = _TRANSPOSITIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Converts modes I;16, I and F to L, or to LA if one grey level is marked as transparent."""
    levels = np.array(image, dtype=np.float32)
    if image.mode == "F":
        levels[np.isnan(levels)] = 0
        if levels.min() >= 0 and levels.max() <= 1:
            levels *= 255
    else:
        levels /= 65535 / 255
    grey = Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))
    if "transparency" in image.info:
        opaque = np.asarray(image) != image.info["transparency"]
        grey.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return grey


def _to_srgb(image: Image.Image, icc_profile: bytes | None) -> Image.Image:
    """Converts RGB, L, CMYK or LAB to sRGB by its profile, or without it if the profile does not apply."""
    if icc_profile:
        try:
            return ImageCms.profileToProfile(  # type: ignore[return-value]  # None only if inPlace.
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(icc_profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # Browsers, too, ignore a profile that is damaged or for another colour space.
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
