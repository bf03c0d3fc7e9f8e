"""Tests that labels stored as shapes give the same pixels as the tool that defines each format."""

import base64
import json
import math
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks

from danet_jax.data.decode import decode_label
from tests.reference.images import encode
from tests.reference.refusal import refused

NAMES = ["cat", "dog"]
SIZE = (37, 53)  # Height and width.
# Classes and corners in pixels: fractions, corners beyond the border, and one shape inside another.
SHAPES = [
    ("cat", [[20.4, 10.2], [30.7, 12.9], [27.3, 22.6], [18.1, 18.5]]),
    ("dog", [[3.5, 2.25], [48.75, 4.5], [44.2, 33.9], [6.8, 30.1]]),
    ("cat", [[40.0, 25.0], [60.0, 28.0], [50.0, 45.0]]),
    ("dog", [[0.3, 0.4], [9.9, 0.4], [9.9, 8.8], [5.0, 3.0], [0.3, 8.8]]),
]


def by_yolo(points):
    """Draws a polygon like `polygon2mask` in ultralytics.data.utils after `Instances.denormalize`."""
    segment = np.array(shares(points), np.float32)
    segment[..., 0] *= SIZE[1]
    segment[..., 1] *= SIZE[0]
    polygons = np.asarray([segment.reshape(-1)], dtype=np.int32)
    return cv2.fillPoly(np.zeros(SIZE, np.uint8), polygons.reshape((1, -1, 2)), color=1)


def by_labelme(points):
    """Draws a polygon like `shape_to_mask` in labelme.utils.shape."""
    canvas = Image.fromarray(np.zeros(SIZE, np.uint8))
    ImageDraw.Draw(canvas).polygon(xy=[tuple(point) for point in points], outline=1, fill=1)
    return np.array(canvas)


def by_coco(points):
    """Draws a polygon like `COCO.annToMask` in pycocotools.coco."""
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects([np.ravel(points).tolist()], *SIZE)))


def overlaid(masks, order=None):
    """Returns the label map of `SHAPES` from their masks, drawn in this order or, without one, larger shapes first."""
    label = np.zeros(SIZE, np.uint8)
    for index in np.argsort([-int(mask.sum()) for mask in masks]) if order is None else order:
        label[masks[index] == 1] = 1 + NAMES.index(SHAPES[index][0])
    return label


def shares(points):
    return np.clip(np.divide(points, SIZE[::-1]), 0, 1).round(6)


def write_yolo(own, folder, name):
    lines = [
        f"{NAMES.index(label)} {' '.join(map(str, shares(points).ravel()))}\n" for label, points in SHAPES
    ]
    own.write(f"{folder}/{name}.txt", "".join(lines))


def write_labelme(own, folder, name, shapes=()):
    polygons = [{"label": label, "points": points, "shape_type": "polygon"} for label, points in SHAPES]
    values = {"imagePath": f"{name}.png", "imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    own.write(f"{folder}/{name}.json", json.dumps({**values, "shapes": shapes or polygons}))


def coco(names, segmentations=None, **changes):
    """Returns a COCO file with the same annotations for all images, unsorted categories, and one that is a group."""
    segmentations = segmentations or [(label, [np.ravel(points).tolist()]) for label, points in SHAPES]
    images = [
        {"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(names, 10)
    ]
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 7, "name": "dog", "supercategory": "animals"},
        {"id": 3, "name": "cat", "supercategory": "animals"},
    ]
    annotations = [
        {
            "id": 1,
            "image_id": image["id"],
            "category_id": {"cat": 3, "dog": 7}[label],
            "segmentation": segmentation,
        }
        for image in images
        for label, segmentation in segmentations
    ]
    return json.dumps({"images": images, "categories": categories, "annotations": annotations, **changes})


