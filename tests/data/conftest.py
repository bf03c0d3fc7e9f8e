"""Fixtures for the tests of the data."""

import pytest

from tests.reference.own_data import OwnData


@pytest.fixture
def own(rng, tmp_path):
    """Returns an empty folder for a user's own data."""
    return OwnData(rng, tmp_path / "own")
