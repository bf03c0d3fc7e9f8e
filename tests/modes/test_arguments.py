"""The images that a user names, and the names of their results."""

import os
import pathlib

from danet_jax.modes.arguments import by_unique_name, find_images, read_file, unique_names
from tests.reference.refusal import refused


def test_an_empty_argument_is_not_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for argument in ("", " "):
        with refused(what=repr(argument)):
            list(find_images(["a.png", argument]))
    assert [path.name for path in find_images(["."])] == ["a.png"]


def test_results_have_unique_names():
    examples = ["city_a/1", "city/a_1", "city_a_1", "city_a_1_2"]
    names = list(unique_names(name.replace("/", "_") for name in examples))
    assert names == ["city_a_1", "city_a_1_2", "city_a_1_3", "city_a_1_2_2"]
    paths = ["a/x.png", "b/x.png", "x.jpg", "x_2.jpg"]
    assert list(by_unique_name(paths)) == ["x", "x_2", "x_3", "x_2_2"]
    assert list(by_unique_name(paths).values()) == paths


def test_long_names_leave_room_for_suffixes(tmp_path):
    paths = ["中" * 80 + ".png", "é" + "x" * 249 + ".png", "é" + "x" * 249 + ".jpg"]
    names = list(by_unique_name(paths))
    assert names == ["中" * 66, "é" + "x" * 198, "é" + "x" * 198 + "_2"]
    for path in paths:
        (tmp_path / path).write_bytes(b"")


def test_folders_are_walked_with_links_and_without_hidden_folders(tmp_path):
    for name in ("in/b.png", "in/.ipynb_checkpoints/b-checkpoint.png", "elsewhere/a.JPG", "in/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    found = [path.relative_to(tmp_path / "in").as_posix() for path in find_images([str(tmp_path / "in")])]
    assert found == ["b.png", "link/a.JPG"]
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    with refused(tmp_path / "in/again"):
        list(find_images([str(tmp_path / "in")]))


def test_unexpanded_patterns_are_expanded(tmp_path, monkeypatch):
    for name in ("b.jpg", "a.jpg", "c.png", "[1].jpg", "more/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in find_images(["*.jpg", "mor?"])] == [
        "[1].jpg",
        "a.jpg",
        "b.jpg",
        "more/d.jpg",
    ]
    assert [str(path) for path in find_images(["[1].jpg"])] == ["[1].jpg"]
    with refused("*.bmp"):
        list(find_images(["*.bmp"]))


def test_pipes_and_invalid_names_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", pathlib.Path("a\0b")):
        with refused(path):
            read_file(path)


def test_files_of_other_formats_in_a_folder_are_reported(tmp_path, capsys):
    for name in ("a.png", "b.heic", "c.HEIC", "d.mp4", "e"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_images([str(tmp_path)])] == ["a.png"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(str(tmp_path) in line for line in lines)
    for count, kind in ((2, ".heic"), (1, ".mp4"), (1, "without")):
        assert any(f" {count} " in line and kind in line for line in lines)