def cvat(names, further=""):
    """Returns a CVAT file of two subsets in which all images have the same shapes."""
    shapes = ""
    for order, (label, points) in zip((2, 0, 1, 1), SHAPES, strict=True):
        text = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
        shapes += f'<polygon label="{label}" z_order="{order}" points="{text}"/>'
    labels = "".join(f"<label><name>{name}</name></label>" for name in NAMES)
    images = "".join(
        f'<image id="{i}" name="{name}" subset="{("Train", "Validation")[i]}" height="{SIZE[0]}" width="{SIZE[1]}">'
        f"{shapes}{further}</image>"
        for i, name in enumerate(names)
    )
    return f"<annotations><meta><job><labels>{labels}</labels></job></meta>{images}</annotations>".encode()


def labels_of(own, expected, splits=("train", "val"), **options):
    dataset = own.open(**options)
    assert tuple(sorted(dataset.splits)) == tuple(sorted(splits))
    for split in splits:
        for example in dataset.source(split):
            np.testing.assert_array_equal(decode_label(example["label"], ""), expected)
    return dataset


def test_yolo_of_ultralytics_cvat_and_roboflow(own):
    for split, name in (("train", "a"), ("val", "b")):
        own.image(f"images/{split}/{name}.png", SIZE)
        write_yolo(own, f"labels/{split}", name)
    own.write("data.yaml", "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    label = overlaid([by_yolo(points) for _, points in SHAPES])
    dataset = labels_of(own, label)
    assert dataset.classes.names == ("background", "cat", "dog")
    assert any("unlabelled=ignore" in line for line in dataset.warnings())
    own.image("images/train/nothing.png", SIZE)  # YOLO writes no label file for it.
    by_name = {example["name"]: example for example in own.open().source("train")}
    assert not decode_label(by_name["nothing"]["label"], "").any()
    (own.root / "images/train/nothing.png").unlink()
    own.image("images/test/unlabelled.png", SIZE)
    own.write(
        "data.yaml", "train: images/train\nval: images/val\ntest: images/test\nnames: {0: cat, 1: dog}\n"
    )
    assert own.open().source("test")[0]["label"] is None
    # CVAT lists the images of each split in a text file.
    (own.root / "images/test/unlabelled.png").unlink()
    own.write("data.yaml", "path: ./\ntrain: train.txt\nValidation: val.txt\nnames: {0: cat, 1: dog}\n")
    own.write("train.txt", "images/train/a.png\n")
    own.write("val.txt", "./images/val/b.png\n")
    assert labels_of(own, label).source("val")[0]["name"] == "val/b"
    own.write("val.txt", "images/val/c.png\n")
    with refused(what=own.root / "val.txt", value="images/val/c.png"):
        own.open()
    for name in ("train.txt", "val.txt"):
        (own.root / name).unlink()
    # The same files follow in Roboflow's layout, whose data.yaml is one folder off, and then without data.yaml.
    for split, folder in (("train", "train"), ("val", "valid")):
        (own.root / folder).mkdir()
        for part in ("images", "labels"):
            (own.root / part / split).rename(own.root / folder / part)
    for part in ("images", "labels"):
        shutil.rmtree(own.root / part, ignore_errors=True)
    own.write("data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n")
    labels_of(own, label)
    (own.root / "data.yaml").unlink()
    labels_of(own, np.where(label, label - 1, 255), unlabelled="ignore", class_names=NAMES)
    with refused(what=own.root / "classes.csv"):  # Nothing names the classes.
        own.open()


def test_labelme_beside_the_images(own):
    for split, name in (("training", "a"), ("validation", "b")):
        own.image(f"{split}/{name}.png", SIZE)
        write_labelme(own, split, name)
    label = overlaid([by_labelme(points) for _, points in SHAPES], range(4))
    assert labels_of(own, label).classes.names == ("background", "cat", "dog")
    labels_of(own, np.where(label, label - 1, 255), unlabelled="ignore")
    own.write("labels.txt", "__ignore__\n_background_\ndog\ncat\n")
    assert labels_of(own, np.array([0, 2, 1])[label]).classes.names == ("_background_", "dog", "cat")


def test_all_shapes_of_labelme(own):
    pixels = np.random.default_rng(0).integers(0, 2, (5, 7), np.uint8)
    shapes = [
        ("rectangle", [[30.5, 20.5], [10.2, 5.1]]),
        ("circle", [[20.0, 20.0], [26.5, 24.0]]),
        ("line", [[1.0, 30.0], [50.0, 20.0]]),
        ("linestrip", [[1.0, 1.0], [30.0, 3.0], [50.0, 30.0]]),
        ("point", [[45.0, 8.0]]),
        ("mask", [[40.0, 30.0], [46.0, 34.0]]),
    ]
    canvas = Image.new("L", SIZE[::-1])
    pen = ImageDraw.Draw(canvas)
    pen.rectangle([10.2, 5.1, 30.5, 20.5], outline=1, fill=1)
    radius = math.sqrt(6.5**2 + 4.0**2)
    pen.ellipse([20 - radius, 20 - radius, 20 + radius, 20 + radius], outline=2, fill=2)
    pen.line([(1.0, 30.0), (50.0, 20.0)], fill=1, width=10)
    pen.line([(1.0, 1.0), (30.0, 3.0), (50.0, 30.0)], fill=2, width=10)
    pen.ellipse([40, 3, 50, 13], outline=1, fill=1)
    expected = np.array(canvas)
    expected[30:35, 40:47][pixels == 1] = 2
    values = [
        {"label": NAMES[index % 2], "shape_type": kind, "points": points}
        for index, (kind, points) in enumerate(shapes)
    ]
    values[-1]["mask"] = base64.b64encode(encode(pixels * 255)).decode()
    own.image("a.png", SIZE)
    own.image("b.png", SIZE)
    for name in "ab":
        write_labelme(own, ".", name, values)
    labels_of(own, expected, validation=0.5)


def test_coco_of_polygons_and_rle(own):
    masks = [by_coco(points) for _, points in SHAPES]
    label = overlaid(masks)
    encoded = [coco_masks.encode(np.asfortranarray(mask)) for mask in masks]
    compressed = [{"size": list(SIZE), "counts": rle["counts"].decode()} for rle in encoded]
    plain = []
    for mask in masks:
        runs = np.flatnonzero(np.diff(np.r_[0, mask.ravel("F"), 0])).tolist()
        plain.append({"size": list(SIZE), "counts": np.diff([0, *runs, mask.size]).tolist()})
    segmentations = {
        "train": None,
        "valid": [(name, rle) for (name, _), rle in zip(SHAPES, compressed, strict=True)],
        "test": [(name, rle) for (name, _), rle in zip(SHAPES, plain, strict=True)],
    }
    for folder, segmentation in segmentations.items():
        own.image(f"{folder}/a.png", SIZE)
        own.write(f"{folder}/_annotations.coco.json", coco(["a.png"], segmentation))
    dataset = labels_of(own, label, ("train", "val", "test"))
    assert dataset.classes.names == ("background", "cat", "dog")


@pytest.mark.parametrize("names", [("a.png", "sub/b.png"), ("C:\\photos\\a.png", "/elsewhere/sub/b.png")])
def test_coco_with_one_file_and_the_images_elsewhere(own, names):
    own.image("photos/a.png", SIZE)
    own.image("photos/sub/b.png", SIZE)
    own.image("photos/other/b.png", SIZE)
    own.write("annotations/instances_default.json", coco(names))
    own.write("annotations/person_keypoints_default.json", coco(names))
    labels_of(own, overlaid([by_coco(points) for _, points in SHAPES]), validation=0.5)


def test_cvat_for_images(own):
    pixels = np.random.default_rng(0).integers(0, 2, (4, 6), np.uint8)
    changes = np.flatnonzero(np.diff(np.r_[0, pixels.ravel()]))
    runs = np.diff([0, *changes, pixels.size]).tolist()
    mask = f'rle="{", ".join(map(str, runs))}" left="40" top="20" width="6" height="4"'
    further = f"""
        <box label="dog" z_order="9" xtl="2.5" ytl="1.5" xbr="8.2" ybr="6.1"/>
        <box label="dog" z_order="9" xtl="30.0" ytl="5.0" xbr="45.0" ybr="11.0" rotation="30.0"/>
        <ellipse label="dog" z_order="9" cx="20.4" cy="28.6" rx="7.7" ry="3.2" rotation="20.0"/>
        <mask label="dog" z_order="9" {mask}/>
        <tag label="dog"/>
    """
    for name in "ab":
        own.image(f"images/{name}.png", SIZE)
    own.write("annotations.xml", cvat(["a.png", "b.png"], further))
    expected = overlaid([by_coco(points) for _, points in SHAPES], (1, 2, 3, 0))
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    corners = [
        (37.5 + cos * x - sin * y, 8 + sin * x + cos * y)
        for x, y in ((-7.5, -3), (7.5, -3), (7.5, 3), (-7.5, 3))
    ]
    for points in ([(2.5, 1.5), (8.2, 1.5), (8.2, 6.1), (2.5, 6.1)], corners):
        expected[by_coco(points) == 1] = 2
    ellipse = cv2.ellipse(np.zeros(SIZE, np.uint8), (20, 29), (8, 3), 20.0, 0, 360, 255, thickness=-1)
    expected[ellipse > 0] = 2
    expected[20:24, 40:46][pixels == 1] = 2
    assert labels_of(own, expected).classes.names == ("background", "cat", "dog")


@pytest.mark.parametrize(("orientation", "size"), [(6, SIZE[::-1]), (3, SIZE)])
def test_shapes_are_drawn_on_the_image_as_viewers_show_it(own, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in "ab":
        own.image(f"{name}.png", size, exif=exif)
        write_labelme(own, ".", name)
    dataset = labels_of(own, overlaid([by_labelme(points) for _, points in SHAPES], range(4)), validation=0.5)
    assert not any("exif" in line for line in dataset.warnings())


def broken_yolo(text):
    return lambda own: own.write("labels/train/a.txt", text)


def broken_labelme(shape):
    def spoil(own):
        (own.root / "labels/train/a.txt").unlink()
        (own.root / "labels/val/b.txt").unlink()
        for split, name in (("train", "a"), ("val", "b")):
            write_labelme(own, f"labels/{split}", name, [shape] if name == "a" else ())

    return spoil


REFUSED = {
    "a box": (broken_yolo("0 0.5 0.5 0.2 0.2\n"), "labels/train/a.txt"),
    "pixels instead of shares": (broken_yolo("0 5 5 20 5 20 20\n"), "labels/train/a.txt"),
    "an odd number": (broken_yolo("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4\n"), "labels/train/a.txt"),
    "no number": (broken_yolo("cat 0.1 0.1 0.2 0.2 0.3 0.3\n"), "labels/train/a.txt"),
    "an unknown class": (broken_yolo("5 0.1 0.1 0.2 0.2 0.3 0.3\n"), "labels/train/a.txt"),
    "an infinite class": (broken_yolo("inf 0.1 0.1 0.2 0.2 0.3 0.3\n"), "labels/train/a.txt"),
    "half a class": (broken_yolo("0.5 0.1 0.1 0.2 0.2 0.3 0.3\n"), "labels/train/a.txt"),
    "two kinds of labels": (lambda own: own.label("labels/val/b.png", SIZE), ""),
    "a label without image": (
        lambda own: own.write("labels/train/c.txt", "0 0.1 0.1 0.2 0.2 0.3 0.3\n"),
        "labels/train/c.txt",
    ),
    "labelme: two points": (
        broken_labelme({"label": "cat", "points": [[1, 2], [3, 4]], "shape_type": "polygon"}),
        "labels/train/a.json",
    ),
    "labelme: NaN": (
        broken_labelme({"label": "cat", "points": [[1, 2], [3, math.nan], [5, 1]]}),
        "labels/train/a.json",
    ),
    "labelme: an unknown class": (
        broken_labelme({"label": "cow", "points": [[1, 2], [3, 4], [5, 1]]}),
        "labels/train/a.json",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_label_files_are_refused(own, case):
    spoil, what = REFUSED[case]
    for split, name in (("train", "a"), ("val", "b")):
        own.image(f"images/{split}/{name}.png", SIZE)
        write_yolo(own, f"labels/{split}", name)
    own.write("classes.csv", "id,name\n0,cat\n1,dog\n")
    spoil(own)
    with refused(what=own.root / what):
        own.open()


BROKEN = {
    "no JSON": "{",
    "an unknown category": coco(["a.png", "b.png"], categories=[]),
    "an image that is not listed": coco(["a.png", "b.png"], images=[]),
    "a box": coco(["a.png", "b.png"], [("cat", [])]),
    "two points": coco(["a.png", "b.png"], [("cat", [[1, 2, 3, 4]])]),
    "an infinite coordinate": coco(["a.png", "b.png"], [("cat", [[1, 2, math.inf, 4, 5, 6]])]),
    "a coordinate that takes gigabytes to draw": coco(["a.png", "b.png"], [("cat", [[1, 2, 1e9, 4, 5, 6]])]),
    "a file name that is a number": coco(["a.png", "b.png"]).replace('"a.png"', "1"),
    "RLE of a negative length": coco(
        ["a.png", "b.png"], [("cat", {"size": list(SIZE), "counts": [math.prod(SIZE) + 9, -9]})]
    ),
    "RLE of another size": coco(["a.png", "b.png"], [("cat", {"size": [2, 2], "counts": [0, 4]})]),
    "RLE that is too short": coco(["a.png", "b.png"], [("cat", {"size": list(SIZE), "counts": [0, 4]})]),
    "cvat": cvat(["a.png", "b.png"], '<polyline label="cat" points="1,1;2,2"/>'),
    "cvat: two points": cvat(["a.png", "b.png"], '<polygon label="cat" points="1,1;2,2"/>'),
    "cvat: a mask above the image": cvat(
        ["a.png", "b.png"], '<mask label="cat" rle="0,9" left="0" top="-9" width="3" height="3"/>'
    ),
    "cvat: a mask of another size": cvat(
        ["a.png", "b.png"], '<mask label="cat" rle="0,8" left="0" top="0" width="3" height="3"/>'
    ),
    "no XML": b"<annotations>",
    "another size": coco(["a.png", "b.png"]).replace(f'"height": {SIZE[0]}', '"height": 99999'),
}


@pytest.mark.parametrize("case", BROKEN)
def test_invalid_annotations_are_refused(own, case):
    for name in "ab":
        own.image(f"images/{name}.png", SIZE)
    file = "annotations.json" if isinstance(BROKEN[case], str) else "annotations.xml"
    own.write(file, BROKEN[case])
    with refused(what=own.root / file):
        own.open(**({"validation": 0.5} if file.endswith("json") else {}))


def test_missing_images_of_annotations_are_refused(own):
    own.image("images/a.png", SIZE)
    own.write("annotations.json", coco(["a.png", "b.png"]))
    with refused(what=own.root / "annotations.json"):
        own.open(validation=0.5)
    own.image("images/x/b.png", SIZE)
    own.image("images/y/b.png", SIZE)
    with refused(what=own.root / "annotations.json"):
        own.open(validation=0.5)


def test_masks_beside_images(own):
    """The layout is Roboflow's "semantic segmentation masks"."""
    for folder, name in (("train", "a"), ("valid", "b")):
        own.image(f"{folder}/{name}_jpg.rf.1.jpg", SIZE, quality=100)
        own.labels[name] = own.label(f"{folder}/{name}_jpg.rf.1_mask.png", SIZE)
        own.write(f"{folder}/_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n2, dog\n")
    dataset = own.open()
    assert dataset.classes.names == ("background", "cat", "dog")
    for split, name in (("train", "a"), ("val", "b")):
        [example] = dataset.source(split)
        assert example["name"] == f"{name}_jpg.rf.1"
        np.testing.assert_array_equal(decode_label(example["label"], ""), own.labels[name])


def test_a_missing_validation_split_is_refused(own):
    own.image("images/train/a.png", SIZE)
    own.label("labels/train/a.png", SIZE)
    own.write("classes.csv", "id,name\n0,a\n1,b\n2,c\n")
    with refused(what="dataset.validation_split", value="val", allowed=("train",)) as error:
        own.open(needed={"dataset.train_split": "train", "dataset.validation_split": "val"})
    assert "dataset.options.validation=0.2" in str(error.value)
