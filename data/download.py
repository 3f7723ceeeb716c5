"""
Fetch what the field trains and tests on into data/downloads/NAME/.

    python data/download.py --list                               # the sources, their sizes, where they come from
    python data/download.py climbmix --shards 8                  # 8 of 6,542 training shards and the validation shard
    python data/download.py smoltalk mmlu gsm8k arc humaneval

The hub's listing gives names, sizes and checksums; every file is written to NAME.part, resumed from there after a
broken transfer, verified, then renamed. HF_ENDPOINT (a mirror of the hub), http_proxy, https_proxy and no_proxy are
honoured.
Offline: copy the files of a source by hand into its folder; they are used as they are.
"""
import argparse
import fnmatch
import hashlib
import http.client
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))        # so that it runs as python data/download.py
from data.source import DOWNLOADS

WAITS = (1, 2, 4, 8)            # seconds before each new try
TIMEOUT = 30                    # seconds without a byte


class Source(NamedTuple):
    repo: str                   # data set on the hub, or the URL of a single file
    files: tuple                # patterns of the paths to fetch; of a sharded source {:05d} counts its shards
    about: str
    sha256: str = ""            # of the single file, which has no listing


SOURCES = {
    "climbmix": Source("karpathy/climbmix-400b-shuffle", ("shard_{:05d}.parquet",),
                       "web text of many subjects, 6,542 shards of about 90 MB"),
    "fineweb": Source("karpathy/fineweb-edu-100b-shuffle", ("shard_{:05d}.parquet",),
                      "educational web text, 1,822 shards of about 90 MB"),
    "tinystories": Source("roneneldan/TinyStories", ("TinyStoriesV2-GPT4-*.txt",), "stories in simple words, 2.2 GB"),
    "smoltalk": Source("HuggingFaceTB/smol-smoltalk", ("data/*.parquet",), "460K conversations, 24K for testing"),
    "mmlu": Source("cais/mmlu", ("all/*.parquet",), "multiple choice, 57 subjects: 100K auxiliary, 14K for testing"),
    "arc": Source("allenai/ai2_arc", ("ARC-*/*.parquet",), "science exams, easy and challenge: 3.4K, 3.5K for testing"),
    "gsm8k": Source("openai/gsm8k", ("main/*.parquet",), "school mathematics: 7,473 problems, 1,319 for testing"),
    "humaneval": Source("openai/openai_humaneval", ("openai_humaneval/*.parquet",), "164 Python functions with tests"),
    "ultrafeedback": Source("HuggingFaceH4/ultrafeedback_binarized", ("data/*_prefs-*.parquet",),
                            "61K preference pairs, 2K for testing"),
    "hh": Source("Anthropic/hh-rlhf", ("h*-*/*.jsonl.gz",), "helpful and harmless: 161K preference pairs"),
    # Its host publishes no checksum; this is the one that several projects have recorded for the bundle.
    "core": Source("https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip", ("eval_bundle.zip",),
                   "the 22 tasks of DCLM's CORE", "90a7c19e28ee7a52b4f6e1f87658deb9fde7f63deba2379045bdb1fe9ea5d200"),
}


class Remote(NamedTuple):
    url: str
    path: str                   # where it goes, relative to the source's folder
    size: int                   # bytes, or -1 if unknown
    checksum: str               # "sha256:..." (large files) or "git:..." (small ones: sha1 of a git blob)


def endpoint():
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def list_remote(source, shards):
    """The files of a source that are to be fetched, by the hub's listing."""
    if source.repo.startswith("http"):
        return [Remote(source.repo, source.repo.rsplit("/", 1)[1], -1, f"sha256:{source.sha256}")]
    url, entries = f"{endpoint()}/api/datasets/{source.repo}/tree/main?recursive=true&limit=1000", []
    while url:                                                          # a page has at most 1,000 entries
        with open_url(url) as response:
            entries += json.load(response)
            url = next_page(response.headers.get("Link", ""))
    sizes = {entry["path"]: entry for entry in entries if entry.get("type") == "file"}
    if "{" in source.files[0]:
        pattern = source.files[0].replace("{:05d}", "[0-9]" * 5)
        published = sorted(path for path in sizes if fnmatch.fnmatch(path, pattern))
        # the last shard is for validation by convention; data/text.py knows it by its name
        local = {published[-1]: f"val_{published[-1]}"} if published else {}
        wanted = published[:-1][:shards] + published[-1:]
    else:
        local, wanted = {}, sorted(p for p in sizes if any(fnmatch.fnmatch(p, pattern) for pattern in source.files))
    if not wanted:
        raise ValueError(f"{source.repo}: none of its {len(sizes)} files matches {', '.join(source.files)}; the data "
                         f"set was rearranged. Download it by hand")
    remotes = []
    for path in wanted:
        entry, lfs = sizes[path], sizes[path].get("lfs") or {}
        checksum = f"sha256:{lfs['oid'].removeprefix('sha256:')}" if lfs.get("oid") else f"git:{entry.get('oid', '')}"
        url = f"{endpoint()}/datasets/{source.repo}/resolve/main/{urllib.parse.quote(path)}"
        remotes.append(Remote(url, local.get(path, path), lfs.get("size", entry["size"]), checksum))
    return remotes


