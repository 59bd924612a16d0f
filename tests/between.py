"""A server between a program and an object store. It counts the bytes of the answers, and can spoil them."""

import socket
import socketserver
import time
from collections import Counter
from collections.abc import Callable

from tests.server import Server

Spoil = Callable[[str, int], str]
"""Says what happens to an answer, by its path and by how often it was asked for: "", "slow", "error" or "cut"."""


class Between(Server):
    """Forwards GET and HEAD requests to `port` of this machine.

    Attributes:
        sent: the bytes of all bodies that were sent for GET requests, by path.
        asked: how often each path was asked for by GET.

    """

    def __init__(self, port: int, spoil: Spoil = lambda path, time: "") -> None:
        super().__init__(_Request)
        self.upstream, self.spoil = port, spoil
        self.sent: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()


class _Request(socketserver.StreamRequestHandler):
    server: Between

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        method, path, _ = head.decode("latin-1").split(" ", 2)
        path = path.partition("?")[0]
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        answer = self._answer(b"\r\n".join([lines[0], b"Connection: close", *lines[1:]]))
        head, _, body = answer.partition(b"\r\n\r\n")
        kind = ""
        if method == "GET":
            self.server.asked[path] += 1
            kind = self.server.spoil(path, self.server.asked[path])
        if kind == "error":
            self.wfile.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        if kind == "cut":
            body = body[: len(body) // 2]
        if method == "GET":
            self.server.sent[path] += len(body)
        self.wfile.write(head + b"\r\n\r\n")
        for start in range(0, len(body), 1 << 14):
            self.wfile.write(body[start : start + (1 << 14)])
            if kind == "slow":
                time.sleep(0.02)

    def _answer(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.server.upstream)) as upstream:
            upstream.sendall(request)
            parts = []
            while part := upstream.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)
