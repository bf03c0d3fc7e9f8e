"""Tests lists of classes as people write them and as tools export them."""

import numpy as np
import pytest
from PIL import Image

from tests.reference.own_data import CLASSES, COLOURS
from tests.reference.refusal import refused

CLASS_LISTS = {
    "semicolons": b"id;name;red;green;blue\n0;ground;0;0;0\n1;road;128;64;0\n2;tree;0;200;30\n",
    "tabs": b"id\tname\tred\tgreen\tblue\n0\tground\t0\t0\t0\n1\troad\t128\t64\t0\n2\ttree\t0\t200\t30\n",
    "capitals": b"ID,Name,Red,Green,Blue\n0,ground,0,0,0\n1,road,128,64,0\n2,tree,0,200,30\n",
    "no header": b"0,ground,0,0,0\n1,road,128,64,0\n2,tree,0,200,30\n",
    "spaces": b" id , name , red , green , blue \n 0 , ground , 0 , 0 , 0\n\n1, road ,128, 64,0\n2,tree ,0,200,30\n",
    "letters": b"id,name,r,g,b\r\n0,ground,0,0,0\r\n1,road,128,64,0\r\n2,tree,0,200,30\r\n",
    "no ids": b"name,r,g,b\nground,0,0,0\nroad,128,64,0\ntree,0,200,30\n",
    "UTF-16": CLASSES.encode("utf-16"),
    "UTF-16 unmarked": CLASSES.encode("utf-16-le"),
    "ignored": CLASSES.encode() + b"255,void,255,255,255\n",
}


@pytest.mark.parametrize("case", CLASS_LISTS)
def test_lists_of_classes_in_any_form(own, case):
    own.standard()
    own.write("classes.csv", CLASS_LISTS[case])
    classes = own.open().classes
    assert classes.names == ("ground", "road", "tree")
    assert list(classes.colours) == COLOURS


def test_lists_of_names(own):
    own.standard()
    for content in (b"ground\nall\xe9e\ntree\n", b"id,name\n0,ground\n1,all\xe9e\n2,tree\n"):
        own.write("classes.csv", content)
        assert own.open().classes.names == ("ground", "allée", "tree")


def test_numbers_that_only_count_the_rows_are_not_ids(own):
    own.standard(values=(0, 1))
    for content in (
        "no,name\n0,ground\n1,road\n",
        "name,no\nground,0\nroad,1\n",
        "name,note\nground,7\nroad,x\n",
    ):
        own.write("classes.csv", content)
        assert own.open().classes.names == ("ground", "road")


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("0,ground,12\n1,road,3\n", "0,ground,12"),
        ("id,name\n1,ground\n2,road\n", "1"),
        ("id,name\n0,ground\n", None),
        ("Pixel Value, Class\n1,road\n0,ground\n2,tree\n", "1"),
        ("Class,Grey Value\nroad,7\nground,11\n", "grey value"),
        ("name;r;g;b;code\nroad;1;1;1;7\nground;2;2;2;11\n", "code"),
        ("id\n0\n1\n2\n", ["id"]),
        ("Label ID,Colour\n0,#ff0000\n1,#00ff00\n", ["Label ID", "Colour"]),
        ("id,name\n0,tree, palm\n1,b\n", None),
        ('id,name\n0,"a\n1,b\n2,c\n', "a\n1,b\n2,c"),
        ("id,name,name\n0,a,b\n1,c,d\n", "name"),
        ("id name\n0 a\n1 b\n", "0 a"),
        ("id,name,color\n0,a,#ff0000\n1,b,red\n", "red"),
        ("id,name,red,green,blue\n0,a,1,2,256\n1,b,1,2,3\n", (1, 2, 256)),
        ("id,name,red,green,blue\n0,a,0,0\n", None),
        ("id,name\n", None),
        ("id,name\n0,a\n2,b\n", "2"),
        ("id,name\n0,a\n1,\n", None),
        ("id,name\n0,a\n1,a\n", ("a", "a")),
        (b"\xff\xfe\x00", None),
    ],
)
def test_invalid_lists_are_refused(own, content, value):
    own.standard()
    own.write("classes.csv", content)
    with refused(what=own.root / "classes.csv", value=value):
        own.open()


def test_colours_of_ignored_pixels(own):
    own.standard(form="rgb")
    own.write("classes.csv", CLASS_LISTS["ignored"])
    pixels = np.array(Image.open(own.root / "labels/train/a.png"))
    pixels[:3] = 255
    Image.fromarray(pixels).save(own.root / "labels/train/a.png")
    own.labels["a"][:3] = 255
    own.check()


def test_colours_in_one_column(own):
    own.standard()
    (own.root / "classes.csv").unlink()
    own.write("Classes.CSV", 'id,name,rgb\n0,a,#0A0b0c\n1,b,"1, 2, 3"\n2,c,(4 5 6)\n')
    assert own.open().classes.colours == ((10, 11, 12), (1, 2, 3), (4, 5, 6))
