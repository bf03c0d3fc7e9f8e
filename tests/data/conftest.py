"""What tests of data share."""

import pytest

from tests.reference.own_data import Drawn


@pytest.fixture
def drawn(rng, tmp_path):
    """An empty folder of own data."""
    return Drawn(rng, tmp_path / "own")
