"""A stand-in for a model server: Ollama's /api/tags and /api/generate, and a model that says the prompt backwards.

The model is a file under MODELS. It is made at the first start, which takes a while on a real server: a claim keeps it.
"""

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODELS = os.environ.get("MODELS", "/models")


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, code, body):
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        if self.path == "/api/tags":
            names = sorted(os.listdir(MODELS))
            sizes = {name: os.path.getsize(os.path.join(MODELS, name)) for name in names}
            self.answer(200, {"models": [{"name": n, "model": n, "size": s} for n, s in sizes.items()]})
        else:
            self.answer(404 if self.path != "/" else 200, "model server is running")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if self.path != "/api/generate":
            return self.answer(404, {"error": "not found"})
        name = body.get("model", "")
        if "/" in name or not os.path.isfile(os.path.join(MODELS, name)):
            return self.answer(404, {"error": f"model '{name}' not found"})
        words = list(reversed(body.get("prompt", "").split()))
        if not body.get("stream", True):
            return self.answer(200, {"model": name, "created_at": now(), "response": " ".join(words), "done": True})
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        parts = [(" " if n else "") + word for n, word in enumerate(words)]
        for part, done in [(part, False) for part in parts] + [("", True)]:
            line = json.dumps({"model": name, "created_at": now(), "response": part, "done": done}).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")


if __name__ == "__main__":
    tiny = os.path.join(MODELS, "tiny")
    if os.path.exists(tiny):
        print("the model is there already")
    else:
        with open(tiny + ".new", "wb") as model:
            model.write(os.urandom(1 << 20))
        os.rename(tiny + ".new", tiny)
        print("the model is made")
    ThreadingHTTPServer(("", 11434), Handler).serve_forever()
