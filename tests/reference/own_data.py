"""Small data sets as people draw them: pictures and label maps of random pixels, and the folder that holds them."""

import pathlib

import numpy as np
from PIL import Image

from danet_jax.data.dataset import open_dataset
from danet_jax.data.decode import decode_image, decode_label
from tests.reference import publishers

COLOURS = [(0, 0, 0), (128, 64, 0), (0, 200, 30)]
CLASSES = "id,name,red,green,blue\n0,ground,0,0,0\n1,road,128,64,0\n2,tree,0,200,30\n"


class Drawn:
    """Pictures and label maps by name, and the folder that they are put into."""

    def __init__(self, rng, root):
        self.rng, self.root, self.images, self.labels = rng, root, {}, {}

    def image(self, path, size=(8, 12), **options):
        pixels = self.rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        self.images[pathlib.PurePath(path).stem] = pixels
        self.save(Image.fromarray(pixels), path, **options)

    def label(self, path, size=(8, 12), form="ids", values=(0, 1, 2)):
        label = self.rng.choice(np.array(values, np.uint8), size)
        self.labels[pathlib.PurePath(path).stem] = label
        if form == "rgb":
            self.save(Image.fromarray(np.array(COLOURS, np.uint8)[label]), path)
        elif form == "voc":
            picture = Image.fromarray(label)
            picture.putpalette(np.array(publishers.voc_palette(), np.uint8).tobytes())
            self.save(picture, path)
        else:
            self.save(Image.fromarray(label), path)
        return label

    def save(self, picture, path, **options):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, **options)

    def write(self, path, content):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)

    def open(self, root=None, class_names=(), **options):
        data_dir = self.root.parent / "data"
        return open_dataset(
            "folder",
            root=root or self.root,
            data_dir=data_dir,
            class_names=class_names,
            options=options,
        )

    def check(self, dataset, splits):
        assert {split: [e["name"] for e in dataset.source(split)] for split in dataset.splits} == splits
        for split in splits:
            for example in dataset.source(split):
                name = example["name"].rpartition("/")[2]
                np.testing.assert_array_equal(decode_image(example["image"], ""), self.images[name])
                if example["label"] is not None:
                    np.testing.assert_array_equal(decode_label(example["label"], ""), self.labels[name])


def standard(drawn, form="ids", names=("a", "b"), **options):
    for split, name in (("train", names[0]), ("val", names[1])):
        drawn.image(f"images/{split}/{name}.png")
        drawn.label(f"labels/{split}/{name}.png", form=form, **options)
    drawn.write("classes.csv", CLASSES)
