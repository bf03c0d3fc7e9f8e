"""Files of a run are written completely or not at all."""

import pytest

from danet_jax.runs.files import replacing, write_text
from tests.reference.refusal import refused


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    file = tmp_path / "folder" / "file"
    write_text(file, "before")
    with pytest.raises(KeyboardInterrupt), replacing(file) as partial:  # noqa: PT012
        partial.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "before"
    assert list(file.parent.iterdir()) == [file]


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(what=tmp_path / "file" / "below"):
        write_text(tmp_path / "file" / "below", "text")
