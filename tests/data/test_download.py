"""Archives that are fetched before they are read."""

import http.server
import threading

import pytest

from danet_jax.data.builders.ade20k import Ade20k
from danet_jax.data.builders.archives import Source
from danet_jax.data.dataset import open_dataset
from tests.reference import publishers
from tests.reference.refusal import refused


@pytest.fixture
def server(tmp_path):
    """A web server of `tmp_path/site`; its address."""
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


@pytest.mark.parametrize("digest", ["right", "wrong", "none", "no such file"])
def test_download(rng, tmp_path, server, monkeypatch, digest):
    import hashlib

    archive = "ADEChallengeData2016.zip"
    tree, truth = publishers.ade20k(rng)
    content = (publishers.write(tree, tmp_path / "site", "archive") / archive).read_bytes()
    value = "md5:" + hashlib.md5(content if digest == "right" else b"").hexdigest()
    url = f"{server}/{archive if digest != 'no such file' else 'gone.zip'}"
    source = Source(
        archive,
        "ADEChallengeData2016",
        ("annotations", "images"),
        0.001,
        url,
        True,
        value if digest != "none" else "",
    )
    monkeypatch.setattr(Ade20k, "sources", lambda self: (source,))
    root = tmp_path / "in"
    if digest in ("right", "none"):
        dataset = open_dataset(
            "ade20k", root=root, data_dir=tmp_path / "data", options={"allow_partial": True, "download": True}
        )
        assert sum(dataset.splits.values()) == len(truth)
        assert [path.name for path in root.iterdir()] == [archive]
    else:
        options = {"allow_partial": True, "download": True}
        with refused(what=url):
            open_dataset("ade20k", root=root, data_dir=tmp_path / "data", options=options)
        assert not (root / archive).exists()
        assert not list((tmp_path / "data").rglob("*.array_record*"))
