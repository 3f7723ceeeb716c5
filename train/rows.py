"""
Rows: what every training stage reads. Documents or conversations are tokenised once and packed into rows of seq_len + 1
ids in a memory-mapped file; batch number s is then a pure function of (seed, step, rank, world size), so a run resumes
exactly, no step waits for tokenisation, and another number of ranks or micro-batches sees the same data in that order.

file    magic, version, header length, JSON header (what made the rows), padding to 4096 bytes, then one record a row:
        ids uint16 or uint32 (seq_len + 1), and for conversations mask uint8 (seq_len + 1)
mask    0 context · 1 the model learns to say it · 2 padding, never a target
"""
import bisect
import collections
import errno
import functools
import hashlib
import itertools
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).resolve().parent.parent / "data"
MAGIC, VERSION, HEADER_BYTES = b"T2CROWS\0", 1, 4096
CONTEXT, LEARN, PAD = 0, 1, 2


class Rows:
    """The rows of a packed file, memory-mapped: nothing is read until a batch asks for it."""

    def __init__(self, path):
        self.path = Path(path)
        self.header = read_header(path)
        if self.header is None:
            raise ValueError(f"{path} is not a finished file of rows: delete it and run the stage again")
        self.records = np.memmap(path, record_type(self.header), mode="r", offset=HEADER_BYTES,
                                 shape=self.header["n_rows"])

    def __len__(self):
        return len(self.records)

    def batch(self, indices, only_learned=False):
        """-> ids (B, T), targets (B, T), int64 on the CPU; a target is -1 where it does not count.

        only_learned: the assistant's tokens alone are targets (SFT), else all but padding (pretraining, midtraining).
        """
        records = self.records[indices]
        ids = records["ids"].astype(np.int64)
        targets = ids[:, 1:].copy()
        if "mask" in records.dtype.names:
            mask = records["mask"][:, 1:]                       # the mask of the target, not of the token before it
            targets[mask != LEARN if only_learned else mask == PAD] = -1
        return torch.from_numpy(ids[:, :-1]), torch.from_numpy(targets)


