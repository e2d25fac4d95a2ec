"""A real HTTP server that answers chat completions with a model of this process."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from stabfw.components import FinishReason, GenerationOptions, Image, Prediction, Prompt

KEY = "only-for-this-test"
Trouble = Callable[[int], str]


class Served(ThreadingHTTPServer):
    """The server.

    Attributes:
        trouble: What goes wrong with a request, by its number: "" for nothing, an HTTP status,
            "cut" for a connection that ends in mid-answer, "late" for an answer that comes too
            late, or "odd" for an answer of another form.
        requests: Number of requests so far.
        answered: Number of whole answers so far.
        key: What the header Authorization must name, if anything.
    """

    daemon_threads = True

    def __init__(self, model: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = model
        self.lock = threading.Lock()
        self.trouble: Trouble = lambda number: ""
        self.requests = self.answered = 0
        self.key: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # A client that gave up is what some tests are about.


@contextmanager
def serve(model: Any) -> Iterator[Served]:
    """Serve a loaded model until the context ends."""
    with Served(model) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Served
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests += 1
            trouble = self.server.trouble(self.server.requests)
        if self.path != "/v1/chat/completions":
            return self._send(404, {"error": f"no {self.path} here"})
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            return self._send(401, {"error": "who are you?"})
        if trouble.isdecimal():
            return self._send(int(trouble), {"error": "not now"})
        if trouble == "odd":
            return self._send(200, {"choices": []})
        if trouble == "late":
            time.sleep(0.6)
        with self.server.lock:
            (prediction,) = self.server.model.generate(
                self.server.model.encode([_prompt(body)]),
                GenerationOptions(body["max_tokens"], body.get("top_logprobs", 1)),
            )
            self.server.answered += not trouble
        if trouble == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        return self._send(200, _completion(prediction, body.get("logprobs", False)))

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _prompt(body: dict[str, Any]) -> Prompt:
    (message,) = body["messages"]
    assert body["temperature"] == 0
    parts = message["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    (text,) = [part["text"] for part in parts if part["type"] == "text"]
    data = [base64.b64decode(url.removeprefix("data:image/png;base64,")) for url in urls]
    pixels = [np.asarray(PillowImage.open(io.BytesIO(item)).convert("RGB")) for item in data]
    return Prompt("served", tuple(map(Image.from_pixels, pixels)), text)


def _completion(prediction: Prediction, logprobs: bool) -> dict[str, Any]:
    top = [{"token": token.text, "logprob": token.logprob} for token in prediction.top]
    tokens = [{"token": "", "logprob": value} for value in prediction.logprobs]
    tokens[0]["top_logprobs"] = top  # type: ignore[assignment]
    length = prediction.finish is FinishReason.LENGTH
    return {
        "choices": [
            {
                "message": {"role": "assistant", "content": prediction.text},
                "finish_reason": "length" if length else "stop",
                "logprobs": {"content": tokens} if logprobs else None,
            }
        ]
    }
