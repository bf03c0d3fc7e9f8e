"""A network's classes are compared with the data's by name."""

import pytest

from danet_jax.classes import Classes
from danet_jax.modes.evaluate import check_classes
from tests.reference.refusal import refused

DATA = Classes.named(["traffic light", "road", "sky", "tree"])


def test_spelling_is_ignored_and_a_few_other_names_are_a_warning():
    assert check_classes("run", Classes.named(["Traffic_Light", "road", "Sky", "tree "]), DATA, False) == ""
    warning = check_classes("run", Classes.named(["traffic light", "road", "sky", "vegetation"]), DATA, False)
    assert all(part in warning for part in ("1 of 4", "'vegetation'", "'tree'"))


@pytest.mark.parametrize("names", [["cat", "dog", "sky", "cow"], ["road", "traffic light", "sky", "tree"]])
def test_other_classes_and_another_order_are_refused(names):
    with refused("run"):
        check_classes("run", Classes.named(names), DATA, False)
    if "cat" in names:
        assert "3 of 4" in check_classes("run", Classes.named(names), DATA, True)
    else:
        with refused("run"):
            check_classes("run", Classes.named(names), DATA, True)
