"""Predictions in the formats of the test servers of Cityscapes, PASCAL VOC 2012 and ADE20K.

| dataset        | file in the zip                                        | content                                  |
|----------------|--------------------------------------------------------|------------------------------------------|
| cityscapes     | CITY_SEQ_FRAME_labelIds.png                            | 8 bits, label ids 7, 8, 11, ...          |
| pascal_voc_aug | results/VOC2012/Segmentation/comp6_test_cls/NAME.png   | palette of the VOC kit, classes 0 to 20  |
| ade20k         | NAME.png                                               | 8 bits, ids 1 to 150                     |

comp6 is VOC's competition for methods that were trained on additional labels, here those of SBD.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import zipfile
from collections.abc import Iterable

import numpy as np
from PIL import Image

from danet_jax.data.labels import ADE20K, CITYSCAPES, PASCAL_VOC, LabelMapping, bit_colours
from danet_jax.errors import InputError
from danet_jax.runs.files import replacing


@dataclasses.dataclass(frozen=True)
class Server:
    """The format that a test server accepts.

    Attributes:
      path: the path of a prediction in the zip; `{name}` is the example's name.
      mapping: maps train ids to the server's ids.
      upload: the address to upload the zip to.
      palette: the colours of all 256 ids, 768 numbers, if the images have a palette.
    """

    path: str
    mapping: LabelMapping
    upload: str
    palette: tuple[int, ...] = ()

    def png(self, labels: np.ndarray) -> bytes:
        """Returns the PNG of train ids, uint8 `[H, W]`.

        Raises:
          ValueError: a value is not a class.
        """
        ids = self.mapping.to_ids(labels)
        image = Image.fromarray(ids)
        if self.palette:
            image = Image.frombytes("P", image.size, ids.tobytes())
            image.putpalette(self.palette)
        file = io.BytesIO()
        image.save(file, "png")
        return file.getvalue()


SERVERS = {
    "cityscapes": Server("{name}_labelIds.png", CITYSCAPES, "https://www.cityscapes-dataset.com/submit"),
    "pascal_voc_aug": Server(
        "results/VOC2012/Segmentation/comp6_test_cls/{name}.png",
        PASCAL_VOC,
        "http://host.robots.ox.ac.uk:8080",
        tuple(value for colour in bit_colours(range(256)) for value in colour),
    ),
    "ade20k": Server("{name}.png", ADE20K, "http://sceneparsing.csail.mit.edu"),
}
"""The test server of each data set."""


def test_server(dataset: str) -> Server:
    """Returns the test server of a data set.

    Raises:
      InputError: the data set has no test server.
    """
    if dataset not in SERVERS:
        allowed = ", ".join(sorted(SERVERS))
        raise InputError(
            f"config.dataset.name={dataset}: this data set has no test server; these have one: {allowed}",
            what="config.dataset.name",
            value=dataset,
            allowed=sorted(SERVERS),
        )
    return SERVERS[dataset]


def write_submission(
    server: Server, predictions: Iterable[tuple[str, np.ndarray]], path: pathlib.Path
) -> int:
    """Writes the zip to upload.

    The file appears under its name only once it is complete. The same predictions give the same bytes.

    Args:
      server: the server, which defines the format.
      predictions: the name of each example and its train ids, uint8 `[H, W]`, at the image's own size.
      path: the zip file to write.

    Returns:
      The number of predictions.
    """
    count = 0
    # The images are stored uncompressed, because PNG is compressed already.
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, labels in predictions:
            archive.writestr(zipfile.ZipInfo(server.path.format(name=name)), server.png(labels))
            count += 1
    return count
