"""Tests archives that are downloaded before they are read."""

import hashlib
import http.server
import threading

import pytest

from danet_jax.data.builders import published
from tests.reference import publishers
from tests.reference.refusal import refused


@pytest.fixture
def server(tmp_path):
    """Serves `tmp_path/site` and yields the address of the server."""
    site = tmp_path / "site"
    site.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(site))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


@pytest.mark.parametrize("digest", ["correct", "incorrect", "none", "no file"])
def test_download(rng, tmp_path, server, monkeypatch, digest):
    archive = "ADEChallengeData2016.zip"
    tree, truth = publishers.ade20k(rng)
    content = (publishers.write(tree, tmp_path / "site", "archive") / archive).read_bytes()
    value = "md5:" + hashlib.md5(content if digest == "correct" else b"").hexdigest()
    url = f"{server}/{'' if digest != 'no file' else 'gone/'}{archive}"
    [listed, _] = published.PUBLISHED["ade20k"]["archives"]
    changed = {"url": url, "digest": value if digest != "none" else ""}
    monkeypatch.setitem(published.PUBLISHED["ade20k"], "archives", [{**listed, **changed}])
    root = tmp_path / "in"
    if digest in ("correct", "none"):
        dataset = publishers.prepare("ade20k", root, tmp_path, download=True)
        assert sum(dataset.splits.values()) == len(truth)
        assert [path.name for path in root.iterdir()] == [archive]
    else:
        with refused(what=url):
            publishers.prepare("ade20k", root, tmp_path, download=True)
        assert not (root / archive).exists()
        assert not list((tmp_path / "data").rglob("*.array_record*"))
