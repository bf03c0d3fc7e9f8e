"""How a network is applied to an image: scales, flips, windows, and how their scores become one.

Numbers of one network under two protocols differ by percents, so a result without its protocol says little.
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
    """One way of applying a network to an image.

    Each scale of the image is scored, and its flip too, as a whole or in windows; scores are brought to the
    image's own size and summed up.

    >>> Protocol.authors("cityscapes", multi_scale=True).window
    (1024, 1024)

    Attributes:
      scales: by which the image's base size is multiplied.
      flip: whether the horizontal flip is scored too.
      window: (height, width) of the windows; None scores the image as a whole.
      stride: (vertical, horizontal) distance of windows; None is the window's size.
      base_size: the size at scale 1. None: the image's own. One number: the length of the long side (the
        authors). Two: the image is made as large as a box with this long and this short side holds
        (mmsegmentation).
      edge: what happens to windows that reach over the image's right or lower edge. "pad": they are filled
        up with black, 0 before normalisation (the authors). "shift": they are moved inside, and an image
        smaller than the window is scored at its own size (mmsegmentation).
      merge: how scores are merged.
        "exp" (the authors): the score of a window is exp(logits + un-flipped logits of the flipped window);
        the mean over windows, brought to the image's size, summed over scales.
        "softmax" (mmsegmentation): per scale and flip, the mean logits over windows, brought to the image's
        size, softmax; the mean over scales and flips.
        "logits": as "softmax" without the softmax.
      align_corners: whether images (see `image_resize`) and scores are resized with the centres of the
        corner pixels in place. None: as the network's own up-sampling (mmsegmentation).
      image_resize: "float": normalised, bilinear without antialiasing, in float32 (the authors). "uint8":
        by OpenCV in 8 bits, whatever `align_corners` (mmsegmentation).
      mean: of the channels R, G and B, in 0 to 1, subtracted before the network. None: as the network was trained,
        which is ImageNet's unless its checkpoint says otherwise.
      std: that they are divided by then; None likewise.
      flip_pairs: classes that the flip makes of each other, as `left lane=right lane`: their scores are swapped.
      mirrored: the class that the flip makes of each, by number, which `for_network` finds out; empty: all stay.
      name: stands beside the numbers.

    Raises:
      InputError: a value that does not exist or makes no sense; the message names it.
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
    flip_pairs: tuple[str, ...] = ()
    mirrored: tuple[int, ...] = ()
    name: str = "custom"

    def __post_init__(self) -> None:
        for key, existing in {"edge": EDGES, "merge": MERGES, "image_resize": IMAGE_RESIZES}.items():
            if getattr(self, key) not in existing:
                raise InputError(
                    f"{key}={getattr(self, key)!r} does not exist; there are: {', '.join(existing)}"
                )
        for key, value in list(vars(self).items()):
            if isinstance(value, list):
                object.__setattr__(self, key, tuple(value))
        for key, of_kind in {"flip": (bool,), "align_corners": (bool, type(None)), "name": (str,)}.items():
            if not isinstance(getattr(self, key), of_kind):
                raise InputError(f"{key}={getattr(self, key)!r} must be {of_kind[0].__name__}")
        if not _are_numbers(self.scales) or not self.scales or min(self.scales) <= 0:
            raise InputError(f"scales={self.scales!r} must be one or more numbers greater than 0")
        for key in ("window", "stride", "base_size"):
            value = getattr(self, key)
            numbers = (value, value) if key == "base_size" and isinstance(value, int) else value
            if value is None:
                continue
            if not _are_numbers(numbers, int) or len(numbers) != 2:
                raise InputError(f"{key}={value!r} must be two numbers, whole ones")
            if not 1 <= min(numbers) <= max(numbers) < 32768:
                raise InputError(f"{key}={value} must be at least 1 and below 32768")
        check_normalisation(*self.normalisation)
        for key in ("mean", "std"):
            if (value := getattr(self, key)) is not None:
                object.__setattr__(self, key, tuple(map(float, value)))
        if self.stride is not None:
            if self.window is None:
                raise InputError(f"stride={self.stride} needs a window", what="stride", value=self.stride)
            if self.stride[0] > self.window[0] or self.stride[1] > self.window[1]:
                raise InputError(
                    f"stride={self.stride} leaves gaps between windows of {self.window}",
                    what="stride",
                    value=self.stride,
                )

    @classmethod
    def whole(cls) -> Protocol:
        """The image as it is, at once; scores are class probabilities."""
        return cls(name="whole")

    @classmethod
    def authors(cls, dataset: str = "cityscapes", *, multi_scale: bool = False) -> Protocol:
        """The evaluation of the authors' code, with which the paper's numbers were made.

        Args:
          dataset: "cityscapes" has larger images and windows than all others.
          multi_scale: eight scales and half-overlapping windows, the paper's "MS".
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
        """The evaluation of mmsegmentation.

        Args:
          dataset: published data sets have a base size; others are taken at their own size.
          multi_scale: six scales, and flips.
          whole: True as Cityscapes' models trained on crops of 512x1024 are evaluated, False as those of
            769x769, in windows (of 480x480 for PASCAL Context). None is True for ADE20K, PASCAL VOC and COCO
            Stuff, whose models always see whole images, and False for others.
        """
        if dataset == "pascal_context" and not whole:
            crop, stride, align_corners = 480, 320, False
        else:
            crop, stride, align_corners = 769, 513, None
        seen_whole = dict.fromkeys(
            ("ade20k", "pascal_voc_aug", "coco_stuff10k", "coco_stuff164k"), (2048, 512)
        )
        whole = dataset in seen_whole if whole is None else whole
        # Models trained on crops of 769 see Cityscapes one pixel larger, too.
        cityscapes = (2048, 1024) if whole else (2049, 1025)
        base_sizes = {"cityscapes": cityscapes, "pascal_context": (520, 520), **seen_whole}
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
        """The protocol of a name in `PRESETS`, for a dataset.

        Raises:
          InputError: there is none of that name; the message names those that exist.
        """
        if name not in PRESETS:
            raise InputError(f"protocol={name!r} does not exist; there are: {', '.join(PRESETS)}")
        return PRESETS[name](dataset)

    @property
    def flips(self) -> tuple[bool, ...]:
        """Whether the image is flipped, for each view of a scale."""
        return (False, True) if self.flip else (False,)

    def scaled_size(self, scale: float, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image at a scale, rounded as the authors and mmsegmentation do."""
        base = self.base_size
        if isinstance(base, int):
            long_side = math.ceil(base * scale)
            if height > width:
                return long_side, max(1, int(width * long_side / height + 0.5))
            return max(1, int(height * long_side / width + 0.5)), long_side
        if base is None:
            if scale == 1:
                return height, width
            long_side, short_side = int(max(height, width) * scale), int(min(height, width) * scale)
        else:
            long_side, short_side = int(max(base) * scale), int(min(base) * scale)
        factor = min(long_side / max(height, width), short_side / min(height, width))
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))

    def for_network(
        self, align_corners: bool, mean: Triple = MEAN, std: Triple = STD, classes: Classes | None = None
    ) -> Protocol:
        """The protocol with nothing left to the network, whose up-sampling, normalisation and classes these are.

        Raises:
          InputError: `flip_pairs` do not fit the classes.
        """
        of_network: dict[str, Any] = {"align_corners": align_corners, "mean": mean, "std": std}
        open_ones = {key: value for key, value in of_network.items() if getattr(self, key) is None}
        if classes is not None and self.flip_pairs:
            open_ones["mirrored"] = classes.mirrored(self.flip_pairs)
        return dataclasses.replace(self, **open_ones)

    @property
    def normalisation(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation; ImageNet's where they are left to a network."""
        return MEAN if self.mean is None else self.mean, STD if self.std is None else self.std

    def replace(self, **changes: Any) -> Protocol:
        """The protocol with fields changed, which its name says.

        >>> Protocol.authors().replace(flip=False).name
        'authors, flip=False'
        """
        changes = {key: value for key, value in changes.items() if value != getattr(self, key)}
        if "name" not in changes:
            changed = ", ".join(f"{key}={value}" for key, value in changes.items())
            changes["name"] = ", ".join(filter(None, (self.name, changed)))
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Every field, as `evaluation.json` keeps it."""
        return dataclasses.asdict(self)


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


def _are_numbers(values: Any, kind: type = float) -> bool:
    """Whether it is a tuple of finite numbers, whole ones if `kind` is int."""
    kinds = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
    return isinstance(values, tuple) and all(
        isinstance(x, kinds) and not isinstance(x, bool) and math.isfinite(x) for x in values
    )
