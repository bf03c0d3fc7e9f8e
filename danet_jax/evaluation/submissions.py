"""Predictions as the test servers want them: Cityscapes, PASCAL VOC 2012 and ADE20K.

| dataset        | file in the zip                                        | content                                  |
|----------------|--------------------------------------------------------|------------------------------------------|
| cityscapes     | CITY_SEQ_FRAME_labelIds.png                            | 8 bits, label ids 7, 8, 11, ...          |
| pascal_voc_aug | results/VOC2012/Segmentation/comp6_test_cls/NAME.png   | palette of the VOC kit, classes 0 to 20  |
| ade20k         | NAME.png                                               | 8 bits, ids 1 to 150                     |

comp6 is VOC's competition for methods trained on more than VOC's own labels, which SBD's are.
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
    """What one test server accepts.

    Attributes:
      path: Where a prediction is in the zip; `{name}` is the example's name.
      mapping: From train ids to the ids that the server wants.
      upload: Where to send the zip.
      palette: Colours of all 256 ids if the pictures are to have them, 768 numbers.
    """

    path: str
    mapping: LabelMapping
    upload: str
    palette: tuple[int, ...] = ()

    def picture(self, labels: np.ndarray) -> bytes:
        """Return the PNG of train ids uint8 `[H, W]`.

        Raises:
          ValueError: A value is no class.
        """
        ids = self.mapping.to_ids(labels)
        picture = Image.fromarray(ids)
        if self.palette:
            picture = Image.frombytes("P", picture.size, ids.tobytes())
            picture.putpalette(self.palette)
        file = io.BytesIO()
        picture.save(file, "png")
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
"""Dataset -> its test server."""


def test_server(dataset: str) -> Server:
    """Return the test server of a dataset.

    Raises:
      InputError: It has none.
    """
    if dataset not in SERVERS:
        raise InputError(f"{dataset}: there is no test server; there are for: {', '.join(sorted(SERVERS))}")
    return SERVERS[dataset]


def write_submission(
    server: Server, predictions: Iterable[tuple[str, np.ndarray]], path: pathlib.Path
) -> int:
    """Write the zip to upload.

    It appears under its name when it is complete. The same predictions give the same bytes.

    Args:
      server: Whose format.
      predictions: Name and train ids uint8 `[H, W]`, of the image's own size, of each example.
      path: The zip.

    Returns:
      The number of predictions.
    """
    count = 0
    # Stored, not compressed: PNG is compressed already.
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, labels in predictions:
            archive.writestr(zipfile.ZipInfo(server.path.format(name=name)), server.picture(labels))
            count += 1
    return count
