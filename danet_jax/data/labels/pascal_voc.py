"""PASCAL VOC 2012: background and 20 classes; files hold train ids already, 255 for the void border."""

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data.labels.mapping import LabelMapping, bit_colours

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)

MAPPING = LabelMapping(
    classes=Classes(NAMES, bit_colours(range(len(NAMES)))),
    ids=tuple(range(len(NAMES))),
    others=frozenset({IGNORE_LABEL}),
)
