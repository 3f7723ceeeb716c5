"""
Download the data sets that the field trains and tests on into data/downloads/NAME/.

    python data/download.py --list                  # the sources, their sizes, licences and pages
    python data/download.py climbmix --shards 8     # 8 training shards and the validation shard
    python data/download.py smoltalk mmlu gsm8k arc humaneval

Names, sizes and checksums of the files come from the listing of the Hugging Face hub. A file is
written to NAME.part, verified, then renamed; a broken transfer goes on where it stopped. Set
HF_ENDPOINT to use a mirror of the hub; http_proxy, https_proxy and no_proxy work as usual.
Offline, copy the files of a source into its folder by hand; they are used as they are.
"""
import argparse
import fnmatch
import http.client
import json
import os
import shutil
import sys
import urllib.parse
from pathlib import Path
from typing import NamedTuple

# This lets the file run as python data/download.py.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import ctrl_c

from data.documents import DOWNLOADS
from data.fetch import Remote, Retry, fetch, open_url, with_retries
from data.published.core_tasks import TASKS as CORE_TASKS

HUB = "https://huggingface.co"


class Published(NamedTuple):
    # A data set on the hub, or the URL of a single file.
    repo: str
    # Patterns of the paths to fetch; {:05d} is the number of a shard.
    files: tuple
    about: str
    # As the publisher's page states it, or what is known of it.
    licence: str
    # Of a single file, since that has no listing.
    sha256: str = ""


SOURCES = {
    "climbmix": Published("karpathy/climbmix-400b-shuffle", ("shard_{:05d}.parquet",),
                          "web text of many subjects, 6,542 shards of about 90 MB",
                          "CC BY-NC 4.0, so not for commercial use, as NVIDIA says of "
                          "nvidia/ClimbMix; of this copy unverified, see its page"),
    "fineweb": Published("karpathy/fineweb-edu-100b-shuffle", ("shard_{:05d}.parquet",),
                         "educational web text, 1,822 shards of about 90 MB",
                         "ODC-By 1.0 and the terms of use of Common Crawl, as Hugging Face says "
                         "of fineweb-edu; of this copy unverified, see its page"),
    "tinystories": Published("roneneldan/TinyStories", ("TinyStoriesV2-GPT4-*.txt",),
                             "stories in simple words, 2.2 GB",
                             "CDLA-Sharing 1.0 by what others say; unverified, see its page"),
    "smoltalk": Published("HuggingFaceTB/smol-smoltalk", ("data/*.parquet",),
                          "460K conversations, 24K for testing",
                          "Apache 2.0 by what others say; unverified, see its page"),
    "mmlu": Published("cais/mmlu", ("all/*.parquet",),
                      "multiple choice, 57 subjects: 100K auxiliary, 14K for testing",
                      "MIT"),
    "arc": Published("allenai/ai2_arc", ("ARC-*/*.parquet",),
                     "science exams, easy and challenge: 3.4K, 3.5K for testing",
                     "CC BY-SA 4.0"),
    "gsm8k": Published("openai/gsm8k", ("main/*.parquet",),
                       "school mathematics: 7,473 problems, 1,319 for testing",
                       "MIT"),
    "humaneval": Published("openai/openai_humaneval", ("openai_humaneval/*.parquet",),
                           "164 Python functions with tests",
                           "MIT"),
    "ultrafeedback": Published("HuggingFaceH4/ultrafeedback_binarized", ("data/*_prefs-*.parquet",),
                               "61K preference pairs, 2K for testing",
                               "MIT"),
    "hh": Published("Anthropic/hh-rlhf", ("h*-*/*.jsonl.gz",),
                    "helpful and harmless: 161K preference pairs",
                    "MIT; made for preferences, not for fine-tuning on it"),
    # Its host publishes no checksum. Several projects have recorded this one for the bundle.
    "core": Published("https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip",
                      ("eval_bundle.zip",), "the 22 tasks of DCLM's CORE",
                      "each task has its own; unverified, see github.com/mlfoundations/dclm",
                      "90a7c19e28ee7a52b4f6e1f87658deb9fde7f63deba2379045bdb1fe9ea5d200"),
}


def endpoint():
    """The address of the hub, or of the mirror in HF_ENDPOINT."""
    url = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"HF_ENDPOINT is {url!r}, expected an address that begins with https://. "
                         f"Unset or correct it")
    return url


def list_remote(source, shards):
    """The files of a source to fetch, from the listing of the hub."""
    if is_single_file(source):
        name = source.repo.rsplit("/", 1)[1]
        return [Remote(source.repo, name, -1, f"sha256:{source.sha256}")]

    # {path: entry of the listing}
    files = {}
    url = f"{endpoint()}/api/datasets/{source.repo}/tree/main?recursive=true&limit=1000"
    # A page has at most 1,000 entries.
    while url:
        page, url = read_listing(url)
        files.update({entry["path"]: entry for entry in page if entry.get("type") == "file"})

    patterns = [pattern.replace("{:05d}", "[0-9]" * 5) for pattern in source.files]
    wanted = sorted(path for path in files
                    if any(fnmatch.fnmatch(path, pattern) for pattern in patterns))
    if not wanted:
        raise ValueError(f"{source.repo}: none of its {len(files)} files matches "
                         f"{', '.join(source.files)}; the data set was rearranged. "
                         f"Download it by hand")
    # {path on the hub: path on disk}
    local = {path: path for path in wanted}
    if "{" in source.files[0]:
        # By convention the last shard is for validation; data/documents.py knows it by its name.
        local[wanted[-1]] = f"val_{wanted[-1]}"
        wanted = wanted[:-1][:shards] + wanted[-1:]
    return [remote_file(source, files[path], local[path]) for path in wanted]


