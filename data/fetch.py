"""
Fetch one file over HTTP: try again, resume a broken transfer, verify size and checksum, rename.
"""
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

# Seconds to wait before each new try.
WAITS = (1, 2, 4, 8)
# Seconds without a byte after which a try has failed.
TIMEOUT = 30


class Remote(NamedTuple):
    url: str
    # Where the file goes, relative to the folder of its source.
    path: str
    # Bytes, or -1 if unknown.
    size: int
    # "sha256:..." for a large file, "git:..." for a small one: the SHA-1 of a git blob.
    checksum: str


class Retry(Exception):
    """A failure that may pass: no connection, a broken transfer, a busy server."""


def open_url(url, start=0):
    """An open response from byte `start` on; None if the file has no such byte.

    Raises Retry for a failure that may pass, and ValueError for one that will not.
    """
    headers = {"User-Agent": "tok2chat"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as e:
        if e.code in (408, 429) or e.code >= 500:
            raise Retry(f"HTTP status {e.code} {e.reason}") from None
        # "Range not satisfiable".
        if e.code == 416:
            return None
        raise ValueError(f"{url}: HTTP status {e.code} {e.reason}. "
                         f"Was it moved, or is HF_ENDPOINT wrong?") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as e:
        raise Retry(str(getattr(e, "reason", e)) or type(e).__name__) from None


def with_retries(action, what):
    """Call action() again after each Retry; the last one becomes a ConnectionError.

    what: the beginning of its message.
    """
    for attempt, wait in enumerate((*WAITS, None)):
        try:
            return action()
        except Retry as e:
            if wait is None:
                raise ConnectionError(f"{what}: {e}, {attempt + 1} tries") from None
            print(f"\n  {e}; trying again in {wait} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def fetch(remote, target):
    """Fetch one file to `target`, by way of target.part.

    Raises ConnectionError if the transfer fails, and ValueError if another file comes than the
    published one.
    """
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    for fresh in (False, True):
        # The second try starts afresh: the part was damaged, or of another version of the file.
        if fresh:
            part.unlink(missing_ok=True)
        with_retries(lambda: transfer(remote, part), f"cannot fetch {remote.url}")
        size = part.stat().st_size
        found = checksum_of(part, remote.checksum)
        if remote.size in (-1, size) and found == remote.checksum:
            os.replace(part, target)
            return
    raise ValueError(f"{remote.url}: the file that came has {size:,} bytes and {found}, "
                     f"published are {remote.size:,} bytes and {remote.checksum}. "
                     f"Try later, or another HF_ENDPOINT")


def transfer(remote, part):
    """Append what is missing to `part`; raise Retry if the connection breaks on the way."""
    start = part.stat().st_size if part.exists() else 0
    if start == remote.size:
        return
    response = open_url(remote.url, start)
    if response is None:
        # Of an unknown size all is there; the checksum will tell whether it is right.
        if remote.size == -1:
            return
        part.unlink()
        raise Retry("the part on disk is longer than the file")
    with response:
        # A server that ignores Range sends the whole file again.
        resumed = response.status == 206
        if not resumed:
            start = 0
        if remote.size >= 0:
            total = remote.size
        elif response.headers.get("Content-Length"):
            total = start + int(response.headers["Content-Length"])
        else:
            total = -1
        with open(part, "ab" if resumed else "wb") as file:
            done = copy(response, file, start, total)
        if done < total:
            raise Retry(f"broken off after {done:,} of {total:,} bytes")


def copy(response, file, start, total):
    """Copy a response to the end of a file that has `start` bytes; return the bytes it has then."""
    done = start
    begun = time.time()
    shown = 0
    while True:
        try:
            chunk = response.read(1 << 20)
        except (http.client.HTTPException, OSError) as e:
            raise Retry(f"broken off after {done:,} bytes ({e or type(e).__name__})") from None
        if not chunk:
            return done
        try:
            file.write(chunk)
        except OSError as e:
            raise OSError(f"{file.name}: cannot write after {done:,} bytes ({e.strerror}). "
                          f"Free some space or choose another --dest; run again, it goes on "
                          f"from here") from None
        done += len(chunk)
        if time.time() - shown > 0.2:
            shown = time.time()
            rate = (done - start) / max(shown - begun, 1e-3)
            show(Path(file.name).stem, done, total, rate)


def show(name, done, total, rate):
    """Show the progress on a terminal, in one line that the next one overwrites.

    rate: bytes per second. A log file gets only the line for each finished file.
    """
    if not sys.stderr.isatty():
        return
    if total > 0:
        share = f"{100 * done / total:3.0f} % of {total / 1e6:,.0f} MB"
    else:
        share = f"{done / 1e6:,.0f} MB"
    print(f"\r  {name[-40:]:40} {share}, {rate / 1e6:.1f} MB/s   ", end="",
          file=sys.stderr, flush=True)


def checksum_of(path, like):
    """The checksum of a file, of the same kind as `like`: "sha256:..." or "git:..."."""
    kind = like.partition(":")[0]
    if kind == "sha256":
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\x00" % path.stat().st_size)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"
