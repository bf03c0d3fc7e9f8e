"""Downloads from a server on this machine that behaves well, badly, and not at all."""

import fcntl
import hashlib
import http.server
import os
import threading
import time

import pytest

from danet_jax.errors import InputError
from danet_jax.weights import download
from danet_jax.weights.download import fetch


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`. `sends` limits how many bytes the next answers carry, `status` is an error to give."""

    content = b""
    status = 200
    ranges = True
    sends: list[int] = []  # noqa: RUF012, replaced by every test
    requests: list[str | None] = []  # noqa: RUF012


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        if start:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        sends = server.sends.pop(0) if server.sends else len(server.content)
        self.wfile.write(server.content[start : start + sends])

    def log_message(self, *_):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DANET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


@pytest.fixture
def server(rng, cache):
    with Server(("127.0.0.1", 0), Handler) as server:
        server.content = rng.bytes(3_000_000)
        server.sends, server.requests = [], []
        server.url = f"http://127.0.0.1:{server.server_port}/some/model-0123abcd.pth"
        server.sha256 = hashlib.sha256(server.content).hexdigest()
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def files(cache) -> list[str]:
    return sorted(os.listdir(cache)) if cache.exists() else []


def test_downloads_once(server, cache):
    path = fetch(server.url, server.sha256[:8])
    assert path == cache / "model-0123abcd.pth"
    assert path.read_bytes() == server.content
    assert files(cache) == [path.name]
    assert fetch(server.url, server.sha256[:8]) == path
    assert server.requests == [None]


def test_a_connection_that_breaks_off_is_taken_up_again_at_once(server, cache):
    server.sends = [1_000_000, 500_000]
    assert fetch(server.url, server.sha256[:8]).read_bytes() == server.content
    assert server.requests == [None, "bytes=1000000-", "bytes=1500000-"]
    assert files(cache) == ["model-0123abcd.pth"]


def test_a_server_that_stays_broken_leaves_a_part_that_the_next_call_goes_on_with(server, cache):
    server.sends = [1_000_000, *[0] * 10]
    with pytest.raises(
        InputError, match=r"broke off at 1,000,000 of 3,000,000 bytes; 1,000,000 bytes are kept"
    ):
        fetch(server.url, server.sha256[:8])
    assert files(cache) == ["model-0123abcd.pth.part"]
    server.sends, server.requests = [], []
    assert fetch(server.url, server.sha256[:8]).read_bytes() == server.content
    assert server.requests == ["bytes=1000000-"]
    assert files(cache) == ["model-0123abcd.pth"]


def test_a_server_without_ranges_sends_it_all_again(server, cache):
    server.ranges = False
    server.sends = [1_000_000]
    assert fetch(server.url, server.sha256[:8]).read_bytes() == server.content


def test_a_part_that_is_whole_already_is_only_checked(server, cache):
    cache.mkdir()
    (cache / "model-0123abcd.pth.part").write_bytes(server.content)
    assert fetch(server.url, server.sha256[:8]).read_bytes() == server.content
    assert server.requests == ["bytes=3000000-"]


def test_another_content_than_expected_is_deleted(server, cache):
    with pytest.raises(InputError, match=r"SHA-256 .* and not 00000000"):
        fetch(server.url, "00000000")
    assert files(cache) == []
    # A part of another file does not hide for ever what can be had.
    (cache / "model-0123abcd.pth.part").write_bytes(b"something else")
    with pytest.raises(InputError, match="changed or damaged; it is deleted, try again"):
        fetch(server.url, server.sha256[:8])
    assert fetch(server.url, server.sha256[:8]).read_bytes() == server.content


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_an_error_of_the_server(server, cache, status):
    server.status = status
    with pytest.raises(InputError, match=f"{server.url}: the server answers {status}"):
        fetch(server.url, server.sha256[:8])
    assert files(cache) == []


def test_without_a_connection(server, cache):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match=r"cannot be downloaded: .*refused"):
        fetch(url, server.sha256[:8])
    assert files(cache) == []


def test_a_server_that_says_nothing_any_more(server, cache, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda handler: release.wait(20))
    monkeypatch.setattr(download, "_TIMEOUT", 0.2)
    with pytest.raises(InputError, match=r"cannot be downloaded: .*timed out"):
        fetch(server.url, server.sha256[:8])
    release.set()
    assert files(cache) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk without space")
def test_no_space_left(server, cache):
    cache.mkdir()
    (cache / "model-0123abcd.pth.part").symlink_to("/dev/full")
    with pytest.raises(
        InputError, match=r"model-0123abcd.pth.part: cannot be written: No space left on device"
    ):
        fetch(server.url, server.sha256[:8])
    assert files(cache) == []


def test_a_cache_that_cannot_be_made(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DANET_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be written"):
        fetch(server.url, server.sha256[:8])


def test_two_at_once_download_it_once(server, cache):
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch(server.url, server.sha256[:8]))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4
    assert paths[0].read_bytes() == server.content
    assert files(cache) == ["model-0123abcd.pth"]
    assert server.requests == [None]


def test_what_another_process_left_while_this_one_waited_is_gone_on_with(server, cache):
    cache.mkdir()
    part = cache / "model-0123abcd.pth.part"
    with part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=fetch, args=(server.url, server.sha256[:8]))
        thread.start()
        time.sleep(0.3)  # it has opened the empty file, and waits
        other.write(server.content[:1_000_000])
    thread.join()
    assert (cache / "model-0123abcd.pth").read_bytes() == server.content
    assert server.requests == ["bytes=1000000-"]


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DANET_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert download.cache_directory() == tmp_path / ".cache" / "danet_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(download.cache_directory()) == "/x/danet_jax"
    monkeypatch.setenv("DANET_JAX_CACHE", "/y")
    assert str(download.cache_directory()) == "/y"
