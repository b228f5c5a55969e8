"""What a Keras model does to its images before the first convolution, as fields of `Preprocessing`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from resnet.formats.keras_graph import Node, Tensor
from resnet.formats.keras_ops import Op, Ops
from resnet.formats.timm_config import LARGEST_SIDE
from resnet.json_files import check_json

ReadWeights = Callable[[Node], list[np.ndarray]]

_COUNT = {"type": "integer", "minimum": 1, "maximum": LARGEST_SIDE}
_SIDE = {**_COUNT, "type": ["integer", "null"]}
_INPUT = {
    "type": ["array", "null"],
    "prefixItems": [{"type": ["integer", "null"]}, _SIDE, _SIDE, {"enum": [3, None]}],
    "minItems": 4,
    "maxItems": 4,
}
_SIZE = {
    "type": "object",
    "required": ["height", "width"],
    "properties": {"height": _COUNT, "width": _COUNT},
}
_LEAST_DEVIATION = 1e-7  # in `Normalization`
# Functions of TensorFlow in models of Keras 2, by their operations in Keras 3.
_TENSORFLOW = {
    "math.add": "Add",
    "__operators__.add": "Add",
    "nn.bias_add": "Add",
    "math.subtract": "Subtract",
    "math.multiply": "Multiply",
    "math.truediv": "TrueDivide",
    "math.divide": "TrueDivide",
    "__operators__.getitem": "GetItem",
    "cast": "Cast",
    "stack": "Stack",
}


class _Pixels(NamedTuple):
    """Images on their way: the colour of each channel (0 is red), and what its values were mapped by.

    `side` is None where images of any size come, `crop` and `fit` where no layer changes the size.
    `is_mapped` says whether any layer changed the values.
    """

    colours: tuple[int, ...]
    scale: np.ndarray
    offset: np.ndarray
    side: int | None
    crop: float | None = None
    fit: str | None = None
    is_mapped: bool = False


def read_preprocessing(ops: Ops, entry: str, source: str, read_weights: ReadWeights) -> dict[str, Any]:
    """Returns the fields of `Preprocessing` by which the operation `entry` follows from pictures.

    Normalisation is left out if the layers change no values; `crop` and `fit` too, if they change no size.
    `read_weights` returns the arrays of a layer.

    Raises:
        UserError: a layer does what `Preprocessing` cannot describe; the message names it.
    """
    needed = {entry}
    for key in reversed(ops):
        if key in needed:
            needed.update(ops[key].inputs)
    pixels: dict[str, _Pixels] = {}
    for key in (key for key in ops if key in needed):
        reader = _LayerReader(ops[key], source, read_weights)
        pixels[key] = reader.read([pixels[name] for name in ops[key].inputs])
    images, node = pixels[entry], ops[entry].node
    size = {"crop": images.crop, "fit": images.fit, "image_size": images.side}
    fields: dict[str, Any] = {name: value for name, value in size.items() if value is not None}
    if not images.is_mapped:
        return fields
    with np.errstate(all="ignore"):
        std = 1 / (255 * images.scale)
        mean = 0.0 - images.offset * std
    orders = {(0, 1, 2): "rgb", (2, 1, 0): "bgr"}
    if images.colours not in orders or not (std > 0).all() or not np.isfinite([mean, std]).all():
        raise node.error(
            source,
            f"pixels x {images.scale.tolist()} + {images.offset.tolist()} of the channels {images.colours}",
            "red, green and blue, or the reverse, less a mean and over a positive deviation",
        )
    in_rgb = list(np.argsort(images.colours))
    fields |= {"mean": mean[in_rgb].tolist(), "std": std[in_rgb].tolist()}
    fields |= {"channel_order": orders[images.colours], "standardize": "none"}
    # Whoever puts the preprocessing into a model gives it whole pictures.
    return {"crop": 1.0, "fit": "crop"} | fields


class _LayerReader:
    """Says what one layer does to images."""

    def __init__(self, op: Op, source: str, read_weights: ReadWeights) -> None:
        self._op = op
        self._node = op.node
        self._source = source
        self._read_weights = read_weights

    def read(self, inputs: list[_Pixels]) -> _Pixels:
        """Returns the output of the layer for `inputs`."""
        if self._op.kind == "input":
            return self._input()
        kind = self._node.kind
        if kind in ("TFOpLambda", "SlicingOpLambda"):
            kind = _TENSORFLOW.get(str(self._node.settings.get("function")), kind)
        read = _READERS.get(kind)
        if read is None or self._op.kind != "other" or len(inputs) != (3 if kind == "Stack" else 1):
            raise self._unknown()
        return read(self, *inputs)

    def _unknown(self, found: str = "") -> Exception:
        return self._node.error(
            self._source,
            found or "is before the network, and no part of what this project does to images",
            "Rescaling or Normalization; save the model without that layer, and prepare images so",
        )

    def _input(self) -> _Pixels:
        settings = self._node.settings
        shape = settings.get("batch_shape", settings.get("batch_input_shape"))
        check_json(shape, _INPUT, f"{self._source}: layer {self._node.name} (InputLayer): shape")
        height, width = shape[1:3] if shape else (None, None)
        if height != width:
            raise self._node.error(self._source, f"images of {height}x{width}", "square ones")
        return _Pixels((0, 1, 2), np.ones(3), np.zeros(3), height)

    def _mapped(self, images: _Pixels, scale: Any, offset: Any) -> _Pixels:
        """Returns `images` times `scale` plus `offset`, which are numbers or have one for each channel."""
        scale, offset = self._numbers(scale, images), self._numbers(offset, images)
        with np.errstate(all="ignore"):
            return images._replace(
                scale=images.scale * scale, offset=images.offset * scale + offset, is_mapped=True
            )

    def _numbers(self, value: Any, images: _Pixels) -> np.ndarray:
        try:
            numbers = np.asarray(value, np.float64).reshape(-1)
        except (TypeError, ValueError, OverflowError):
            numbers = np.zeros(0)
        if len(numbers) not in (1, len(images.colours)) or not np.isfinite(numbers).all():
            raise self._unknown(f"computes with {value!r:.60}")
        return numbers

    def _rescaling(self, images: _Pixels) -> _Pixels:
        return self._mapped(images, self._node.settings.get("scale"), self._node.settings.get("offset", 0))

    def _normalization(self, images: _Pixels) -> _Pixels:
        settings = self._node.settings
        known: dict[str, list[Any]] = {"invert": [False, None], "axis": [-1, [-1], 3, [3], None, []]}
        for name, values in known.items():
            if settings.get(name) not in values:
                raise self._unknown(f"{name}={settings[name]}")
        mean, variance = settings.get("mean"), settings.get("variance")
        if mean is None or variance is None:
            arrays = self._read_weights(self._node)
            if len(arrays) != 3:
                raise self._unknown(
                    "has never been adapted to images, so that it has neither mean nor variance"
                )
            mean, variance, _ = arrays
        with np.errstate(invalid="ignore"):
            std = np.maximum(np.sqrt(self._numbers(variance, images)), _LEAST_DEVIATION)
        return self._mapped(images, 1 / std, -self._numbers(mean, images) / std)

    def _add(self, images: _Pixels) -> _Pixels:
        return self._mapped(images, 1, self._constant())

    def _multiply(self, images: _Pixels) -> _Pixels:
        return self._mapped(images, self._constant(), 0)

    def _subtract(self, images: _Pixels) -> _Pixels:
        sign = 1 if isinstance(self._node.arguments[0], Tensor) else -1
        return self._mapped(images, sign, -sign * self._numbers(self._constant(), images))

    def _divide(self, images: _Pixels) -> _Pixels:
        if not isinstance(self._node.arguments[0], Tensor):
            raise self._unknown()
        with np.errstate(all="ignore"):
            return self._mapped(images, 1 / self._numbers(self._constant(), images), 0)

    def _constant(self) -> Any:
        return next((a for a in self._node.arguments if not isinstance(a, Tensor | str)), None)

    def _cast(self, images: _Pixels) -> _Pixels:
        dtype = self._node.settings.get("dtype") or self._node.arguments[-1]
        if "float" not in str(dtype):
            raise self._unknown(f"dtype={dtype}")
        return images

    def _channels(self, images: _Pixels) -> _Pixels:
        """Reads `x[..., index]`, where `index` is a channel, or `::-1` reverses them."""
        spec = self._node.arguments[-1]
        index = spec[-1] if isinstance(spec, list) and spec else None
        if isinstance(index, dict):
            index = index.get("config", index)
        is_last = isinstance(spec, list) and len(spec) == 2 and _is_ellipsis(spec[0])
        is_last = is_last and len(images.colours) == 3
        if is_last and isinstance(index, int) and -3 <= index < 3:
            return self._picked(images, [index])
        if is_last and index == {"start": None, "stop": None, "step": -1}:
            return self._picked(images, [2, 1, 0])
        raise self._unknown()

    def _picked(self, images: _Pixels, indices: list[int]) -> _Pixels:
        return images._replace(
            colours=tuple(images.colours[i] for i in indices),
            scale=images.scale[indices],
            offset=images.offset[indices],
            is_mapped=True,
        )

    def _stack(self, *images: _Pixels) -> _Pixels:
        axis = self._node.settings.get("axis", self._node.arguments[-1])
        if axis != -1 or any(len(image.colours) != 1 for image in images):
            raise self._unknown()
        # Inputs of an operation come in the order of its arguments if they have the same depth.
        return images[0]._replace(
            colours=tuple(image.colours[0] for image in images),
            scale=np.concatenate([image.scale for image in images]),
            offset=np.concatenate([image.offset for image in images]),
        )

    def _size(self) -> int:
        settings = self._node.settings
        check_json(settings, _SIZE, f"{self._source}: layer {self._node.name} ({self._node.kind})")
        if settings["height"] != settings["width"]:
            raise self._unknown(
                f"gives images of {settings['height']}x{settings['width']}, which are no squares"
            )
        return int(settings["height"])

    def _resizing(self, images: _Pixels) -> _Pixels:
        settings, side = self._node.settings, self._size()
        if images.side == side:
            return images
        # What is resized here is resized once, by this filter: another one gives other pixels.
        is_ours = settings.get("interpolation") == "bicubic" and settings.get("antialias") is True
        if images.side is not None or not is_ours or settings.get("pad_to_aspect_ratio"):
            raise self._unknown(
                f"resizes to {side}x{side} with interpolation={settings.get('interpolation')},"
                f" antialias={settings.get('antialias', False)}, which gives other pixels than here"
            )
        fit = "crop" if settings.get("crop_to_aspect_ratio") else "stretch"
        return images._replace(side=side, crop=1.0, fit=fit)

    def _center_crop(self, images: _Pixels) -> _Pixels:
        side = self._size()
        if images.side is None or side > images.side or (images.side - side) % 2:
            raise self._unknown(f"cuts {side}x{side} from images of {images.side or 'any'} pixels")
        return images._replace(side=side, crop=(images.crop or 1.0) * side / images.side)


# What the layers do that may stand before a network, by their class in Keras.
_READERS: dict[str, Callable[..., _Pixels]] = {
    "Add": _LayerReader._add,
    "Cast": _LayerReader._cast,
    "CenterCrop": _LayerReader._center_crop,
    "Divide": _LayerReader._divide,
    "GetItem": _LayerReader._channels,
    "Multiply": _LayerReader._multiply,
    "Normalization": _LayerReader._normalization,
    "Rescaling": _LayerReader._rescaling,
    "Resizing": _LayerReader._resizing,
    "Stack": _LayerReader._stack,
    "Subtract": _LayerReader._subtract,
    "TrueDivide": _LayerReader._divide,
}


def _is_ellipsis(value: Any) -> bool:
    return isinstance(value, dict) and value.get("class_name") == "__ellipsis__"
