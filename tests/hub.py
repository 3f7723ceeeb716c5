"""A hub of data sets on this machine, for the tests of data/download.py and data/fetch.py."""
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import data.fetch

# 10 MB.
BIG = bytes(range(256)) * 40_000


class Hub(http.server.BaseHTTPRequestHandler):
    """Lists and serves server.files, {repo: {path: bytes}}, as the Hugging Face hub does.

    server.trouble is a list of faults, one for each file that is asked for.
    """

    def do_GET(self):
        server = self.server
        url = urllib.parse.urlparse(self.path)
        server.requests.append((self.path, self.headers.get("Range")))
        if match := re.fullmatch(r"/api/datasets/(.+)/tree/main", url.path):
            return self.send_listing(match[1], url)

        trouble = server.trouble.pop(0) if server.trouble else None
        if trouble == "busy":
            return self.send_error(503)
        repo, path = re.fullmatch(r"/datasets/(.+?/.+?)/resolve/main/(.+)", url.path).groups()
        content = server.files[repo].get(urllib.parse.unquote(path))
        if content is None or trouble == "gone":
            return self.send_error(404)
        start = 0
        if trouble != "no ranges":
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start >= len(content):
            return self.send_error(416)
        if trouble == "other bytes":
            content = b"?" * len(content)
        self.reply(206 if start else 200, content[start:], {}, cut=trouble == "cut")

    def send_listing(self, repo, url):
        if repo not in self.server.files:
            return self.send_error(404)
        entries = [self.entry(path, content) for path, content in self.server.files[repo].items()]
        # The pages have two entries, as if the data set were large.
        start = int(urllib.parse.parse_qs(url.query).get("cursor", ["0"])[0])
        page = entries[start:start + 2]
        page.append({"type": "directory", "path": "data", "oid": "x"})
        headers = {}
        if start + 2 < len(entries):
            address = f"http://{self.headers['Host']}{url.path}?cursor={start + 2}"
            headers["Link"] = f'<{address}>; rel="next"'
        self.reply(200, json.dumps(page).encode(), headers)

    def entry(self, path, content):
        size = len(content)
        if size > 100:
            # Large files are listed with a SHA-256.
            return {"type": "file", "path": path, "size": size, "oid": "pointer",
                    "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": size}}
        return {"type": "file", "path": path, "size": size,
                "oid": hashlib.sha1(b"blob %d\x00" % size + content).hexdigest()}

    def reply(self, status, content, headers, cut=False):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content[:len(content) // 2] if cut else content)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def running_hub(monkeypatch):
    """The hub's server, which HF_ENDPOINT then names; new tries come at once."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests = []
    server.trouble = []
    server.files = {
        "openai/gsm8k": {"README.md": b"no", "main/train.parquet": BIG,
                         "main/test.parquet": b"small", "socratic/train.parquet": b"no"},
        "karpathy/climbmix-400b-shuffle": {
            f"shard_{i:05d}.parquet": b"shard %d" % i for i in range(7)}}
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data.fetch, "WAITS", (0, 0, 0, 0))
    yield server
    server.shutdown()
