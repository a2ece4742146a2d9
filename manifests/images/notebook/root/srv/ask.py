"""Asks the model from a notebook, word by word as it answers."""

import json
import sys
import urllib.request

body = json.dumps({"model": "tiny", "prompt": " ".join(sys.argv[1:])}).encode()
with urllib.request.urlopen("http://model:11434/api/generate", body, timeout=10) as answer:
    for line in answer:
        print(json.loads(line)["response"], end="")
print()
