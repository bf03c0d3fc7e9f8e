"""Fixtures for the tests of the data."""

import pytest

from tests.reference.own_data import Drawn


@pytest.fixture
def drawn(rng, tmp_path):
    """Returns an empty folder for a user's own data."""
    return Drawn(rng, tmp_path / "own")
