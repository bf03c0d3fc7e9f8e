"""A web server on this machine that serves one file, and can break off, refuse ranges and answer with errors."""

import contextlib
import hashlib
import http.server
import threading
import time


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `content` at `url`.

    Attributes:
      content: bytes of the file.
      status: of every answer, if it is not 200.
      ranges: whether it understands requests of a part.
      headers: added to every answer.
      sends: how many bytes the next answers carry at most; the connection is closed after them.
      requests: the `Range` of every request of the content so far.
    """

    def __init__(self, content, name="model-0123abcd.pth"):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.status, self.ranges, self.headers = content, 200, True, {}
        self.sends, self.requests = [], []
        self.url = f"http://127.0.0.1:{self.server_port}/some/{name}"

    def handle_error(self, request, client_address):
        """Says nothing of clients that go away."""

    @property
    def digest(self):
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer(0)

    def do_GET(self):
        server = self.server
        part = self.headers.get("Range")
        server.requests.append(part)
        start = int(part.removeprefix("bytes=").removesuffix("-")) if part and server.ranges else 0
        if self._answer(start):
            sends = server.sends.pop(0) if server.sends else len(server.content)
            self.wfile.write(server.content[start : start + sends])
            if 0 < sends < len(server.content) - start:
                time.sleep(0.5)  # what a client has not read when the connection closes is lost to it

    def _answer(self, start):
        server, total = self.server, len(self.server.content)
        if server.status != 200 or start >= total > 0:
            self.send_error(server.status if server.status != 200 else 416)
            return False
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(total - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        return True

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(content, name="model-0123abcd.pth"):
    """A `FileServer` of `content`, for as long as the block runs."""
    with FileServer(content, name) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
