"""A user's own data set: images and label maps of random pixels, and the folder that contains them."""

import pathlib

import numpy as np
from PIL import Image

from danet_jax.data.dataset import open_dataset
from danet_jax.data.decode import decode_image, decode_label
from tests.reference import publishers

COLOURS = [(0, 0, 0), (128, 64, 0), (0, 200, 30)]
CLASSES = "id,name,red,green,blue\n0,ground,0,0,0\n1,road,128,64,0\n2,tree,0,200,30\n"


class OwnData:
    """Images and label maps by name, and the folder into which they are written."""

    def __init__(self, rng, root):
        self.rng, self.root, self.images, self.labels = rng, root, {}, {}

    def image(self, path, size=(8, 12), **options):
        pixels = self.rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        self.images[pathlib.PurePath(path).stem] = pixels
        self.save(Image.fromarray(pixels), path, **options)

    def label(self, path, size=(8, 12), form="ids", values=(0, 1, 2), **options):
        label = self.rng.choice(np.array(values, np.uint8), size)
        self.labels[pathlib.PurePath(path).stem] = label
        image = Image.fromarray(np.array(COLOURS, np.uint8)[label] if form == "rgb" else label)
        if form == "voc":
            image.putpalette(np.array(publishers.voc_palette(), np.uint8).tobytes())
        self.save(image, path, **options)
        return label

    def standard(self, *, names=("a", "b"), **options):
        """Writes one image and its label into each of the splits `train` and `val`, and the list of classes."""
        for split, name in (("train", names[0]), ("val", names[1])):
            self.image(f"images/{split}/{name}.png")
            self.label(f"labels/{split}/{name}.png", **options)
        self.write("classes.csv", CLASSES)

    def save(self, image, path, **options):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)

    def write(self, path, content):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def open(self, root=None, *, needed=None, class_names=(), data="data", **options):
        return open_dataset(
            "folder",
            root=root or self.root,
            data_dir=self.root.parent / data,
            class_names=class_names,
            options=options,
            needed=needed,
        )

    def check(self, dataset=None, splits=None, **options):
        """Checks the examples of a data set, which by default has those of `standard`, and returns it."""
        dataset = dataset or self.open(**options)
        splits = splits or {"train": ["a"], "val": ["b"]}
        assert {split: [e["name"] for e in dataset.source(split)] for split in dataset.splits} == splits
        for split in splits:
            for example in dataset.source(split):
                name = example["name"].rpartition("/")[2]
                np.testing.assert_array_equal(decode_image(example["image"], ""), self.images[name])
                if example["label"] is not None:
                    np.testing.assert_array_equal(decode_label(example["label"], ""), self.labels[name])
        return dataset
