"""A network's classes are held against the data's by name."""

from danet_jax.classes import Classes
from danet_jax.modes.evaluate import check_classes
from tests.reference.refusal import refused

OURS = Classes.named(["traffic light", "road", "sky", "tree"])


def test_names_that_are_written_otherwise_are_the_same():
    assert check_classes("run", Classes.named(["Traffic_Light", "road", "Sky", "tree "]), OURS, False) == ""


def test_a_few_other_names_are_a_warning():
    warning = check_classes("run", Classes.named(["traffic light", "road", "sky", "vegetation"]), OURS, False)
    assert "1 of 4" in warning
    assert "'vegetation'" in warning
    assert "'tree'" in warning


def test_other_classes_are_refused_unless_told_to_go_by_number():
    theirs = Classes.named(["cat", "dog", "sky", "cow"])
    with refused("run") as caught:
        check_classes("run", theirs, OURS, False)
    assert "config.dataset.classes_by_number" in str(caught.value)
    assert "3 of 4" in check_classes("run", theirs, OURS, True)


def test_another_order_is_refused_always():
    for by_number in (False, True):
        with refused("run"):
            check_classes("run", Classes.named(["road", "traffic light", "sky", "tree"]), OURS, by_number)
