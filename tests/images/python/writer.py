"""Writes a page into a directory again and again, and fetches it from the web server that shares the pod.

writer.py DIRECTORY
"""

import os
import pathlib
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request

ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())

directory = pathlib.Path(sys.argv[1])
count = 0
while not ended.is_set():
    count += 1
    page = f"page {count} of {socket.gethostname()}, by uid {os.getuid()}\n"
    new = directory / ".index.html"
    new.write_text(page)
    new.replace(directory / "index.html")
    try:
        with urllib.request.urlopen("http://localhost/", timeout=5) as answer:
            print(answer.status, answer.read().decode(), end="")
    except urllib.error.URLError as error:
        print("no page yet:", error.reason, file=sys.stderr)
    ended.wait(0.2)
print("told to end after", count, "pages")
