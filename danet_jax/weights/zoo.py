"""Published checkpoints: their addresses, training settings and mIoU."""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Any

from danet_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Entry:
    """A published checkpoint.

    Attributes:
      name: the name to pass to `load_checkpoint`.
      url: the address of the file, whose name ends in the first digits of its SHA-256.
      dataset: the data set that the network was trained on.
      crop: height and width of the training crops in pixels; None for ImageNet classifiers.
      iterations: the number of training steps, with batches of 8 (Cityscapes) or 16 images.
      miou, miou_multi_scale: published mean IoU in % on the validation split, at a single scale, and at several scales
        with flipping.
      options: arguments of `DANet` that the tensors do not determine.
    """

    name: str
    url: str
    dataset: str
    crop: tuple[int, int] | None = None
    iterations: int | None = None
    miou: float | None = None
    miou_multi_scale: float | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """The first 8 digits of the file's SHA-256."""
        return re.fullmatch(r".*-([0-9a-f]{8})\.pth", self.url)[1]  # type: ignore[index]

    @property
    def digest(self) -> str:
        """The same digits in the form that `download` takes."""
        return f"sha256:{self.sha256}"


_MMSEG = "https://download.openmmlab.com/mmsegmentation/v0.5/danet"
_MMPRETRAIN = "https://download.openmmlab.com/pretrain/third_party"
_TORCHVISION = "https://download.pytorch.org/models"

# Depth, crop, iterations, data set, end of the file name, mIoU, mIoU at several scales with flipping.
# Source: configs/danet/metafile.yaml of mmsegmentation 1.x.
_DANETS = (
    (50, (512, 1024), "40k", "cityscapes", "20200605_191324-c0dbfa5f", 78.74, None),
    (101, (512, 1024), "40k", "cityscapes", "20200605_200831-c57a7157", 80.52, None),
    (50, (769, 769), "40k", "cityscapes", "20200530_025703-76681c60", 78.88, 80.62),
    (101, (769, 769), "40k", "cityscapes", "20200530_025717-dcb7fd4e", 79.88, 81.47),
    (50, (512, 1024), "80k", "cityscapes", "20200607_133029-2bfa2293", 79.34, None),
    (101, (512, 1024), "80k", "cityscapes", "20200607_132918-955e6350", 80.41, None),
    (50, (769, 769), "80k", "cityscapes", "20200607_132954-495689b4", 79.27, 80.96),
    (101, (769, 769), "80k", "cityscapes", "20200607_132918-f3a929e7", 80.47, 82.02),
    (50, (512, 512), "80k", "ade20k", "20200615_015125-edb18e08", 41.66, 42.90),
    (101, (512, 512), "80k", "ade20k", "20200615_015126-d0357c73", 43.64, 45.19),
    (50, (512, 512), "160k", "ade20k", "20200616_082340-9cb35dcd", 42.45, 43.25),
    (101, (512, 512), "160k", "ade20k", "20200616_082348-23bf12f9", 44.17, 45.02),
    (50, (512, 512), "20k", "voc12aug", "20200618_070026-9e9e3ab3", 74.45, 75.69),
    (101, (512, 512), "20k", "voc12aug", "20200618_070026-d48d23b2", 76.02, 77.23),
    (50, (512, 512), "40k", "voc12aug", "20200613_235526-426e3a64", 76.37, 77.29),
    (101, (512, 512), "40k", "voc12aug", "20200613_223031-788e232a", 76.51, 77.32),
)

# torchvision's original (v1) and newer (v2) ImageNet weights, and the ones that mmsegmentation starts from.
_BACKBONES = (
    ("torchvision/resnet18", f"{_TORCHVISION}/resnet18-f37072fd.pth"),
    ("torchvision/resnet34", f"{_TORCHVISION}/resnet34-b627a593.pth"),
    ("torchvision/resnet50", f"{_TORCHVISION}/resnet50-0676ba61.pth"),
    ("torchvision/resnet50_v2", f"{_TORCHVISION}/resnet50-11ad3fa6.pth"),
    ("torchvision/resnet101", f"{_TORCHVISION}/resnet101-63fe2227.pth"),
    ("torchvision/resnet101_v2", f"{_TORCHVISION}/resnet101-cd907fc2.pth"),
    ("openmmlab/resnet18_v1c", f"{_MMPRETRAIN}/resnet18_v1c-b5776b93.pth"),
    ("openmmlab/resnet50_v1c", f"{_MMPRETRAIN}/resnet50_v1c-2cccc1ad.pth"),
    ("openmmlab/resnet101_v1c", f"{_MMPRETRAIN}/resnet101_v1c-e67eebb6.pth"),
)


def _danet(depth, crop, iterations, dataset, suffix, miou, miou_multi_scale) -> Entry:
    name = f"danet_r{depth}-d8_{crop[0]}x{crop[1]}_{iterations}_{dataset}"
    return Entry(
        name=f"mmseg/{name}",
        url=f"{_MMSEG}/{name}/{name}_{suffix}.pth",
        dataset=dataset,
        crop=crop,
        iterations=1000 * int(iterations.removesuffix("k")),
        miou=miou,
        miou_multi_scale=miou_multi_scale,
        options={"align_corners": crop == (769, 769), "multi_grid": None},
    )


ZOO: tuple[Entry, ...] = (
    *(_danet(*row) for row in _DANETS),
    *(Entry(name, url, "imagenet") for name, url in _BACKBONES),
)
"""All checkpoints that `load_checkpoint` can load by name."""


def find(name: str) -> Entry:
    """Returns the entry called `name`.

    Raises:
      InputError: there is no such entry; the message contains the nearest names.
    """
    for entry in ZOO:
        if entry.name == name:
            return entry
    near = difflib.get_close_matches(name, [entry.name for entry in ZOO], n=3, cutoff=0.5)
    hint = f"; the zoo has {', '.join(near)}" if near else ""
    raise InputError(
        f"{name} is neither a file nor a checkpoint in the zoo (see --mode=zoo){hint}",
        what=name,
        allowed=tuple(entry.name for entry in ZOO),
    )
