"""The course's API: it hands questions to the model server, which it knows by its name."""

import json
import os
import urllib.request

from flask import Flask, jsonify, request

MODEL = os.environ.get("MODEL_URL", "http://model:11434")
app = Flask(__name__)


def ask(path, body=None):
    """What the model server answers, as JSON."""
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(MODEL + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(call, timeout=10) as answer:
        return json.load(answer)


@app.get("/healthz")
def healthz():
    return "ok\n"


@app.get("/models")
def models():
    return jsonify([model["name"] for model in ask("/api/tags")["models"]])


@app.post("/ask")
def question():
    body = {"model": "tiny", "prompt": request.get_json()["prompt"], "stream": False}
    return jsonify(answer=ask("/api/generate", body)["response"])


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=5000)
