"""A network's classes are held against the data's by name."""

import pytest

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.modes.evaluate import check_classes

OURS = Classes.named(["traffic light", "road", "sky", "tree"])


def test_names_that_are_written_otherwise_are_the_same():
    assert check_classes("run", Classes.named(["Traffic_Light", "road", "Sky", "tree "]), OURS, False) == ""


def test_a_few_other_names_are_said():
    said = check_classes("run", Classes.named(["traffic light", "road", "sky", "vegetation"]), OURS, False)
    assert said == (
        "1 of 4 classes have other names than the data's: 3 is 'vegetation' of the network and 'tree' of the data"
    )


def test_other_classes_are_refused_unless_told_to_go_by_number():
    theirs = Classes.named(["cat", "dog", "sky", "cow"])
    with pytest.raises(InputError, match=r"run: 3 of 4 classes .*'cat'.*dataset\.classes_by_number=True"):
        check_classes("run", theirs, OURS, False)
    assert "3 of 4" in check_classes("run", theirs, OURS, True)


def test_another_order_is_refused_always():
    for by_number in (False, True):
        with pytest.raises(InputError, match="another order"):
            check_classes("run", Classes.named(["road", "traffic light", "sky", "tree"]), OURS, by_number)
