"""How a network is applied to an image: scales, flips, windows, and how their scores are merged.

The results of one network under two protocols differ by several percent, so a number means little without its protocol.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.ops.normalize import MEAN, STD, check_normalisation

Triple = tuple[float, float, float]

EDGES = ("pad", "shift")
MERGES = ("exp", "softmax", "logits")
IMAGE_RESIZES = ("float", "uint8")

AUTHORS_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.2)
MMSEG_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a network is applied to an image.

    Each scale of the image, and its flip if requested, is scored as a whole or in windows. The scores are resized to
    the image's own size and merged.

    >>> Protocol.authors("cityscapes", multi_scale=True).window
    (1024, 1024)

    Attributes:
      scales: the factors by which the image's base size is multiplied.
      flip: whether the horizontal flip is scored too.
      window: (height, width) of the windows; None scores the image as a whole.
      stride: (vertical, horizontal) distance of windows; None is the window's size.
      base_size: the size at scale 1. None: the image's own. One number: the length of the long side (the authors).
        Two: the image is resized to the largest size that fits a box with this long and this short side
        (mmsegmentation).
      edge: what happens to windows that extend past the image's right or lower edge. "pad": they are padded with black,
        0 before normalisation (the authors). "shift": they are moved inside, and an image that is smaller than the
        window is scored at its own size (mmsegmentation).
      merge: how scores are merged.
        "exp" (the authors): the score of a window is exp(logits + un-flipped logits of the flipped window); the mean
        over windows, resized to the image's size, summed over scales.
        "softmax" (mmsegmentation): per scale and flip, the mean logits over windows, resized to the image's size,
        softmax; the mean over scales and flips.
        "logits": as "softmax" without the softmax.
      align_corners: whether images (see `image_resize`) and scores are resized with the centres of the corner pixels
        in place. None: as the network's own up-sampling (mmsegmentation).
      image_resize: "float": normalised, bilinear without antialiasing, in float32 (the authors). "uint8": by OpenCV in
        8 bits, regardless of `align_corners` (mmsegmentation).
      mean: what is subtracted from the channels R, G and B, which range from 0 to 1. None: the mean that the network
        was trained with, which is ImageNet's unless its checkpoint says otherwise.
      std: what the channels are divided by after that. None: as for `mean`.
      bits: the bits per channel of the images. Pixel values are divided by `2**bits - 1`, and images of more than 8
        bits are uint16 and resized in float32 regardless of `image_resize`. None: the bits that the network was trained
        with, which are 8 unless its checkpoint says otherwise.
      flip_pairs: pairs of classes that a flip turns into each other, such as `left lane=right lane`; their scores are
        swapped in flipped images.
      mirrored: for each class, the index of the class that a flip turns it into, set by `for_network`. Empty: no class
        changes.
      name: the name that is shown with results.

    Raises:
      InputError: a field has the wrong type or is out of range; `what` names it.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    base_size: int | tuple[int, int] | None = None
    edge: str = "shift"
    merge: str = "softmax"
    align_corners: bool | None = False
    image_resize: str = "float"
    mean: Triple | None = None
    std: Triple | None = None
    bits: int | None = None
    flip_pairs: tuple[str, ...] = ()
    mirrored: tuple[int, ...] = ()
    name: str = "custom"

    def __post_init__(self) -> None:
        for key, value in list(vars(self).items()):
            if isinstance(value, list):
                object.__setattr__(self, key, tuple(value))
        for key, allowed in {"edge": EDGES, "merge": MERGES, "image_resize": IMAGE_RESIZES}.items():
            if getattr(self, key) not in allowed:
                raise self._error(key, f"must be one of {', '.join(allowed)}", allowed)
        for key, kinds in {"flip": (bool,), "align_corners": (bool, type(None)), "name": (str,)}.items():
            if not isinstance(getattr(self, key), kinds):
                raise self._error(key, f"must be {' or '.join(kind.__name__ for kind in kinds)}", kinds)
        if not _are_numbers(self.scales) or not all(0 < scale <= 100 for scale in self.scales or (0,)):
            raise self._error("scales", "must be one or more numbers above 0 and at most 100")
        for key in ("window", "stride", "base_size"):
            value = getattr(self, key)
            if value is None:
                continue
            numbers = (value, value) if key == "base_size" and isinstance(value, int) else value
            if not _are_numbers(numbers, int) or len(numbers) != 2:
                raise self._error(key, "must be two integers")
            if not 1 <= min(numbers) <= max(numbers) < 32768:
                raise self._error(key, "must be at least 1 and below 32768")
        if self.bits is not None and (not _are_numbers((self.bits,), int) or not 8 <= self.bits <= 16):
            raise self._error("bits", "must be an integer from 8 to 16, or None")
        check_normalisation(*self.normalisation)
        for key in ("mean", "std"):
            if (value := getattr(self, key)) is not None:
                object.__setattr__(self, key, tuple(map(float, value)))
        if self.stride is not None:
            if self.window is None:
                raise self._error("stride", "needs a window")
            if self.stride[0] > self.window[0] or self.stride[1] > self.window[1]:
                raise self._error("stride", f"leaves gaps between windows of {self.window}", self.window)

    def _error(self, key: str, problem: str, allowed: Any = None) -> InputError:
        value = getattr(self, key)
        return InputError(f"{key}={value!r} {problem}", what=key, value=value, allowed=allowed)

    @classmethod
    def whole(cls) -> Protocol:
        """Returns the protocol of whole images at their own size; scores are class probabilities."""
        return cls(name="whole")

    @classmethod
    def authors(cls, dataset: str = "cityscapes", *, multi_scale: bool = False) -> Protocol:
        """Returns the protocol of the authors' code, with which the paper's results were obtained.

        Args:
          dataset: "cityscapes" has larger images and windows than all others.
          multi_scale: use eight scales and half-overlapping windows, the paper's "MS".
        """
        if dataset == "cityscapes":
            base_size, crop = 2048, 1024 if multi_scale else 768
        else:
            base_size, crop = 520, 480
        stride = crop // 2 if multi_scale else int(crop * 2 / 3)
        return cls(
            scales=AUTHORS_SCALES if multi_scale else (1.0,),
            flip=True,
            window=(crop, crop),
            stride=(stride, stride),
            base_size=base_size,
            edge="pad",
            merge="exp",
            align_corners=True,
            name="authors_ms" if multi_scale else "authors",
        )

    @classmethod
    def mmseg(
        cls, dataset: str = "cityscapes", *, multi_scale: bool = False, whole: bool | None = None
    ) -> Protocol:
        """Returns the protocol of mmsegmentation.

        Args:
          dataset: published data sets have a base size; images of others keep their own size.
          multi_scale: use six scales, and flips.
          whole: True for the Cityscapes models that were trained on crops of 512x1024; False for those of 769x769,
            which are evaluated in windows (of 480x480 for PASCAL Context). None stands for True for ADE20K, PASCAL VOC
            and COCO Stuff, whose models are always applied to whole images, and for False otherwise.
        """
        if dataset == "pascal_context" and not whole:
            crop, stride, align_corners = 480, 320, False
        else:
            crop, stride, align_corners = 769, 513, None
        whole_sizes = dict.fromkeys(
            ("ade20k", "pascal_voc_aug", "coco_stuff10k", "coco_stuff164k"), (2048, 512)
        )
        whole = dataset in whole_sizes if whole is None else whole
        # Models trained on crops of 769 see Cityscapes one pixel larger, too.
        cityscapes = (2048, 1024) if whole else (2049, 1025)
        base_sizes = {"cityscapes": cityscapes, "pascal_context": (520, 520), **whole_sizes}
        return cls(
            scales=MMSEG_SCALES if multi_scale else (1.0,),
            flip=multi_scale,
            window=None if whole else (crop, crop),
            stride=None if whole else (stride, stride),
            base_size=base_sizes.get(dataset),
            edge="shift",
            merge="softmax",
            align_corners=align_corners,
            image_resize="uint8",
            name=f"mmseg{'_whole' if whole else ''}{'_ms' if multi_scale else ''}",
        )

    @classmethod
    def preset(cls, name: str, dataset: str = "cityscapes") -> Protocol:
        """Returns the protocol of `PRESETS` with this name, for a data set.

        Raises:
          InputError: there is no protocol of this name.
        """
        if name not in PRESETS:
            raise InputError(
                f"protocol={name!r} must be one of {', '.join(PRESETS)}",
                what="protocol",
                value=name,
                allowed=list(PRESETS),
            )
        return PRESETS[name](dataset)

    @property
    def flips(self) -> tuple[bool, ...]:
        """For each view of a scale, whether it is flipped."""
        return (False, True) if self.flip else (False,)

    def scaled_size(self, scale: float, height: int, width: int) -> tuple[int, int]:
        """Returns the height and width of an image at a scale, rounded as the authors and mmsegmentation do."""
        base = self.base_size
        if isinstance(base, int):
            long_side = math.ceil(base * scale)
            if height > width:
                return long_side, max(1, int(width * long_side / height + 0.5))
            return max(1, int(height * long_side / width + 0.5)), long_side
        if base is None and scale == 1:
            return height, width
        box = base or (height, width)
        long_side, short_side = int(max(box) * scale), int(min(box) * scale)
        factor = min(long_side / max(height, width), short_side / min(height, width))
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))

    def for_network(
        self,
        align_corners: bool,
        mean: Triple = MEAN,
        std: Triple = STD,
        classes: Classes | None = None,
        bits: int = 8,
    ) -> Protocol:
        """Returns the protocol with the fields that are None taken from a network.

        Args:
          align_corners: how the network up-samples.
          mean: the mean that the images of its training were normalised with.
          std: their standard deviation.
          classes: its classes, to which the names in `flip_pairs` refer.
          bits: the bits per channel of the images that it was trained on.

        Raises:
          InputError: `flip_pairs` names a class that does not exist.
        """
        network_fields: dict[str, Any] = {
            "align_corners": align_corners,
            "mean": mean,
            "std": std,
            "bits": bits,
        }
        changes = {key: value for key, value in network_fields.items() if getattr(self, key) is None}
        if classes is not None and self.flip_pairs:
            changes["mirrored"] = classes.mirrored(self.flip_pairs)
        return dataclasses.replace(self, **changes)

    @property
    def normalisation(self) -> tuple[Triple, Triple]:
        """The mean and the standard deviation; ImageNet's where they are not set."""
        return MEAN if self.mean is None else self.mean, STD if self.std is None else self.std

    @property
    def depth(self) -> int:
        """The bits per channel of the images; 8 if they are not set."""
        return self.bits or 8

    @property
    def pixel_type(self) -> Any:
        """The type of the images, uint8 or uint16."""
        return np.uint8 if self.depth == 8 else np.uint16

    def replace(self, **changes: Any) -> Protocol:
        """Returns the protocol with some fields changed, and with the changes added to its name.

        >>> Protocol.authors().replace(flip=False).name
        'authors, flip=False'
        """
        fields = [field.name for field in dataclasses.fields(self)]
        for key, value in changes.items():
            if key not in fields:
                raise InputError(
                    f"{key} is not a field of Protocol; its fields are: {', '.join(fields)}",
                    what=key,
                    value=value,
                    allowed=fields,
                )
        changes = {key: value for key, value in changes.items() if value != getattr(self, key)}
        if "name" not in changes:
            changed = ", ".join(f"{key}={value}" for key, value in changes.items())
            changes["name"] = ", ".join(filter(None, (self.name, changed)))
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Returns all fields as stored in `evaluation.json`, where `bits` is left out for images of 8 bits."""
        fields = dataclasses.asdict(self)
        if self.depth == 8:
            del fields["bits"]
        return fields


PRESETS: Mapping[str, Callable[[str], Protocol]] = {
    "whole": lambda _: Protocol.whole(),
    "authors": Protocol.authors,
    "authors_ms": partial(Protocol.authors, multi_scale=True),
    "mmseg": Protocol.mmseg,
    "mmseg_ms": partial(Protocol.mmseg, multi_scale=True),
    "mmseg_whole": partial(Protocol.mmseg, whole=True),
    "mmseg_whole_ms": partial(Protocol.mmseg, multi_scale=True, whole=True),
}
"""Protocols for a data set, by their names on the command line, `--config.evaluation.protocol=NAME`."""

_OPTIONS = {field.name for field in dataclasses.fields(Protocol)} - {"name", "bits", "flip_pairs", "mirrored"}


def protocol_of(config: Mapping[str, Any]) -> Protocol:
    """Returns the protocol of a recipe.

    The protocol is that named by `evaluation.protocol`, for the data set `dataset.name`. The other options of
    `evaluation` replace its fields: None keeps the protocol's own value, and `()` removes a window, a stride or a base
    size. A `base_size` of one number is the length of the long side; two numbers are the size of a box.
    `whole_base_size` applies only to the protocol "whole". If `dataset.flip` is False, no mirrored images are scored,
    since classes depend on the side. The scores of `dataset.flip_pairs` are swapped in mirrored images.

    Args:
      config: the recipe as nested mappings of simple types, with at least the groups `dataset` and `evaluation`.

    Raises:
      InputError: a group is missing, or an option does not exist or has an invalid value.
    """
    for group in ("dataset", "evaluation"):
        if not isinstance(options := config.get(group), Mapping):
            raise InputError(
                f"config.{group}={options!r} must be a group of options",
                what=f"config.{group}",
                value=options,
            )
    dataset = config["dataset"]
    changes = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config["evaluation"].items()
        if value is not None
    }
    name, whole_base_size = changes.pop("protocol", "whole"), changes.pop("whole_base_size", None)
    for key in changes.keys() - _OPTIONS:
        raise InputError(
            f"config.evaluation.{key} does not exist; there are: {', '.join(sorted(_OPTIONS))}",
            what=f"config.evaluation.{key}",
            allowed=_OPTIONS,
        )
    if name == "whole" and whole_base_size is not None:
        changes.setdefault("base_size", whole_base_size)
    if not dataset.get("flip", True):
        if changes.get("flip"):
            raise InputError(
                "config.evaluation.flip=True flips images, but with config.dataset.flip=False their classes depend on "
                "the side; set config.evaluation.flip=False",
                what="config.evaluation.flip",
                value=True,
            )
        changes["flip"] = False
    for key in {"window", "stride", "base_size"} & changes.keys():
        changes[key] = changes[key] or None
    if isinstance(base := changes.get("base_size"), tuple) and len(base) == 1:
        changes["base_size"] = base[0]
    if "window" in changes and changes["window"] is None:
        changes["stride"] = None
    try:
        protocol = Protocol.preset(str(name), str(dataset.get("name", "cityscapes"))).replace(**changes)
        return protocol.replace(flip_pairs=tuple(dataset.get("flip_pairs") or ()) if protocol.flip else ())
    except InputError as error:
        raise error.in_group("config.evaluation.") from error


def _are_numbers(values: Any, kind: type = float) -> bool:
    """Returns whether `values` is a tuple of finite numbers, which must be integers if `kind` is int."""
    kinds = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
    return isinstance(values, tuple) and all(
        isinstance(x, kinds) and not isinstance(x, bool) and math.isfinite(x) for x in values
    )
