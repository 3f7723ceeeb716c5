"""
Bring one file over HTTP: retries with back-off, resume where a transfer broke, verify size and checksum, then rename.
"""
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from typing import NamedTuple

WAITS = (1, 2, 4, 8)            # seconds before each new try
TIMEOUT = 30                    # seconds without a byte


class Remote(NamedTuple):
    url: str
    path: str                   # where it goes, relative to the source's folder
    size: int                   # bytes, or -1 if unknown
    checksum: str               # "sha256:..." (large files) or "git:..." (small ones: sha1 of a git blob)


class Retry(Exception):
    """A failure that may pass: no connection, a broken transfer, a busy server."""


def open_url(url, start=0):
    headers = {"User-Agent": "tok2chat"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as e:
        if e.code in (408, 429) or e.code >= 500:
            raise Retry(f"HTTP status {e.code} {e.reason}") from None
        if e.code == 416:                                               # nothing after `start`
            return None
        raise ValueError(f"{url}: HTTP status {e.code} {e.reason}. Was it moved, or is HF_ENDPOINT wrong?") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as e:
        raise Retry(str(getattr(e, "reason", e)) or type(e).__name__) from None


def with_retries(action, what):
    for attempt, wait in enumerate((*WAITS, None)):
        try:
            return action()
        except Retry as e:
            if wait is None:
                raise ConnectionError(f"{what}: {e}, {attempt + 1} tries") from None
            print(f"\n  {e}; trying again in {wait} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def fetch(remote, target):
    """Bring one file to `target`: resume target.part, verify, rename. ConnectionError or ValueError if that fails."""
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    for fresh in (False, True):
        if fresh:                                                   # a part of another version of the file, or damage
            part.unlink(missing_ok=True)
        with_retries(lambda: transfer(remote, part), f"cannot fetch {remote.url}")
        size, found = part.stat().st_size, checksum_of(part, remote.checksum)
        if remote.size in (-1, size) and found == remote.checksum:
            os.replace(part, target)
            return
    raise ValueError(f"{remote.url}: the file that came has {size:,} bytes and {found}, published are "
                     f"{remote.size:,} bytes and {remote.checksum}. Try later, or another HF_ENDPOINT")


def transfer(remote, part):
    """Append to `part` what is missing; Retry if the connection breaks on the way."""
    start = part.stat().st_size if part.exists() else 0
    if start == remote.size:
        return
    response = open_url(remote.url, start)
    if response is None:
        if remote.size == -1:
            return                                                      # nothing is missing; the checksum will tell
        part.unlink()
        raise Retry("the part on disk is longer than the file")
    with response:
        resumed = response.status == 206
        begun, done = time.time(), start if resumed else 0
        total = remote.size if remote.size >= 0 else done + int(response.headers.get("Content-Length") or -1 - done)
        shown = 0
        with open(part, "ab" if resumed else "wb") as file:         # a server that ignores Range sends all of it again
            while True:
                try:
                    chunk = response.read(1 << 20)
                except (http.client.HTTPException, OSError) as e:
                    raise Retry(f"broken off after {done:,} bytes ({e or type(e).__name__})") from None
                if not chunk:
                    break
                try:
                    file.write(chunk)
                except OSError as e:
                    raise OSError(f"{part}: cannot write after {done:,} bytes ({e.strerror}). Free some space or "
                                  f"choose another --dest; run again, it goes on from here") from None
                done += len(chunk)
                if time.time() - shown > 0.2:
                    shown = time.time()
                    show(part.name.removesuffix(".part"), done, total,
                         (done - start * resumed) / max(shown - begun, 1e-3))
        if done < total:
            raise Retry(f"broken off after {done:,} of {total:,} bytes")


def show(name, done, total, rate):
    """One line that is overwritten, on a terminal only: a log file gets one line a finished file."""
    if sys.stderr.isatty():
        share = f"{100 * done / total:3.0f} % of {total / 1e6:,.0f} MB" if total > 0 else f"{done / 1e6:,.0f} MB"
        print(f"\r  {name[-40:]:40} {share}, {rate / 1e6:.1f} MB/s   ", end="", file=sys.stderr, flush=True)


def checksum_of(path, like):
    """The checksum of a file, of the kind that `like` is: "sha256:..." or "git:..."."""
    kind = like.partition(":")[0]
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\x00" % path.stat().st_size)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"
