"""PASCAL Context: the 59 most frequent of its 459 categories, optionally with background as a 60th class.

Mottaghi et al., CVPR 2014. The order is the publisher's list of 59; the ids are those of the `.mat` files,
numbered from 1 by the publisher's `labels.txt`.
"""

from danet_jax.classes import Classes
from danet_jax.data.labels.ade20k import CLASSES as _ADE20K
from danet_jax.data.labels.mapping import LabelMapping

CATEGORIES = (
    ("aeroplane", 2),
    ("bicycle", 23),
    ("bird", 25),
    ("boat", 31),
    ("bottle", 34),
    ("bus", 45),
    ("car", 59),
    ("cat", 65),
    ("chair", 72),
    ("cow", 98),
    ("diningtable", 397),
    ("dog", 113),
    ("horse", 207),
    ("motorbike", 258),
    ("person", 284),
    ("pottedplant", 308),
    ("sheep", 347),
    ("sofa", 368),
    ("train", 416),
    ("tvmonitor", 427),
    ("bag", 9),
    ("bed", 18),
    ("bench", 22),
    ("book", 33),
    ("building", 44),
    ("cabinet", 46),
    ("ceiling", 68),
    ("clothes", 80),
    ("computer", 85),
    ("cup", 104),
    ("door", 115),
    ("fence", 144),
    ("floor", 158),
    ("flower", 159),
    ("food", 162),
    ("grass", 187),
    ("ground", 189),
    ("keyboard", 220),
    ("light", 232),
    ("mountain", 259),
    ("mouse", 260),
    ("curtain", 105),
    ("platform", 296),
    ("sign", 355),
    ("plate", 295),
    ("road", 324),
    ("rock", 326),
    ("shelves", 349),
    ("sidewalk", 354),
    ("sky", 360),
    ("snow", 366),
    ("bedcloth", 19),
    ("track", 415),
    ("tree", 420),
    ("truck", 424),
    ("wall", 440),
    ("water", 445),
    ("window", 454),
    ("wood", 458),
)
"""Name in the list of 59, id in the `.mat` files."""

OTHER_NAMES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
"""What `labels.txt` calls three categories of the list of 59."""

CATEGORY_COUNT = 459

_NAMES = tuple(name for name, _ in CATEGORIES)
_IDS = tuple(category for _, category in CATEGORIES)
assert len(set(_IDS)) == 59
# The publisher chose no colours; mmsegmentation draws background and the 59 in the first 60 of ADE20K's.
_COLOURS = _ADE20K.colours[:60]

MAPPING_59 = LabelMapping(
    classes=Classes(_NAMES, _COLOURS[1:]),
    ids=_IDS,
    others=frozenset(range(CATEGORY_COUNT + 1)) - set(_IDS),
)
"""Everything else, unlabelled pixels included, is ignored."""

MAPPING_60 = LabelMapping(
    classes=Classes(("background", *_NAMES), _COLOURS),
    ids=(0, *_IDS),
    others=frozenset(range(1, CATEGORY_COUNT + 1)) - set(_IDS),
    others_become=0,
)
"""The same with everything else as a class of its own, background."""

_BY_CATEGORY = sorted(_IDS)

CONVERTED_59 = LabelMapping(
    classes=MAPPING_59.classes,
    ids=tuple(_BY_CATEGORY.index(category) + 1 for category in _IDS),
    others=frozenset({0, 255}),
)
"""Of mmsegmentation's PNGs: 1 to 59 by the order of the categories' ids, 0 for everything else."""

CONVERTED_60 = LabelMapping(classes=MAPPING_60.classes, ids=(0, *CONVERTED_59.ids), others=frozenset({255}))
"""The same with everything else as background."""
