"""Names of output files: two inputs never share one, and nobody else's file is replaced."""

import pytest

from danet_jax.runs.outputs import MANIFEST, Outputs
from tests.reference.refusal import refused


def write(outputs, source, content, stem="a", suffixes=("_labels.png", "_overlay.png")):
    with outputs.writing(source, stem, suffixes) as paths:
        for path in paths:
            path.write_text(content)
    return [path.name for path in paths]


def test_every_input_keeps_its_own_output_names(tmp_path):
    folder = tmp_path / "predictions"
    first = Outputs(folder)
    assert write(first, "/x/a.png", "1") == ["a_labels.png", "a_overlay.png"]
    assert write(first, "/y/a.png", "2") == ["a_2_labels.png", "a_2_overlay.png"]
    again = Outputs(folder)  # a later command, in another order
    assert write(again, "/z/a.png", "3") == ["a_3_labels.png", "a_3_overlay.png"]
    assert write(again, "/y/a.png", "4") == ["a_2_labels.png", "a_2_overlay.png"]
    assert write(again, "/x/a.png", "5") == ["a_labels.png", "a_overlay.png"]
    assert [(folder / f"a{n}_labels.png").read_text() for n in ("", "_2", "_3")] == ["5", "4", "3"]
    assert again.stem_of("/z/a.png") == "a_3"
    assert again.stem_of("/z/b.png") is None


def test_two_processes_share_the_manifest(tmp_path):
    one, other = Outputs(tmp_path), Outputs(tmp_path)
    assert write(one, "/x/a.png", "1")[0] == "a_labels.png"
    assert write(other, "/y/a.png", "2")[0] == "a_2_labels.png"


def test_other_files_are_replaced_only_with_overwrite(tmp_path):
    other = tmp_path / "a_overlay.png"
    other.write_text("other")
    with refused(what=other):
        write(Outputs(tmp_path), "/x/a.png", "new")
    assert other.read_text() == "other"
    assert not (tmp_path / "a_labels.png").exists()
    write(Outputs(tmp_path, overwrite=True), "/x/a.png", "new")
    write(Outputs(tmp_path), "/x/a.png", "new again")
    assert other.read_text() == "new again"
    other.write_text("edited")
    with refused(what=other):
        write(Outputs(tmp_path), "/x/a.png", "new")
    assert other.read_text() == "edited"


def test_an_interrupted_command_may_replace_its_files(tmp_path):
    def interrupted():
        with Outputs(tmp_path).writing("/x/a.png", "a", ["_labels"]) as [folder]:
            folder.mkdir()
            (folder / "000000.png").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with Outputs(tmp_path).writing("/x/a.png", "a", ["_labels"]) as [folder]:
        (folder / "000000.png").unlink()
        folder.rmdir()
    folder.mkdir()  # by somebody else
    with refused(what=folder), Outputs(tmp_path).writing("/x/a.png", "a", ["_labels"]):
        pass


@pytest.mark.parametrize("line", ["", "{", "[]", "null", '{"stem": "b"}', '{"stem": 1, "files": 2}'])
def test_damaged_lines_of_the_manifest_are_skipped(tmp_path, line):
    write(Outputs(tmp_path), "/x/a.png", "1")
    with (tmp_path / MANIFEST).open("a") as file:
        file.write(line + "\n")
    assert write(Outputs(tmp_path), "/x/a.png", "2")[0] == "a_labels.png"
    assert write(Outputs(tmp_path), "/y/a.png", "2")[0] == "a_2_labels.png"
