"""The documentation: its links lead somewhere, and the reference has every public name."""

import pathlib
import re

import pytest

import danet_jax

TOP = pathlib.Path(__file__).parents[1]
PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_exist(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_public_name_is_in_the_reference():
    documented = re.findall(r"auto(?:class|function):: (\w+)", (TOP / "docs/api.md").read_text())
    assert sorted(documented) == sorted(danet_jax.__all__)
