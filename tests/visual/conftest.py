"""The browser of the tests in this folder."""

import pytest

from tests.visual.browser import chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """One Chromium for all of them."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver
