"""
Rows: what every training stage reads.

Documents or conversations are tokenised once and packed into rows of seq_len + 1 ids, in a
memory-mapped file. The batch of a step is then a pure function of (seed, step, rank, world size).
So a run resumes exactly, no step waits for tokenisation, and any number of ranks or micro-batches
sees the same data in the same order.

With several ranks, rank 0 packs while the others wait. Several nodes need a folder that they share,
or the same file of rows on each of them.

file    magic, version, header length, JSON header (what made the rows), padding to 4096 bytes,
        then one record a row: ids uint16 or uint32 (seq_len + 1), and for conversations also
        mask uint8 (seq_len + 1)
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

from machine import say
from train.progress import Line

DATA = Path(__file__).resolve().parent.parent / "data"
MAGIC = b"T2CROWS\0"
VERSION = 1
HEADER_BYTES = 4096
# What the mask of a token can be. What is no target in any stage is PAD: padding, and the answers
# that are marked as not to be learned.
CONTEXT, LEARN, PAD = 0, 1, 2


class Rows:
    """The rows of a packed file, memory-mapped: nothing is read until a batch asks for it."""

    def __init__(self, path):
        self.path = Path(path)
        self.header = read_header(path)
        if self.header is None:
            raise ValueError(f"{path} is not a finished file of rows: "
                             f"delete it and run the stage again")
        self.records = np.memmap(path, record_type(self.header), mode="r", offset=HEADER_BYTES,
                                 shape=self.header["n_rows"])

    def __len__(self):
        return len(self.records)

    def batch(self, indices, only_learned=False):
        """-> ids (B, T), targets (B, T), int64 on the CPU; a target is -1 where it does not count.

        only_learned: the targets are the assistant's tokens alone, as in SFT; otherwise all but the
        padding, as in pretraining and midtraining.
        """
        records = self.records[indices]
        ids = records["ids"].astype(np.int64)
        targets = ids[:, 1:].copy()
        if "mask" in records.dtype.names:
            # The mask of the target, not of the token before it.
            mask = records["mask"][:, 1:]
            ignored = mask != LEARN if only_learned else mask == PAD
            targets[ignored] = -1
        return torch.from_numpy(ids[:, :-1]), torch.from_numpy(targets)


def step_indices(n_rows, step, rows_per_step, seed):
    """The indices (rows_per_step,) of the rows of one optimizer step.

    The steps take the rows one after the other from an endless stream: all rows in a random order,
    then all rows in another random order, and so on.
    """
    positions = np.arange(step * rows_per_step, (step + 1) * rows_per_step)
    epochs = positions // n_rows
    indices = np.empty(rows_per_step, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        order = epoch_order(n_rows, int(epoch), seed)
        indices[here] = order[positions[here] % n_rows]
    return indices


# To shuffle 10 million rows takes 0.4 s, too long to do it in every step.
@functools.lru_cache(2)
def epoch_order(n_rows, epoch, seed):
    return np.random.default_rng([seed, epoch]).permutation(n_rows)


def micro_batches(rows, step, rows_per_step, batch_size, env, seed, only_learned=False):
    """-> this rank's micro-batches of the step, a list of (ids, targets) on the CPU; and a count.

    The count is the number of targets of the step over all ranks, at least 1: what to divide by.
    """
    indices = step_indices(len(rows), step, rows_per_step, seed)
    ids, targets = rows.batch(my_share(indices, env), only_learned)
    batches = list(zip(ids.split(batch_size), targets.split(batch_size)))
    all_targets = targets
    if env.world_size > 1:
        _, all_targets = rows.batch(indices, only_learned)
    n_target = int((all_targets >= 0).sum())
    return batches, max(1, n_target)


def read_ahead(read, step, device):
    """Yield read(step), read(step + 1), ... without end, their tensors copied to the device.

    A thread reads and copies one step ahead, while the caller computes.
    read: step -> a list of tuples of tensors, and a count.
    """
    # In a stream of its own, the copy runs beside the kernels.
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def read_and_copy(step):
        with torch.cuda.stream(stream):
            batches, count = read(step)
            batches = [tuple(to_device(t, device) for t in tensors) for tensors in batches]
        # Wait here, in the thread, until the copy is complete.
        if stream:
            stream.synchronize()
        return batches, count

    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(read_and_copy, step)
        for next_step in itertools.count(step + 1):
            # If the thread failed, its error is raised here.
            batches, count = ahead.result()
            ahead = thread.submit(read_and_copy, next_step)
            if stream:
                # Do not reuse the memory of the tensors while kernels still read it.
                for tensor in itertools.chain(*batches):
                    tensor.record_stream(torch.cuda.current_stream(device))
            yield batches, count


def my_share(indices, env):
    """The part of a step's rows that belongs to this rank."""
    return np.array_split(indices, env.world_size)[env.rank]


