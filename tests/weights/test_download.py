"""Downloads from a local server that works, fails or does not respond, and from other file systems."""

import base64
import hashlib
import os
import threading

import fsspec
import pytest
from filelock import FileLock

from danet_jax.weights import download as module
from danet_jax.weights.download import cached_path, download
from tests.reference.file_server import _Handler, serving
from tests.reference.refusal import refused

PART = "model-0123abcd.pth.part"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DANET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


@pytest.fixture
def server(rng, cache):
    with serving(rng.bytes(3_000_000)) as server:
        yield server


def fetch(server, digest=None):
    return download(server.url, cached_path(server.url), digest or server.digest[: len("sha256:") + 8])


def files(cache) -> list[str]:
    return sorted(os.listdir(cache)) if cache.exists() else []


def starts(server) -> list[int]:
    """Returns the offsets at which the answers began."""
    return [int(part.removeprefix("bytes=").removesuffix("-")) if part else 0 for part in server.requests]


def test_a_file_is_downloaded_once(server, cache):
    path = fetch(server)
    assert path == cache / "model-0123abcd.pth"
    assert path.read_bytes() == server.content
    assert files(cache) == [path.name]
    assert fetch(server) == path
    assert starts(server) == [0]


def test_a_closed_connection_is_resumed_at_once(server, cache):
    server.sends = [1_000_000, 500_000]
    assert fetch(server).read_bytes() == server.content
    first, second, third = starts(server)  # what was sent just before the end may be lost
    assert 0 == first < second <= third <= 1_500_000
    assert files(cache) == ["model-0123abcd.pth"]


def test_the_next_call_resumes_an_incomplete_download(server, cache):
    server.sends = [1_000_000, *[0] * 10]
    with refused(server.url):
        fetch(server)
    assert files(cache) == [".model-0123abcd.pth.lock", PART]
    kept = (cache / PART).stat().st_size
    assert 0 < kept <= 1_000_000
    server.sends, server.requests = [], []
    assert fetch(server).read_bytes() == server.content
    assert starts(server) == [kept]
    assert files(cache) == ["model-0123abcd.pth"]


def test_a_server_without_ranges(server, cache):
    server.ranges = False
    server.sends = [1_000_000]
    assert fetch(server).read_bytes() == server.content


def test_a_server_that_does_not_report_the_size(server, cache, monkeypatch):
    def answer(handler, start):
        handler.send_response(200)
        handler.end_headers()
        return handler.command == "GET"

    monkeypatch.setattr(_Handler, "_answer", answer)
    cache.mkdir()
    (cache / PART).write_bytes(b"the beginning of what may be another file")
    assert fetch(server).read_bytes() == server.content


@pytest.mark.parametrize("longer", [b"", b"and more"])
def test_a_complete_part_is_only_checked(server, cache, longer):
    cache.mkdir()
    (cache / PART).write_bytes(server.content + longer)
    assert fetch(server).read_bytes() == server.content
    assert starts(server) == ([0] if longer else [])


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_file_with_another_digest_is_deleted(server, cache, algorithm):
    right = hashlib.new(algorithm, server.content).hexdigest()
    other = hashlib.new(algorithm, b"").hexdigest()
    with refused(server.url, right, other):
        fetch(server, f"{algorithm}:{other}")
    assert PART not in files(cache)
    (cache / PART).write_bytes(b"part of another file")
    with refused(server.url):
        fetch(server)
    assert fetch(server, f"{algorithm}:{right}").read_bytes() == server.content


def test_a_digest_that_the_server_publishes_is_checked(server, cache):
    server.headers = {"Content-MD5": base64.b64encode(hashlib.md5(b"").digest()).decode()}
    with refused(server.url):
        download(server.url)
    server.headers = {"Content-MD5": base64.b64encode(hashlib.md5(server.content).digest()).decode()}
    assert download(server.url).read_bytes() == server.content


def test_versions_of_a_file_are_cached_separately(server, cache, rng):
    server.headers = {"ETag": "first"}
    first = download(server.url)
    assert download(server.url) == first
    assert starts(server) == [0]
    server.headers, server.content = {"ETag": "second"}, rng.bytes(len(server.content))
    assert download(server.url).read_bytes() == server.content
    assert first.read_bytes() != server.content
    assert first.name == "model-0123abcd.pth"  # outputs are named after it


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_errors_of_the_server(server, cache, status):
    server.status = status
    with refused(server.url) as caught:
        fetch(server)
    assert str(status) in str(caught.value) or status == 404
    assert files(cache) == []


def test_without_a_connection(server, cache):
    server.shutdown()
    server.server_close()
    with refused(server.url):
        fetch(server)
    assert files(cache) == []


def test_a_server_that_does_not_respond(server, cache, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(_Handler, "_answer", lambda *_: release.wait(20))
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    with refused(server.url):
        fetch(server)
    release.set()
    assert files(cache) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk without space")
def test_no_space_left(server, cache):
    cache.mkdir()
    (cache / PART).symlink_to("/dev/full")
    with refused(cache / PART):
        fetch(server)
    assert PART not in files(cache)


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DANET_JAX_CACHE", str(tmp_path / "file"))
    with refused(tmp_path / "file" / PART):
        fetch(server)


def test_concurrent_calls_download_a_file_once(server, cache):
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(server))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4
    assert paths[0].read_bytes() == server.content
    assert files(cache) == ["model-0123abcd.pth"]
    assert starts(server) == [0]


def test_a_part_that_another_process_left_is_resumed(server, cache):
    cache.mkdir()
    thread = threading.Thread(target=fetch, args=(server,))
    with FileLock(cache / ".model-0123abcd.pth.lock"):
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        (cache / PART).write_bytes(server.content[:1_000_000])
    thread.join()
    assert (cache / "model-0123abcd.pth").read_bytes() == server.content
    assert starts(server) == [1_000_000]


def test_other_file_systems(cache, rng, tmp_path):
    content = rng.bytes(3_000_000)
    with fsspec.open("memory://folder/model.pth", "wb") as file:
        file.write(content)
    path = download("memory://folder/model.pth")
    assert path.parent.parent == cache
    assert path.read_bytes() == content
    partial = tmp_path / "archive.zip.part"
    partial.write_bytes(content[:1_234_567])
    assert download("memory://folder/model.pth", tmp_path / "archive.zip").read_bytes() == content
    assert not partial.exists()
    assert download(path.as_uri()) == path


@pytest.mark.parametrize("address", ["memory://nothing/here.pth", "nothing://known/file.pth", "https:///x"])
def test_an_address_that_does_not_exist(cache, address):
    with refused(address):
        download(address)
    assert files(cache) == []


def test_the_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DANET_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert module.cache_directory() == tmp_path / ".cache" / "danet_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(module.cache_directory()) == "/x/danet_jax"
    monkeypatch.setenv("DANET_JAX_CACHE", "/y")
    assert str(module.cache_directory()) == "/y"
