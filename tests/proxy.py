"""A proxy that refuses every request, and records them."""

import socketserver

from tests.server import Server


class Proxy(Server):
    def __init__(self) -> None:
        super().__init__(_Refusal)
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.port}"


class _Refusal(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        self.server.requests.append(self.rfile.readline().decode("latin-1").strip())
        self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