def next_page(link):
    """'<https://...>; rel="next"' -> the address, or "" on the last page."""
    return link.partition("<")[2].partition(">")[0] if 'rel="next"' in link else ""


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


def download(name, shards, dest):
    """Fetch a source into dest/name and say what was done. A file that has the published size is not fetched again."""
    folder, source = Path(dest) / name, SOURCES[name]
    at_hand = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".part"
               and path.parent != folder / "prepared"] if folder.exists() else []
    if source.repo.startswith("http") and at_hand:
        print(f"{name}: {len(at_hand)} files in {folder}, nothing to do")
        return
    try:
        remotes = with_retries(lambda: list_remote(source, shards), f"cannot list {source.repo} at {endpoint()}")
    except ConnectionError as e:
        if at_hand:
            print(f"{name}: {e}. Using the {len(at_hand)} files in {folder} as they are")
            return
        raise ConnectionError(f"{e}. Offline? Copy {', '.join(source.files)} of {web_page(source)} to {folder} by "
                              f"hand, or set HF_ENDPOINT to a mirror, or https_proxy") from None
    missing = [r for r in remotes if not (folder / r.path).exists() or (folder / r.path).stat().st_size != r.size]
    needed, free = sum(max(r.size, 0) for r in missing), shutil.disk_usage(existing_parent(folder)).free
    if needed > free:
        raise OSError(f"{folder}: {name} needs {needed / 1e9:.1f} GB more, the disk has {free / 1e9:.1f} GB free. "
                      f"Free some space, or choose another --dest or fewer --shards")
    print(f"{name}: {len(remotes)} files, {len(remotes) - len(missing)} there already, {needed / 1e6:,.1f} MB to fetch",
          flush=True)
    for i, remote in enumerate(missing, 1):
        try:
            fetch(remote, folder / remote.path)
        except ConnectionError as e:
            raise ConnectionError(f"{e}. Run again to go on from there; offline, copy it to {folder / remote.path} "
                                  f"by hand") from None
        size = (folder / remote.path).stat().st_size
        print(f"\r  {i}/{len(missing)} {folder / remote.path}  {size / 1e6:,.1f} MB, verified", flush=True)


def existing_parent(path):
    return next(p for p in [path, *path.resolve().parents] if p.exists())


def web_page(source):
    return source.repo if source.repo.startswith("http") else f"{endpoint()}/datasets/{source.repo}"


def main():
    from common import fail
    cli = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.error = lambda message: fail(f"{message} (see python data/download.py --help)")
    cli.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(SOURCES)}")
    cli.add_argument("--shards", type=int, default=8, help="training shards of climbmix and fineweb (default: 8)")
    cli.add_argument("--dest", default=str(DOWNLOADS), help="folder for a folder NAME each (default: data/downloads)")
    cli.add_argument("--list", action="store_true", help="show the sources and stop")
    args = cli.parse_args()
    if args.list:
        for name, source in SOURCES.items():
            print(f"{name:14} {source.about}\n{'':14} {web_page(source)}")
        return
    unknown = [name for name in args.names if name not in SOURCES]
    if unknown or not args.names:
        raise ValueError((f"no source is called {unknown[0]!r}" if unknown else "name at least one source")
                         + f"; there are {', '.join(SOURCES)}")
    if args.shards < 1:
        raise ValueError(f"--shards must be at least 1, not {args.shards}")
    for name in dict.fromkeys(args.names):
        download(name, args.shards, args.dest)


if __name__ == "__main__":
    from common import run
    run(main)