def step_indices(n_rows, step, rows_per_step, seed):
    """The rows of optimizer step `step`, (rows_per_step,): consecutive in a stream of freshly shuffled epochs."""
    positions = np.arange(step * rows_per_step, (step + 1) * rows_per_step)
    indices = np.empty(rows_per_step, dtype=np.int64)
    for epoch in np.unique(positions // n_rows):
        here = positions // n_rows == epoch
        indices[here] = epoch_order(n_rows, int(epoch), seed)[positions[here] % n_rows]
    return indices


@functools.lru_cache(2)                                         # 10 million rows take 0.4 s to shuffle: not every step
def epoch_order(n_rows, epoch, seed):
    return np.random.default_rng([seed, epoch]).permutation(n_rows)


def micro_batches(rows, step, rows_per_step, batch_size, env, seed, only_learned=False):
    """-> list of this rank's (ids, targets) of the step, on the CPU, and the number of targets in the whole step over
    all ranks, at least 1."""
    indices = step_indices(len(rows), step, rows_per_step, seed)
    ids, targets = rows.batch(my_share(indices, env), only_learned)
    whole = rows.batch(indices, only_learned)[1] if env.world_size > 1 else targets
    return list(zip(ids.split(batch_size), targets.split(batch_size))), max(1, int((whole >= 0).sum()))


def read_ahead(read, step, device):
    """Yield read(step), read(step + 1), ... without end. While the caller computes with one step, a thread reads the
    next from disk and copies it to the device. read: step -> list of tuples of tensors, and a count."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None    # its own: the copy runs beside the kernels

    def read_and_copy(step):
        with torch.cuda.stream(stream):
            batches, count = read(step)
            batches = [tuple(to_device(t, device) for t in tensors) for tensors in batches]
        if stream:
            stream.synchronize()                                # in the thread: what it hands over is there
        return batches, count

    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(read_and_copy, step)
        for step in itertools.count(step + 1):
            batches, count = ahead.result()                     # the thread's errors are raised here
            ahead = thread.submit(read_and_copy, step)
            if stream:
                for tensor in itertools.chain(*batches):        # not to be used again while kernels still read it
                    tensor.record_stream(torch.cuda.current_stream(device))
            yield batches, count


def my_share(indices, env):
    """The part of a step's rows that belongs to this rank."""
    return np.array_split(indices, env.world_size)[env.rank]


def to_device(tensor, device):
    """Copy without waiting: from pinned memory a GPU fetches by itself."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


# ---------------------------------------------------------------------------------------------------------------------
# Packing

def in_order(work, items):
    """Yield work(item) of each item, in order; threads on all cores run at most 512 items ahead. Worth it for work that
    leaves Python's lock to others, as tiktoken does."""
    ahead, n_threads = collections.deque(), min(16, os.cpu_count())          # one reader feeds no more than 16 (guess)
    with ThreadPoolExecutor(n_threads) as threads:
        for some in batched(items, 16):                         # one by one, the handing over would cost more
            ahead.append(threads.submit(list, map(work, some)))
            if len(ahead) == 2 * n_threads:
                yield from ahead.popleft().result()
        for results in ahead:
            yield from results.result()


def document_rows(documents, bos, row_len):
    """Fill rows in order: [bos, document, bos, document, ...]. A document (an array of ids) that reaches the end of a
    row goes on in the next behind another <|bos|>: every row starts with <|bos|>, nothing is cut away or padded."""
    row, n = np.empty(row_len, np.uint32), 0
    for ids in documents:
        while len(ids):
            row[n] = bos
            room = row_len - n - 1
            piece, ids = ids[:room], ids[room:]
            row[n + 1:n + 1 + len(piece)] = piece
            n += 1 + len(piece)
            if n == row_len:
                yield row.copy(), None
                n = 0
    # a last row that did not fill up is left out: less than one row of the whole corpus


def conversation_rows(rendered, bos, row_len, window=8192):
    """Best-fit decreasing within windows of conversations: the longest first, each into the fullest row that holds it.
    Nothing is cut here; what is longer than a row was cut when it was rendered. What stays free is padding. The rows of
    a window come out shuffled: the first rows of a file are like the others, not the longest conversations alone.

    rendered: pairs (ids, mask) of equally long arrays. A window of 2,048 leaves twice the padding (0.4 %, measured).
    """
    shuffle = np.random.default_rng(0)
    for batch in batched(rendered, window):
        batch.sort(key=lambda pair: -len(pair[0]))
        rows, free = [], []                                     # free: (free tokens, row number), sorted
        for pair in batch:
            at = bisect.bisect_left(free, (len(pair[0]), -1))
            if at == len(free):
                free.append((row_len, len(rows)))
                rows.append([])
            room, number = free.pop(at)
            rows[number].append(pair)
            bisect.insort(free, (room - len(pair[0]), number))
        for number in shuffle.permutation(len(rows)):
            row_ids, row_mask, n = np.full(row_len, bos, np.uint32), np.full(row_len, PAD, np.uint8), 0
            for ids, mask in rows[number]:
                row_ids[n:n + len(ids)], row_mask[n:n + len(ids)] = ids, mask
                n += len(ids)
            yield row_ids, row_mask


def pack_documents(path, documents, tok, seq_len, made_from, env):
    """Tokenise an iterator of str and pack it, or reuse the finished file made from the same things. Returns Rows."""
    def encode(text):
        ids = tok.enc.encode_to_numpy(text, disallowed_special=())          # no special ids either, as in tok.encode
        return ids, len(text.encode())

    def encoded(stats):
        for ids, n_bytes in in_order(encode, documents()):
            stats["documents"] += 1
            stats["tokens"] += len(ids)
            stats["bytes"] += n_bytes
            yield ids

    return pack(path, lambda stats: document_rows(encoded(stats), tok.special("<|bos|>"), seq_len + 1),
                tok, seq_len, dict(made_from, kind="documents"), env)


def pack_conversations(path, conversations, tok, seq_len, made_from, env, need_target=False, render=None):
    """Render and pack a sequence of conversation records, or reuse the finished file. Returns Rows.

    need_target: leave out, and count, conversations in which nothing is to be learned once they are cut to the row.
    render: record -> (ids, mask) no longer than a row, and how many tokens were cropped to get there; default:
    Tokenizer.render_conversation, of which the end is cropped.
    """
    def whole_or_cut(conversation):
        ids, mask = tok.render_conversation(conversation)
        return ids[:seq_len + 1], mask[:seq_len + 1], max(0, len(ids) - seq_len - 1)

    def as_arrays(conversation):                                # lists of ids take ten times the memory
        ids, mask, cropped = (render or whole_or_cut)(conversation)
        return np.array(ids, np.uint32), np.array(mask, np.uint8), cropped

    def rendered(stats):
        for ids, mask, cropped in map(as_arrays, conversations()):          # in_order is slower: mostly Python
            stats["conversations"] += 1
            stats["cut"] += cropped > 0
            stats["cropped"] += cropped
            if need_target and not mask.any():
                stats["without_target"] += 1
                continue
            stats["tokens"] += len(ids)
            stats["supervised"] += int(mask.sum())
            yield ids, mask

    return pack(path, lambda stats: conversation_rows(rendered(stats), tok.special("<|bos|>"), seq_len + 1),
                tok, seq_len, dict(made_from, kind="conversations", need_target=need_target), env)


def pack(path, make_rows, tok, seq_len, made_from, env):
    path = Path(path)
    made_from = json.loads(json.dumps(dict(made_from, tokenizer=tok.fingerprint, seq_len=seq_len)))
    header = read_header(path) if path.exists() else None
    if header is not None and header["made_from"] == made_from:
        env.print(f"rows       {path}: {header['n_rows']:,} rows, packed before")
    elif env.rank == 0:
        write_rows(path, make_rows, tok.vocab_size, seq_len, made_from)
    env.barrier()
    return Rows(path)


def write_rows(path, make_rows, vocab_size, seq_len, made_from):
    stats = dict.fromkeys(("documents", "conversations", "tokens", "supervised", "bytes", "cut", "cropped",
                           "without_target"), 0)
    header = dict(made_from=made_from, dtype="uint16" if vocab_size <= 2 ** 16 else "uint32", seq_len=seq_len,
                  mask=made_from["kind"] == "conversations")
    record, n_rows, start, shown = np.zeros(1, record_type(header)), 0, time.time(), 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as f:
            f.seek(HEADER_BYTES)
            for ids, mask in make_rows(stats):
                record["ids"] = ids
                if mask is not None:
                    record["mask"] = mask
                f.write(record.tobytes())
                n_rows += 1
                if time.time() - shown > 1 and sys.stderr.isatty():
                    shown = time.time()
                    print(f"\rpacking {path.name}: {n_rows:,} rows, {stats['bytes'] / 1e6:,.0f} MB of text, "
                          f"{stats['tokens'] / (shown - start) / 1e6:.2f} M tokens/s", end="", file=sys.stderr)
            if n_rows == 0 and stats["without_target"]:
                raise ValueError(f"{path.name}: of {stats['without_target']:,} conversations none has an answer left "
                                 f"in a row of {seq_len + 1} tokens. Shorten what comes before the answers, give more "
                                 f"with --data, or pretrain with a longer --seq_len")
            if n_rows == 0:
                raise ValueError(f"{path.name}: {stats['tokens']:,} tokens of {made_from['kind']} do not fill one row "
                                 f"of {seq_len + 1}. Give more with --data (6 KB of text are enough for rows of 512), "
                                 f"or pretrain with a smaller --seq_len")
            padded = n_rows * (seq_len + 1) - stats["tokens"] if header["mask"] else 0
            stats.update(rows=n_rows, padded=round(padded / (n_rows * (seq_len + 1)), 4))
            header.update(n_rows=n_rows, stats=stats)           # no times: the same inputs give the same bytes
            text = json.dumps(header).encode()
            assert len(text) <= HEADER_BYTES - 16, f"a header of {len(text)} bytes does not fit"
            f.seek(0)
            f.write(MAGIC + VERSION.to_bytes(4, "little") + len(text).to_bytes(4, "little") + text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):         # a reader's errors speak for themselves
            raise
        raise OSError(f"{path} could not be written ({e}). Free some disk space or choose another --out") from None
    finally:
        temporary.unlink(missing_ok=True)
    seconds = time.time() - start
    rate = f", {stats['bytes'] / seconds / 1e6:.1f} MB/s" if stats["bytes"] else ""
    losses = (("cut", "cut to the row"), ("without_target", "left out: nothing to learn in them"))
    extra = "".join(f", {stats[key]:,} {text}" for key, text in losses if stats[key])
    what, cropped = "documents" if stats["documents"] else "conversations", stats["cropped"]
    print(f"rows       {path}: {n_rows:,} rows of {seq_len + 1} from {stats[what]:,} {what}, "
          f"{stats['tokens']:,} tokens, {100 * stats['padded']:.2f} % padded, "
          f"{100 * cropped / (stats['tokens'] + cropped):.2f} % cropped{extra} ({seconds:.1f} s{rate})", flush=True)
    if (share := cropped / (stats["tokens"] + cropped)) > 0.05:
        print(f"WARNING    {100 * share:.0f} % of the tokens do not fit into rows of {seq_len} and are not learned: "
              f"pretrain with a longer --seq_len, or shorten them (python data/check.py tells the lengths)", flush=True)


def record_type(header):
    fields = [("ids", header["dtype"], header["seq_len"] + 1)]
    return np.dtype(fields + ([("mask", "uint8", header["seq_len"] + 1)] if header["mask"] else []))


def read_header(path):
    """The JSON header of a finished file of rows, None if the file is anything else."""
    with open(path, "rb") as f:
        start = f.read(16)
        if start[:12] != MAGIC + VERSION.to_bytes(4, "little"):
            return None
        try:
            header = json.loads(f.read(int.from_bytes(start[12:], "little")))
        except ValueError:
            return None
        size = HEADER_BYTES + header["n_rows"] * record_type(header).itemsize
        return header if os.fstat(f.fileno()).st_size == size else None


def batched(items, n):
    items = iter(items)
    while batch := list(itertools.islice(items, n)):
        yield batch


def describe_sources(paths=(), **settings):
    """What rows are made from, as plain data: the files with size and time, or for the embedded data this Python, the
    source files of data/ and this one. Anything different means packing again."""
    files = [f for path in map(Path, paths) for f in (sorted(path.rglob("*")) if path.is_dir() else [path])
             if f.is_file()]
    if not paths:
        made_by = [f for f in DATA.rglob("*") if f.suffix in (".py", ".toml") and "downloads" not in f.parts]
        made_by.append(Path(__file__))
        code = b"".join(f.read_bytes() for f in sorted(made_by))
        settings.update(python=sys.version, code=hashlib.sha256(code).hexdigest())
    listing = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    return dict(settings, files=hashlib.sha256(json.dumps(listing).encode()).hexdigest(), n_files=len(files))
