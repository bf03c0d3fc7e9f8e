"""Which pictures a user names, and what their results are called."""

import os
import pathlib
import struct
import warnings
import zlib

from danet_jax.data.decode import decode_image
from danet_jax.modes.arguments import apart, images_of, named_apart, read_file
from tests.reference.refusal import refused


def test_an_empty_argument_is_not_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for argument in ("", " "):
        with refused(what=repr(argument)):
            list(images_of(["a.png", argument]))
    assert [path.name for path in images_of(["."])] == ["a.png"]


def test_no_result_overwrites_another():
    examples = ["city_a/1", "city/a_1", "city_a_1", "city_a_1_2"]
    names = list(apart(name.replace("/", "_") for name in examples))
    assert names == ["city_a_1", "city_a_1_2", "city_a_1_3", "city_a_1_2_2"]
    paths = ["a/x.png", "b/x.png", "x.jpg", "x_2.jpg"]
    assert list(named_apart(paths)) == ["x", "x_2", "x_3", "x_2_2"]
    assert list(named_apart(paths).values()) == paths


def test_long_names_leave_room_for_what_is_put_behind_them(tmp_path):
    paths = ["中" * 80 + ".png", "é" + "x" * 249 + ".png", "é" + "x" * 249 + ".jpg"]
    names = list(named_apart(paths))
    assert names == ["中" * 66, "é" + "x" * 198, "é" + "x" * 198 + "_2"]
    for path in paths:
        (tmp_path / path).write_bytes(b"")


def test_a_header_of_many_pixels_gives_one_error_and_no_warning():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 12000, 12000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 99)), chunk(b"IEND", b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with refused() as caught:
            decode_image(b"\x89PNG\r\n\x1a\n" + b"".join(parts), "large.png")
    assert "large.png" in str(caught.value)


def test_folders_are_gone_through_with_links_and_without_what_is_hidden(tmp_path):
    for name in ("in/b.png", "in/.ipynb_checkpoints/b-checkpoint.png", "elsewhere/a.JPG", "in/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    found = [path.relative_to(tmp_path / "in").as_posix() for path in images_of([str(tmp_path / "in")])]
    assert found == ["b.png", "link/a.JPG"]
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    with refused(tmp_path / "in/again"):
        list(images_of([str(tmp_path / "in")]))


def test_a_pattern_that_the_shell_left_alone_stands_for_its_files(tmp_path, monkeypatch):
    for name in ("b.jpg", "a.jpg", "c.png", "[1].jpg", "more/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in images_of(["*.jpg", "mor?"])] == ["[1].jpg", "a.jpg", "b.jpg", "more/d.jpg"]
    assert [str(path) for path in images_of(["[1].jpg"])] == ["[1].jpg"]
    with refused("*.bmp"):
        list(images_of(["*.bmp"]))


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", pathlib.Path("a\0b")):
        with refused(path):
            read_file(path)


def test_files_of_other_formats_in_a_folder_are_counted(tmp_path, capsys):
    for name in ("a.png", "b.heic", "c.HEIC", "d.mp4", "e"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in images_of([str(tmp_path)])] == ["a.png"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(str(tmp_path) in line for line in lines)
    for count, kind in ((2, ".heic"), (1, ".mp4"), (1, "without")):
        assert any(f" {count} " in line and kind in line for line in lines)
