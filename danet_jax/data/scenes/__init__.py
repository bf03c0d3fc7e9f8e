"""Street scenes drawn with NumPy and OpenCV: a data set that needs no download.

Classes that exist in Cityscapes have the colours of Cityscapes.
"""

from danet_jax.classes import Classes

_TABLE = (
    ("road (green light)", (128, 64, 128)),
    ("road (red light)", (190, 80, 90)),
    ("sidewalk", (244, 35, 232)),
    ("building", (70, 70, 70)),
    ("vegetation", (107, 142, 35)),
    ("sky", (70, 130, 180)),
    ("traffic light", (250, 170, 30)),
    ("person", (220, 20, 60)),
    ("vehicle", (0, 0, 142)),
)

CLASSES = Classes(tuple(name for name, _ in _TABLE), tuple(colour for _, colour in _TABLE))

ROAD_GREEN, ROAD_RED, SIDEWALK, BUILDING, VEGETATION, SKY, TRAFFIC_LIGHT, PERSON, VEHICLE = range(len(_TABLE))
