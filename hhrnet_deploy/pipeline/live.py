"""A page on localhost with the live picture; the headless OpenCV has no window."""

from __future__ import annotations

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

_PAGE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>hhrnet</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<style>body{margin:0;background:#111;display:grid;place-items:center;min-height:100vh}
img{max-width:100vw;max-height:100vh}</style><img src="/stream" alt="live picture with people"></html>"""
_BOUNDARY = b"hhrnet-frame"
_JPEG_QUALITY = 80
# Seconds a client waits for the next picture before it looks whether the page was closed.
_WAIT = 1.0


class LivePage:
    """Serves the newest picture as motion JPEG on 127.0.0.1; slow clients skip pictures, the work never waits.

    Args:
        port: 0 picks a free one.
    """

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._news = threading.Condition()
        self._jpeg: bytes | None = None
        self._number = 0
        self._closed = False
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self._server = _Server(self, self._port)
        threading.Thread(target=self._server.serve_forever, name="hhrnet-live", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def url(self) -> str:
        """Where to look."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def show(self, image: npt.NDArray[np.uint8]) -> None:
        """Make (H, W, 3) uint8 RGB the current picture."""
        import cv2

        picture = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        with self._news:
            self._jpeg = jpeg.tobytes()
            self._number += 1
            self._news.notify_all()

    def newer_than(self, number: int) -> tuple[int, bytes] | None:
        """Wait for a picture after ``number``; None once the page is closed."""
        with self._news:
            while not self._closed:
                if self._jpeg is not None and self._number > number:
                    return self._number, self._jpeg
                self._news.wait(_WAIT)
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, page: LivePage, port: int) -> None:
        self.page = page
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if self.path == "/":
            self._send_page()
        elif self.path == "/stream":
            self._send_stream()
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send_page(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(_PAGE)))
        self.end_headers()
        self.wfile.write(_PAGE)

    def _send_stream(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY.decode()}")
        self.end_headers()
        number = 0
        try:
            while (news := self.server.page.newer_than(number)) is not None:
                number, jpeg = news
                self.wfile.write(b"--%s\r\nContent-Type: image/jpeg\r\n\r\n" % _BOUNDARY)
                self.wfile.write(jpeg + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return

    def log_message(self, *_: object) -> None:
        """Say nothing: stderr belongs to the progress bar."""