def remote_file(source, entry, local):
    """An entry of the listing -> Remote. A large file (Git LFS) has a SHA-256 and its own size."""
    url = f"{endpoint()}/datasets/{source.repo}/resolve/main/{urllib.parse.quote(entry['path'])}"
    lfs = entry.get("lfs") or {}
    if lfs.get("oid"):
        checksum = f"sha256:{lfs['oid'].removeprefix('sha256:')}"
    else:
        checksum = f"git:{entry.get('oid', '')}"
    return Remote(url, local, lfs.get("size", entry["size"]), checksum)


def read_listing(url):
    """One page of a listing, and the address of the next one or "".

    The header Link holds the address, as '<https://...>; rel="next"'.
    """
    with open_url(url) as response:
        try:
            content = response.read()
            link = response.headers.get("Link", "")
        except (http.client.HTTPException, OSError) as e:
            raise Retry(f"broken off ({e or type(e).__name__})") from None
    try:
        page = json.loads(content)
        for entry in page:
            if entry["type"] == "file" and {"", "..", "."} & set(entry["path"].split("/")):
                raise ValueError("a path that leaves its folder")
    except (ValueError, TypeError, KeyError) as e:
        raise ValueError(f"{url}: no listing of files came back ({e}). "
                         f"Is HF_ENDPOINT right, or did a proxy answer?") from None
    if 'rel="next"' not in link:
        return page, ""
    return page, link.partition("<")[2].partition(">")[0]


def download(name, shards, dest):
    """Fetch a source into dest/name and print what was done.

    A file that has the published size is not fetched again.
    """
    folder = Path(dest) / name
    source = SOURCES[name]
    print(f"{name}: licence: {source.licence}. {web_page(source)}", flush=True)
    on_disk = files_on_disk(folder)
    if is_single_file(source) and is_complete(source, on_disk):
        print(f"{name}: {len(on_disk)} files in {folder}, nothing to do")
        return

    try:
        remotes = with_retries(lambda: list_remote(source, shards),
                               f"cannot list {source.repo} at {endpoint()}")
    except ConnectionError as e:
        if on_disk:
            print(f"{name}: {e}. Using the {len(on_disk)} files in {folder} as they are")
            return
        raise ConnectionError(f"{e}. Offline? Copy {', '.join(source.files)} of "
                              f"{web_page(source)} to {folder} by hand, "
                              f"or set HF_ENDPOINT to a mirror, or https_proxy") from None

    missing = []
    for remote in remotes:
        path = folder / remote.path
        if not path.exists() or path.stat().st_size != remote.size:
            missing.append(remote)
    needed = sum(max(remote.size, 0) for remote in missing)
    free = shutil.disk_usage(existing_parent(folder)).free
    if needed > free:
        raise OSError(f"{folder}: {name} needs {needed / 1e9:.1f} GB more, "
                      f"the disk has {free / 1e9:.1f} GB free. "
                      f"Free some space, or choose another --dest or fewer --shards")
    print(f"{name}: {len(remotes)} files, {len(remotes) - len(missing)} there already, "
          f"{needed / 1e6:,.1f} MB to fetch", flush=True)

    for i, remote in enumerate(missing, 1):
        path = folder / remote.path
        try:
            fetch(remote, path)
        except ConnectionError as e:
            raise ConnectionError(f"{e}. Run again to go on from there; offline, copy it to "
                                  f"{path} by hand") from None
        print(f"\r  {i}/{len(missing)} {path}  {path.stat().st_size / 1e6:,.1f} MB, verified",
              flush=True)


def is_single_file(source):
    return source.repo.startswith("http")


def files_on_disk(folder):
    """The files of a source, without parts of downloads and what was prepared from them."""
    if not folder.exists():
        return []
    return [path for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".part" and path.parent != folder / "prepared"]


def is_complete(source, on_disk):
    """Whether the archive of CORE is on disk, or each file of CORE unpacked from it."""
    names = {path.name for path in on_disk}
    unpacked = {f"{task.file}.jsonl" for task in CORE_TASKS.values()}
    return source.files[0] in names or unpacked <= names


def existing_parent(path):
    """The path itself, or its nearest parent that exists."""
    return next(p for p in [path, *path.resolve().parents] if p.exists())


def web_page(source):
    return source.repo if is_single_file(source) else f"{HUB}/datasets/{source.repo}"


def main():
    from machine import fail
    cli = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.error = lambda message: fail(f"{message} (see python data/download.py --help)")
    cli.add_argument("names", nargs="*", metavar="NAME",
                     help=f"one or more of: {', '.join(SOURCES)}")
    cli.add_argument("--shards", type=int, default=8,
                     help="training shards of climbmix and fineweb to fetch (default: 8)")
    cli.add_argument("--dest", default=str(DOWNLOADS),
                     help="where the folders NAME go (default: data/downloads)")
    cli.add_argument("--list", action="store_true", help="list the sources and exit")
    args = cli.parse_args()
    if args.list:
        for name, source in SOURCES.items():
            print(f"{name:14} {source.about}\n{'':14} {web_page(source)}\n"
                  f"{'':14} licence: {source.licence}")
        return
    if not args.names:
        raise ValueError(f"name at least one source; there are {', '.join(SOURCES)}")
    for name in args.names:
        if name not in SOURCES:
            raise ValueError(f"no source is called {name!r}; there are {', '.join(SOURCES)}")
    if args.shards < 1:
        raise ValueError(f"--shards must be at least 1, not {args.shards}")
    for name in dict.fromkeys(args.names):
        download(name, args.shards, args.dest)


if __name__ == "__main__":
    from machine import run
    run(main)
