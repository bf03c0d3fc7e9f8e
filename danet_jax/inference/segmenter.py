"""Segments images with a trained network."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image, ImageOps

from danet_jax.classes import MAX_CLASSES, Classes
from danet_jax.data.decode import decode_image, to_8_bits, to_depth
from danet_jax.errors import InputError
from danet_jax.inference.predictor import LABELS, SCORES, Predictor, Reduction, local_variables, predict
from danet_jax.inference.protocol import Protocol, protocol_of
from danet_jax.inference.scaling import whole_image_input
from danet_jax.inference.sliding import SlidingWindows
from danet_jax.inference.whole_images import WholeImages
from danet_jax.models.danet import DANet
from danet_jax.models.intermediates import AttentionMaps, Explanation, explain
from danet_jax.models.resnet import ResNet
from danet_jax.models.variables import check_fits, refuse_not_finite
from danet_jax.ops.checks import renamed_argument
from danet_jax.weights.checkpoint import Checkpoint, load_checkpoint
from danet_jax.weights.download import download

AHEAD = {"cpu": 1, "other": 2}
"""The number of parts that a device works on while the host uses the results of the previous one. A CPU would compute
several concurrently and need memory for each."""


class Segmenter:
    """Segments images: `segmenter(images)` returns labels, and `segmenter.scores(images)` returns their scores.

    >>> import danet_jax
    >>> segment = danet_jax.load_segmenter("runs/quickstart")  # doctest: +SKIP
    >>> labels = segment("photo.jpg")  # doctest: +SKIP
    >>> segment.overlay("photo.jpg").show()  # doctest: +SKIP

    However many sizes images have, at most eight functions are compiled, and further ones for two, four or eight small
    images at a time, which are faster together. Segmenting an image of any size takes little memory, because scores are
    merged and dropped part by part.

    Args:
      model: the network.
      variables: its parameters and batch statistics.
      protocol: how the network is applied to an image; None applies it to the whole image at once. The protocol's
        `bits` are those of the images that the network was trained on: for more than 8, images are uint16 from 0 to
        `2**bits - 1`.
      classes: the names and colours for drawing results.
      mesh: devices of this host. Images are sharded over its axis `data` and their rows over `space`. None uses the
        first device.

    Raises:
      InputError: an argument has the wrong type, the variables or the classes do not fit the model, a variable
        contains NaN or Inf, or there are more classes than 8-bit labels can represent.
    """

    def __init__(
        self,
        model: DANet,
        variables: Mapping[str, Any],
        protocol: Protocol | None = None,
        classes: Classes | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        self._predictor = make_predictor(model, protocol, classes, mesh, jax.local_devices()[:1])
        if model.num_classes > MAX_CLASSES:
            raise InputError(
                f"model has {model.num_classes} classes, but labels are 8-bit, which allows at most {MAX_CLASSES}",
                what="model",
                value=model.num_classes,
                allowed=MAX_CLASSES,
            )
        if classes is not None and len(classes) != model.num_classes:
            raise InputError(
                f"classes describes {len(classes)} classes, but the network has {model.num_classes}",
                what="classes",
                value=len(classes),
                allowed=model.num_classes,
            )
        on_cpu = self._predictor.mesh.devices.flat[0].platform == "cpu"
        self._ahead = AHEAD["cpu" if on_cpu else "other"]
        self.model, self.protocol, self.classes = model, self._predictor.protocol, classes
        self.bits_used = self.protocol.depth if self.protocol.depth > 8 else 16
        """The number of bits that are used in the 16-bit channels of image files."""
        self.variables = self._checked_variables(variables)

    def with_variables(self, variables: Mapping[str, Any]) -> Segmenter:
        """Returns a segmenter with other variables of the same shapes, which shares the compiled functions.

        Raises:
          InputError: the variables do not fit the model, or contain NaN or Inf.
        """
        other = copy.copy(self)
        other.variables = self._checked_variables(variables)
        return other

    def _checked_variables(self, variables: Mapping[str, Any]) -> Any:
        check_fits(self.model, variables)
        variables = local_variables(variables)
        refuse_not_finite(variables)
        return jax.device_put(variables, NamedSharding(self._predictor.mesh, PartitionSpec()))

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return self.model.num_classes

    @property
    def drawn_classes(self) -> Classes:
        """The names and colours for drawing results: `classes`, or numbers if those are not known."""
        return self.classes or Classes.named([f"class {index}" for index in range(self.num_classes)])

    def __call__(self, images: Any) -> Any:
        """Returns the labels of images of any size.

        Args:
          images: uint8 `[B, H, W, 3]` RGB; or one image: uint8 `[H, W, 3]`, a `PIL.Image`, a path, or an address such
            as `https://HOST/photo.jpg`; or a list of images. Files are rotated according to their EXIF orientation.
            Arrays are uint16 if `protocol.bits` is more than 8.

        Returns:
          int32 `[B, H, W]` for a batch, `[H, W]` for one image, or a list of label maps for a list.

        Raises:
          InputError: `images` is none of these, or a file cannot be read.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(map(self._image, images)))
        batch = self._checked(images) if np.ndim(images) == 4 else self._image(images)[None]
        labels = np.stack(list(self._predict(batch, LABELS, exact=True))).astype(np.int32)
        return labels if np.ndim(images) == 4 else labels[0]

    def overlay(self, images: Any, *, legend: bool = True, outlines: bool = False) -> Any:
        """Returns an image with its labels drawn over it and a legend, as a `PIL.Image`.

        Args:
          images: as for `__call__`; for a batch or a list, a list of images is returned.
          legend: whether a legend of the classes is drawn below the image.
          outlines: draw only the outlines of the classes, in their colours.

        Raises:
          InputError: see `__call__`.
        """
        from danet_jax.inference.drawing import overlay

        classes = self.drawn_classes
        several = isinstance(images, list | tuple) or np.ndim(images) == 4
        pixels = [self._image(image) for image in (images if several else [images])]
        overlays = [
            overlay(to_8_bits(image, self.protocol.depth), labels, classes, legend=legend, outlines=outlines)
            for image, labels in zip(pixels, self(pixels), strict=True)
        ]
        return overlays if several else overlays[0]

    def stream(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the labels, int32 `[H, W]`, of one image `[H, W, 3]` after another, in their order.

        Consecutive images of the same size are batched. The device works on a batch while earlier results are used and
        later images are read; at most four batches are in memory. Images are copied, so they may all be read into one
        buffer.

        Raises:
          InputError: an image is not an array of the type that `__call__` takes.
        """
        copies = (np.array(self._checked(image, "H W 3")) for image in images)
        for labels in self._predict(copies, LABELS, exact=False):
            yield labels.astype(np.int32)

    def scores(self, images: np.ndarray | jax.Array) -> np.ndarray:
        """Returns the score of each class, float32 `[B, H, W, K]`, as the protocol merges them, at the images' size.

        With "softmax", scores are class probabilities; with "logits", they are logits. With "exp", they are the
        authors' sums of exponentials, which are not normalised over classes and may have any magnitude. In a pixel
        whose largest score is not between exp(-60) and exp(80), all scores are divided by a common factor that brings
        it into this range, so that they neither overflow nor vanish and keep their order and ratios.

        Raises:
          InputError: `images` is not an array `[B, H, W, 3]` of the type that `__call__` takes.
        """
        images = self._checked(images)
        scores = np.empty((*images.shape[:3], self.num_classes), np.float32)
        for index, result in enumerate(self._predict(images, SCORES, exact=True)):
            scores[index] = result
        return scores

    def explain(self, image: np.ndarray | jax.Array) -> Explanation:
        """Returns what the network computes for one image, `[H, W, 3]` RGB: queries, keys, scales and logits.

        The network is applied to the whole image at the protocol's base size, without flips, regardless of the
        protocol's scales and windows.

        Raises:
          InputError: `image` is not an array of the type that `__call__` takes.
        """
        image = self._checked(image, "H W 3", "image")
        return explain(self.model, self.variables, whole_image_input(self.protocol, image))

    @renamed_argument("places", "positions")
    def attention(
        self, image: np.ndarray | jax.Array, positions: Sequence[Sequence[int]] | np.ndarray
    ) -> AttentionMaps:
        """Returns exact rows and columns of the position attention map, float32 `[K, h, w]` each.

        Args:
          image: see `explain`; for several calls with one image, keep `explain(image)` and use its `maps`.
          positions: int `[K, 2]`, (row, column) at the network's output stride: for pixel (y, x) of the network's
            input, (y // 8, x // 8).

        Raises:
          InputError: `image` or `positions` has the wrong type or shape, or the network has no position attention.
        """
        return self.explain(image).maps(positions)

    def _predict(
        self, images: Iterable[np.ndarray], reduction: Reduction, *, exact: bool
    ) -> Iterator[np.ndarray]:
        """Yields the reduction of each image, `[H, W]` or `[H, W, K]`, in their order."""
        batch, arrays = None, []
        parts = predict(
            self._predictor,
            self.variables,
            ((image,) for image in images),
            reduction,
            in_order=True,
            ahead=self._ahead,
            exact=exact,
        )
        for items, part in parts:
            results = np.asarray(part.results)
            if items is not batch:
                batch = items
                arrays = [np.empty((*x.shape[:2], *results.shape[3:]), results.dtype) for (x,) in items]
            for (index, top, left), result in zip(part.regions, results, strict=False):
                region = arrays[index][top:, left:][: result.shape[0], : result.shape[1]]
                region[...] = result[: region.shape[0], : region.shape[1]]  # the rest is past the image
                # Tiles come from top to bottom and from left to right.
                if (top + region.shape[0], left + region.shape[1]) == arrays[index].shape[:2]:
                    yield arrays[index]

    def _image(self, image: Any) -> np.ndarray:
        """Returns one image, given as a path, an address, a `PIL.Image` or an array, as an array `[H, W, 3]`."""
        depth = self.protocol.depth
        if isinstance(image, str | os.PathLike):
            path = download(image) if isinstance(image, str) and "://" in image else Path(image)
            try:
                data = path.read_bytes()
            except (OSError, ValueError) as error:  # A path that contains NUL is a ValueError.
                reason = getattr(error, "strerror", None) or error
                raise InputError(f"images: {image} cannot be read: {reason}", what="images") from error
            return decode_image(data, os.fspath(image), upright=True, bits=self.bits_used, depth=depth)
        if isinstance(image, Image.Image):
            if image.mode.startswith(("I", "F")):  # `convert` would clip these to 8 bits.
                raise InputError(
                    f"images: a PIL.Image of mode {image.mode} has more than 8 bits; pass its file or an array",
                    what="images",
                    value=image.mode,
                )
            image = to_depth(np.asarray(ImageOps.exif_transpose(image).convert("RGB")), depth)
        return self._checked(image, "H W 3")

    def _checked(self, images: Any, shape: str = "B H W 3", name: str = "images") -> np.ndarray:
        return validate_images(images, shape, name, self.protocol.depth)


def make_predictor(
    model: Any, protocol: Any, classes: Any, mesh: Any, devices: Sequence[jax.Device]
) -> Predictor:
    """Returns a predictor of the network under the protocol, on this host's devices of `mesh`, or else on `devices`.

    Raises:
      InputError: an argument has the wrong type; None is allowed for all but `model`.
    """
    if not isinstance(model, nn.Module) or isinstance(model, ResNet) or not hasattr(model, "num_classes"):
        raise InputError(f"model must be a danet_jax.DANet, not {type(model).__name__}", what="model")
    _check_types(protocol=protocol, classes=classes, mesh=mesh)
    protocol = (protocol or Protocol.whole()).for_network(model.align_corners, classes=classes)
    if mesh is not None and tuple(mesh.axis_names) == ("data", "space"):
        mesh = mesh.local_mesh
    else:
        local_devices = devices if mesh is None else mesh.local_devices
        mesh = Mesh(np.asarray(local_devices).reshape(-1, 1), ("data", "space"))
    kind: Any = WholeImages if protocol.window is None else SlidingWindows
    return kind(model, protocol, mesh)


def load_segmenter(
    path: str | os.PathLike[str],
    protocol: Protocol | None = None,
    **overrides: Any,
) -> Segmenter:
    """Returns a segmenter of a trained run or of any checkpoint.

    >>> import danet_jax
    >>> segment = danet_jax.load_segmenter("runs/quickstart")  # doctest: +SKIP
    >>> labels = segment("photo.jpg")  # doctest: +SKIP

    Args:
      path: a run's directory, whose best checkpoint is used; a checkpoint's file or address; or a name in the zoo.
      protocol: how the network is applied to an image. None uses the protocol that the run was evaluated with, or, for
        other checkpoints, applies the network to the whole image at once.
      **overrides: see `load_checkpoint`.

    Raises:
      InputError: there is no trained network at `path`, or it is only a backbone.
    """
    _check_types(protocol=protocol)
    checkpoint = load_checkpoint(path, **overrides)
    checkpoint.refuse_backbone(path)
    segmenter = Segmenter(
        checkpoint.network, checkpoint.variables, protocol_for(checkpoint, protocol), checkpoint.classes
    )
    segmenter.bits_used = checkpoint.bits_used
    return segmenter


def protocol_for(checkpoint: Checkpoint, protocol: Protocol | None = None) -> Protocol:
    """Returns `protocol` with its open fields taken from the network of a checkpoint.

    None stands for the protocol that a run was evaluated with, and for other checkpoints for that of whole images.
    """
    if protocol is None and "evaluation" in checkpoint.config:
        protocol = protocol_of(checkpoint.config)
    return (protocol or Protocol.whole()).for_network(
        checkpoint.network.align_corners,
        checkpoint.mean,
        checkpoint.std,
        checkpoint.classes,
        checkpoint.bits,
    )


def _check_types(*, protocol: Any = None, classes: Any = None, mesh: Any = None) -> None:
    for name, value, kind, allowed in (
        ("protocol", protocol, Protocol, "a danet_jax.Protocol, such as Protocol.authors()"),
        ("classes", classes, Classes, "danet_jax.Classes, such as Classes.named([...])"),
        ("mesh", mesh, Mesh, "a jax.sharding.Mesh"),
    ):
        if value is not None and not isinstance(value, kind):
            raise InputError(
                f"{name} must be {allowed}, not {value!r}", what=name, value=value, allowed=allowed
            )


def validate_images(images: Any, shape: str = "B H W 3", name: str = "images", bits: int = 8) -> np.ndarray:
    """Returns images as a non-empty array of this shape: uint8, or uint16 for more than 8 bits.

    Raises:
      InputError: the array has another type or shape, or contains values larger than `2**bits - 1`.
    """
    found, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    dimensions, kind = shape.split(), "uint8" if bits == 8 else "uint16"
    allowed = f"{kind} [{', '.join(dimensions)}] RGB"
    if found is None or len(found) != len(dimensions) or found[-1] != 3 or dtype != kind:
        given = type(images).__name__ if found is None else f"{dtype} {list(found)}"
        remedy = ""
        if {str(dtype), kind} == {"uint8", "uint16"}:
            remedy = f"; the network was trained on {bits}-bit images, so pass values from 0 to {2**bits - 1}"
        raise InputError(
            f"{name} must be {allowed}, not {given}{remedy}", what=name, value=given, allowed=allowed
        )
    if 0 in found:
        raise InputError(f"{name} must not be empty: {list(found)}", what=name, allowed=allowed)
    images = np.asarray(images)
    if 8 < bits < 16 and (largest := int(images.max())) >> bits:
        raise InputError(
            f"{name}: the value {largest} is too large; the network was trained on {bits}-bit images, "
            f"0 to {2**bits - 1}",
            what=name,
            value=largest,
            allowed=range(2**bits),
        )
    return images