def to_device(tensor, device):
    """Copy a tensor; from pinned memory a GPU fetches it without making the CPU wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)

# --------------------------------------------------------------------------------------------------
# Packing

def in_order(work, items):
    """Yield work(item) for each item, in order; threads on all cores run at most 512 items ahead.

    That pays for work that releases Python's lock, as tiktoken does.
    """
    # One reader can keep no more than 16 threads busy (a guess).
    n_threads = min(16, os.cpu_count())
    ahead = collections.deque()
    with ThreadPoolExecutor(n_threads) as threads:
        # To hand over the items one by one would cost more than the work.
        for some in batched(items, 16):
            ahead.append(threads.submit(list, map(work, some)))
            if len(ahead) == 2 * n_threads:
                yield from ahead.popleft().result()
        for results in ahead:
            yield from results.result()


def document_rows(documents, bos, row_len):
    """Fill rows in order: [bos, document, bos, document, ...]; a document is an array of ids.

    If a document reaches the end of a row, the rest of it goes into the next row behind another
    <|bos|>. So every row starts with <|bos|>, and nothing is cut away or padded. Only the last row
    of the whole corpus is left out, if it is not full.
    Yields (ids, None): there is no mask.
    """
    row = np.empty(row_len, np.uint32)
    # How much of the row is filled.
    n = 0
    for ids in documents:
        while len(ids):
            row[n] = bos
            n += 1
            piece = ids[:row_len - n]
            ids = ids[len(piece):]
            row[n:n + len(piece)] = piece
            n += len(piece)
            if n == row_len:
                yield row.copy(), None
                n = 0


def conversation_rows(rendered, bos, row_len, window=8192):
    """Pack conversations into rows; what stays free is padding.

    rendered: pairs (ids, mask) of arrays of one length, none longer than a row.
    Yields (ids, mask) of each row, both (row_len,).
    Best-fit decreasing, within a window of conversations: the longest goes first, and each goes
    into the fullest row that has room for it. The rows of a window come out shuffled, so that the
    first rows of a file are like the others, and not the longest conversations alone.
    A window of 2,048 leaves twice the padding, 0.4 % (measured).
    """
    shuffle = np.random.default_rng(0)
    for batch in batched(rendered, window):
        batch.sort(key=lambda pair: -len(pair[0]))
        rows = []
        # A sorted list of (free tokens, row number).
        free = []
        for pair in batch:
            length = len(pair[0])
            # The fullest row with room for it; if there is none, a new row.
            at = bisect.bisect_left(free, (length, -1))
            if at == len(free):
                free.append((row_len, len(rows)))
                rows.append([])
            room, number = free.pop(at)
            rows[number].append(pair)
            bisect.insort(free, (room - length, number))

        for number in shuffle.permutation(len(rows)):
            row_ids = np.full(row_len, bos, np.uint32)
            row_mask = np.full(row_len, PAD, np.uint8)
            n = 0
            for ids, mask in rows[number]:
                row_ids[n:n + len(ids)] = ids
                row_mask[n:n + len(ids)] = mask
                n += len(ids)
            yield row_ids, row_mask


def pack_documents(path, documents, tok, seq_len, made_from, env):
    """Tokenise and pack documents -> Rows. A finished file that was made from the same is reused.

    documents: a function that returns an iterator of str.
    """
    def encode(text):
        # Special tokens in the text are ordinary text, as in tok.encode.
        ids = tok.enc.encode_to_numpy(text, disallowed_special=())
        return ids, len(text.encode())

    def encoded(stats):
        for ids, n_bytes in in_order(encode, documents()):
            stats["documents"] += 1
            stats["tokens"] += len(ids)
            stats["bytes"] += n_bytes
            yield ids

    def make_rows(stats):
        return document_rows(encoded(stats), tok.special("<|bos|>"), seq_len + 1)

    return pack(path, make_rows, tok, seq_len, dict(made_from, kind="documents"), env)


def pack_conversations(path, conversations, tok, seq_len, made_from, env, need_target=False,
                       render=None):
    """Render and pack conversations -> Rows. A finished file that was made from the same is reused.

    conversations: a function that returns an iterator of records.
    need_target: leave out (and count) conversations that, cut to a row, have nothing to learn.
    render: record -> ids and mask, no longer than a row, and the number of tokens cropped for that.
    By default it is Tokenizer.render_conversation, and the end is cropped.
    """
    def whole_or_cut(conversation):
        ids, mask = tok.render_conversation(conversation, unlearned=PAD)
        return ids[:seq_len + 1], mask[:seq_len + 1], max(0, len(ids) - seq_len - 1)

    render = render or whole_or_cut

    def rendered(stats):
        # Without threads: most of this work is Python, and they would make it slower.
        for conversation in conversations():
            ids, mask, cropped = render(conversation)
            # As lists, ids take ten times the memory.
            ids = np.array(ids, np.uint32)
            mask = np.array(mask, np.uint8)
            stats["conversations"] += 1
            stats["cut"] += cropped > 0
            stats["cropped"] += cropped
            learned = mask == LEARN
            if need_target and not learned.any():
                stats["without_target"] += 1
                continue
            stats["tokens"] += len(ids)
            stats["supervised"] += int(learned.sum())
            yield ids, mask

    def make_rows(stats):
        return conversation_rows(rendered(stats), tok.special("<|bos|>"), seq_len + 1)

    made_from = dict(made_from, kind="conversations", need_target=need_target)
    return pack(path, make_rows, tok, seq_len, made_from, env)


def pack(path, make_rows, tok, seq_len, made_from, env):
    """Write the rows, on rank 0, unless the file has been made from the same already -> Rows.

    make_rows: a function that yields (ids, mask) of each row, and adds to the stats it is given.
    """
    path = Path(path)
    made_from = dict(made_from, tokenizer=tok.fingerprint, seq_len=seq_len)
    # The header has no room for many names, and a hash of them is there, too.
    made_from.pop("listing", None)
    # Compare it as the header holds it: JSON turns tuples into lists.
    made_from = json.loads(json.dumps(made_from))
    header = read_header(path) if path.exists() else None
    if header is not None and header["made_from"] == made_from:
        env.print(f"rows       {path}: {header['n_rows']:,} rows, packed before")
    elif env.rank == 0:
        write_rows(path, make_rows, tok.vocab_size, seq_len, made_from)
    env.barrier()
    if env.world_size > 1:
        check_all_ranks_see(path, env)
    return Rows(path)


# How long a network file system may take to show a file of another node, in seconds (a guess).
PATIENCE = 60


def check_all_ranks_see(path, env):
    """ValueError on all ranks if one of them does not find the file that rank 0 has.

    Several nodes need a folder that they share, or the same files on each of them.
    """
    ours = header_digest(path)
    expected = env.all_max(torch.tensor(ours if env.rank == 0 else 0, device=env.device)).item()
    for _ in range(PATIENCE):
        if ours == expected:
            break
        time.sleep(1)
        ours = header_digest(path)
    if env.all_max(torch.tensor(int(ours != expected), device=env.device)).item():
        raise ValueError(f"{path}: not all nodes see the rows that rank 0 packed. Give an --out "
                         f"that all nodes share, or copy {path.parent.parent} from the node of "
                         f"rank 0 to the others and start again")


def header_digest(path):
    """A number that identifies a finished file of rows, by all that made it; 0 for no such file."""
    # Listing the folder makes a network file system look again.
    names = os.listdir(path.parent) if path.parent.is_dir() else []
    if path.name not in names or read_header(path) is None:
        return 0
    with open(path, "rb") as f:
        return int.from_bytes(hashlib.sha256(f.read(HEADER_BYTES)).digest()[:6])


def write_rows(path, make_rows, vocab_size, seq_len, made_from):
    """Write the file under a temporary name, and rename it when it is whole."""
    stats = dict.fromkeys(("documents", "conversations", "tokens", "supervised", "bytes", "cut",
                           "cropped", "without_target"), 0)
    header = dict(made_from=made_from, dtype="uint16" if vocab_size <= 2 ** 16 else "uint32",
                  seq_len=seq_len, mask=made_from["kind"] == "conversations")
    record = np.zeros(1, record_type(header))
    n_rows = 0
    start = time.time()
    progress = Line()
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
                # Nobody knows how much is to come.
                progress.count(f"packing    {path.name}", stats["tokens"], 0, "tokens",
                               f", {n_rows:,} rows")
            if n_rows == 0 and stats["without_target"]:
                raise ValueError(f"{path.name}: of {stats['without_target']:,} conversations none "
                                 f"has an answer left in a row of {seq_len + 1} tokens. Shorten "
                                 f"what comes before the answers, give more with --data, or "
                                 f"pretrain with a longer --seq_len")
            if n_rows == 0:
                raise ValueError(f"{path.name}: {stats['tokens']:,} tokens of {made_from['kind']} "
                                 f"do not fill one row of {seq_len + 1}. Give more with --data "
                                 f"(6 KB of text are enough for rows of 512), or pretrain with a "
                                 f"smaller --seq_len")
            room = n_rows * (seq_len + 1)
            padded = room - stats["tokens"] if header["mask"] else 0
            stats.update(rows=n_rows, padded=round(padded / room, 4))
            # No times in the header, so that the same inputs give the same bytes.
            header.update(n_rows=n_rows, stats=stats)
            text = json.dumps(header).encode()
            assert len(text) <= HEADER_BYTES - 16, f"a header of {len(text)} bytes does not fit"
            f.seek(0)
            f.write(MAGIC + VERSION.to_bytes(4, "little")
                    + len(text).to_bytes(4, "little") + text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        # An error of the reader explains itself; this one is about the disk we write to.
        if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(f"{path} could not be written ({e}). Free some disk space or choose another "
                      f"--out") from None
    finally:
        temporary.unlink(missing_ok=True)
    progress.clear()
    print_packed(path, seq_len, stats, time.time() - start)


def print_packed(path, seq_len, stats, seconds):
    """Say what was packed, what was lost in it, and how long it took."""
    what = "documents" if stats["documents"] else "conversations"
    cropped_share = stats["cropped"] / (stats["tokens"] + stats["cropped"])
    losses = ""
    if stats["cut"]:
        losses += f", {stats['cut']:,} cut to the row"
    if stats["without_target"]:
        losses += f", {stats['without_target']:,} left out: nothing to learn in them"
    rate = ""
    if stats["bytes"]:
        rate = f", {stats['bytes'] / seconds / 1e6:.1f} MB/s"
    say(f"rows       {path}: {stats['rows']:,} rows of {seq_len + 1} "
        f"from {stats[what]:,} {what}, {stats['tokens']:,} tokens, "
        f"{100 * stats['padded']:.2f} % padded, {100 * cropped_share:.2f} % cropped{losses} "
        f"({seconds:.1f} s{rate})")
    if cropped_share > 0.05:
        say(f"WARNING    {100 * cropped_share:.0f} % of the tokens do not fit into rows of "
            f"{seq_len} and are not learned: pretrain with a longer --seq_len, or shorten them "
            f"(python data/check.py tells the lengths)")


def record_type(header):
    fields = [("ids", header["dtype"], header["seq_len"] + 1)]
    if header["mask"]:
        fields.append(("mask", "uint8", header["seq_len"] + 1))
    return np.dtype(fields)


def read_header(path):
    """The JSON header of a finished file of rows; None if the file is anything else."""
    with open(path, "rb") as f:
        start = f.read(16)
        if start[:12] != MAGIC + VERSION.to_bytes(4, "little"):
            return None
        try:
            header = json.loads(f.read(int.from_bytes(start[12:], "little")))
        except ValueError:
            return None
        size = HEADER_BYTES + header["n_rows"] * record_type(header).itemsize
        if os.fstat(f.fileno()).st_size != size:
            return None
        return header


def batched(items, n):
    """Yield lists of n items, the last one shorter: batched("abcde", 2) -> ab, cd, e."""
    items = iter(items)
    while batch := list(itertools.islice(items, n)):
        yield batch


# A list of so many files is kept, so that --resume can name the one that has changed.
MOST_LISTED = 2000


def describe_sources(files=(), **settings):
    """What rows are made from, as plain data; if any of it changes, they are packed again.

    files: [[name, fingerprint], ...], as data.files.identify() gives them. Without any, it is the
    embedded data, which depends on the version of Python, on the source files of data/, and on this
    one.
    """
    if not files:
        made_by = [f for f in DATA.rglob("*")
                   if f.suffix in (".py", ".toml") and "downloads" not in f.parts]
        made_by.append(Path(__file__))
        code = b"".join(f.read_bytes() for f in sorted(made_by))
        settings.update(python=sys.version, code=hashlib.sha256(code).hexdigest())
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    listing = files if len(files) <= MOST_LISTED else []
    return dict(settings, files=digest, n_files=len(files), listing=listing)
