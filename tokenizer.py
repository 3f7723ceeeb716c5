"""
Stage 1: train the tokenizer. Reads text, writes out/tokenizer/.

demo      python tokenizer.py                                            the documentation and source code of your Python
own text  python tokenizer.py --data books/ wiki.jsonl --vocab_size 65536
library   from tokenizer import train_bpe; tokens = train_bpe(iterator_of_str, 32768)

Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019) in three sentences. Cut the text
into chunks: a word with the space before it, a number, some punctuation. See each chunk as a row of bytes, the first 256
tokens. Then, until the vocabulary is full, make the most frequent pair of neighbours inside the chunks a token of its own.

The file tells it twice: train_bpe_by_definition is these sentences in twenty lines, train_bpe gives the same tokens about
a thousand times faster, in numpy. Encoding is tiktoken's work, which loads what we save.
"""
import base64
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import regex

# ---------------------------------------------------------------------------------------------------------------------
# What BPE is

# GPT-4's pattern, but with digits in groups of one or two, which wastes less of a small vocabulary on numbers. The others
# go by name because llama.cpp only reads patterns that it knows.
SPLIT_PATTERN = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
                 r"|\s*[\r\n]|\s+(?!\S)|\s+")
LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                  r"|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {"default": SPLIT_PATTERN, "llama3": LLAMA3_PATTERN, "qwen2": LLAMA3_PATTERN.replace("{1,3}", ""),
            "gpt2": GPT2_PATTERN}


def train_bpe_by_definition(texts, vocab_size, pattern=SPLIT_PATTERN):
    """The definition: what train_bpe returns, and the tests compare the two."""
    chunks = Counter(chunk for text in texts for chunk in regex.findall(pattern, text))
    words = [(list(chunk.encode()), count) for chunk, count in chunks.items()]           # a word is a list of token ids
    tokens = [bytes([byte]) for byte in range(256)]
    while len(tokens) < vocab_size:
        counts = Counter()
        for ids, count in words:
            for pair in zip(ids, ids[1:]):
                counts[pair] += count
        if not counts:
            break                                                    # every word is a single token by now
        left, right = min(counts, key=lambda pair: (-counts[pair], pair))    # the most frequent; ties: the smaller ids
        for ids, _ in words:
            for i in range(len(ids)):                                # from left to right: a a a -> (aa) a
                if ids[i:i + 2] == [left, right]:
                    ids[i:i + 2] = [len(tokens)]
        tokens.append(tokens[left] + tokens[right])
    return tokens


def train_bpe(texts, vocab_size, pattern=SPLIT_PATTERN, processes=None, progress=False):
    """Train byte-level BPE on an iterator of str -> list of bytes, the tokens in rank order; 0..255 are the single bytes.

    vocab_size: tokens to return, 256 to 65535; fewer come back when the text has no pairs left to merge.
    pattern: a name in PATTERNS or a regular expression. processes: how many count chunks, by default one a core.
    The result depends on nothing but the text. Lone surrogates count as U+FFFD, which is how tiktoken encodes them.
    """
    if not 256 <= vocab_size <= MAX_TOKENS:
        raise ValueError(f"cannot train {vocab_size} BPE tokens: the 256 bytes come first, and ids must fit 16 bits, "
                         f"so ask for 256 to {MAX_TOKENS}")
    pattern = PATTERNS.get(pattern, pattern)
    check_pattern(pattern)
    symbols, weights = count_chunks(texts, pattern, processes or os.cpu_count(), progress)
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merge_chunks(symbols, weights, vocab_size - 256, progress):
        tokens.append(tokens[left] + tokens[right])
    assert len(set(tokens)) == len(tokens), "greedy BPE never makes the same token in two ways"
    return tokens


def check_pattern(pattern):
    try:
        groups = regex.compile(pattern).groups
    except regex.error as e:
        raise ValueError(f"split pattern {pattern!r} is neither one of {', '.join(PATTERNS)} nor a regular expression: {e}") from None
    if groups:
        raise ValueError(f"split pattern {pattern!r} has capturing groups; write (?:...) instead of (...)")


def meter(what, unit, total, show):
    """-> update(done): rewrites one line on stderr with speed and, where the total is known, time left, twice a second."""
    start = last = time.monotonic()

    def update(done):
        nonlocal last
        now = time.monotonic()
        if show and (now - last > 0.5 or done == total):
            last, speed = now, done / max(now - start, 1e-9)
            left = f", {(total - done) / max(speed, 1e-9):.0f} s left" if total else ""
            print(f"\r{what} {done:,.0f} {unit}, {speed:,.0f} {unit}/s{left}    ", end="", file=sys.stderr, flush=True)
    return update

# ---------------------------------------------------------------------------------------------------------------------
# Counting chunks. Text is the same few words again and again, so the trick is to let the regex see each of them once.
#
# Some places end a chunk whatever stands around them: between a letter and a comma, say. There we cut without any regex,
# and only the distinct segments (3 % of them all in 131 MB of prose) need the pattern. A cut is certain if no alternative
# of the pattern can match across it, and if what stands before it is split in the same way when the text ends there; the
# latter is about white space alone, through the lookahead \s+(?!\S). Of the bytes above 127 only those take part whose
# meaning is plain at once: behind C2, E1, E2 and E3 there may hide white space. tests/test_tokenizer.py attacks each rule.

ASCII, LETTER, DIGIT = set(range(128)), set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"), set(b"0123456789")
VISIBLE, SPACE, NEWLINE = set(range(33, 127)), {32}, {10, 13}
PUNCT = VISIBLE - LETTER - DIGIT
NONSPACE = VISIBLE | set(range(0xC3, 0xF5)) - {0xE1, 0xE2, 0xE3}
CERTAIN_CUTS = [                    # (a byte, the byte after it)
    (LETTER, ASCII - LETTER),       # rule 0: a letter is the end of whatever it is in, unless letters follow ...
    (DIGIT, ASCII - DIGIT),         # 1: ... and so is a digit
    (VISIBLE - DIGIT, DIGIT),       # 2: not so after a space: in "a  5" the lookahead would see another text
    (VISIBLE, SPACE),               # 3: no alternative holds a space after something visible
    (NEWLINE, NONSPACE),            # 4: the last newline ends its run of white space; but GPT-2 splits "\n\na" as \n \n a
    (SPACE, NONSPACE),              # 5: cuts before the space, which belongs to what follows
    (SPACE | PUNCT, PUNCT),         # 6: when a pair of rule 6 ...
    (PUNCT, LETTER),                # 7: ... overlaps one of rule 7, cut before the letter: "((a" is (( a, but "(a" is one chunk
]
CUT_RULES = {pattern: 0b11111 for pattern in PATTERNS.values()} | {GPT2_PATTERN: 0b01111}    # bit k: plain rule k holds
FIRST, SECOND = (bytes(sum((byte in pair[side]) << k for k, pair in enumerate(CERTAIN_CUTS)) for byte in range(256))
                 for side in (0, 1))                                 # byte -> the rules that it fits as first, as second
END = b"\xff"                       # follows each document; UTF-8 never holds this byte
BLOCK_BYTES = 1 << 18               # text to work on at a time: the arrays about it stay in the processor's cache
JOB_BLOCKS = 32                     # blocks that another process is given at a time


def find_segments(block, rules):
    """Cut documents, each followed by END, at all certain places -> starts and ends of the segments, int64 (n,)."""
    pair = np.frombuffer(block.translate(FIRST), np.uint8)[:-1] & np.frombuffer(block.translate(SECOND), np.uint8)[1:]
    cut = pair & rules != 0                                          # cut[i]: cut between bytes i and i + 1
    cut[:-1] |= pair[1:] & 1 << 5 != 0
    cut[1:] |= (pair[:-1] >> 6) & (pair[1:] >> 7) != 0
    is_end = np.frombuffer(block, np.uint8) == END[0]
    cut |= is_end[:-1] | is_end[1:]
    ends = np.flatnonzero(cut) + 1
    starts = np.concatenate(([0], ends))[:-1]
    text = ~is_end[starts]
    return starts[text], ends[text]


class ByteStrings:
    """Counts short byte strings, all of a block at once: an open-addressing hash table in numpy.

    The key of a string of up to 15 bytes is the string itself and its length, as two uint64, so a collision of hashes costs
    time and never truth; longer strings go to the Counter `long`.
    """
    KEEP = np.frombuffer(b"".join(b"\xff" * n + bytes(16 - n) for n in range(16)), np.uint64).reshape(16, 2).T.copy()
    LENGTH = np.frombuffer(b"".join(bytes(15) + bytes([n]) for n in range(16)), np.uint64)[1::2].copy()

    def __init__(self, bits=16):
        self.bits, self.n_used, self.long = bits, 0, Counter()
        self.key1, self.key2 = np.zeros((2, 1 << bits), np.uint64)   # key2 holds the length: where it is 0, the slot is free
        self.count = np.zeros(1 << bits, np.int64)

    def add_slices(self, text, starts, ends, counts):
        """Count text[start:end] for all starts and ends; counts: an int64 for each, or 1."""
        length = ends - starts
        short = length <= 15
        long = np.flatnonzero(~short)
        each = np.broadcast_to(counts, len(starts))
        for start, end, n in zip(starts[long].tolist(), ends[long].tolist(), each[long].tolist()):
            self.long[text[start:end]] += n
        starts, length, counts = starts[short], length[short], counts if np.ndim(counts) == 0 else counts[short]
        windows = np.ndarray(len(text) + 1, "V16", text + bytes(16), strides=1)         # 16 bytes from each place on
        key1, key2 = windows[starts].view(np.uint64).reshape(-1, 2).T
        self.add(key1 & self.KEEP[0].take(length), key2 & self.KEEP[1].take(length) | self.LENGTH.take(length), counts)

    def add(self, key1, key2, counts):
        slot = self.first_slot(key1, key2)
        while len(slot):
            found = (self.key1.take(slot) == key1) & (self.key2.take(slot) == key2)
            np.add.at(self.count, slot[found], counts if np.ndim(counts) == 0 else counts[found])
            missed = np.flatnonzero(~found)
            key1, key2, slot = key1[missed], key2[missed], slot[missed]
            counts = counts if np.ndim(counts) == 0 else counts[missed]
            if 3 * (self.n_used + len(slot)) > len(self.count):      # keep it two thirds empty, else the tries get many
                self.make_room(len(slot))
                slot = self.first_slot(key1, key2)
                continue
            free = self.key2[slot] == 0
            claimed = slot[free]
            self.key1[claimed], self.key2[claimed] = key1[free], key2[free]             # of many, the last one gets the slot
            self.n_used += len(claimed)                              # or fewer; make_room counts anew
            slot[~free] = (slot[~free] + 1) & len(self.count) - 1    # another key lives here: try the next slot

    def first_slot(self, key1, key2):
        return (key1 * 0x9E3779B97F4A7C15 + key2 * 0xC2B2AE3D27D4EB4F >> 64 - self.bits).astype(np.int64)

    def make_room(self, n):
        items, long = self.items(), self.long
        self.n_used = len(items[0])
        if 3 * (self.n_used + n) > len(self.count):
            self.__init__(self.bits + 2)
            self.add(*items)
            self.long = long

    def items(self):
        used = np.flatnonzero(self.count)
        return self.key1[used], self.key2[used], self.count[used]


def count_blocks(blocks, pattern, segments, chunks):
    """Count the segments in blocks of documents, or, where no cuts are certain, right away the chunks (in a Counter of str)."""
    rules, split = CUT_RULES.get(pattern), regex.compile(pattern).findall
    for block in blocks:
        if rules is None:
            chunks.update(chain.from_iterable(split(text.decode()) for text in block.split(END)))
        else:
            segments.add_slices(block, *find_segments(block, rules), 1)


def count_elsewhere(blocks, pattern):
    """count_blocks in a process of its own -> what it has counted."""
    segments, chunks = ByteStrings(bits=19), Counter()
    count_blocks(blocks, pattern, segments, chunks)
    return segments.items(), segments.long, chunks


def read_blocks(texts, pattern, update):
    """Texts as bytes, each followed by END, in blocks of about BLOCK_BYTES; a long text is cut between a letter and a space."""
    parts, size, total, letter_space = [], 0, 0, re.compile(rb"[A-Za-z](?= )")
    for text in texts:
        try:
            data = text.encode()
        except UnicodeEncodeError:                                   # tiktoken's rule for lone surrogates
            data = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        start, end = 0, None
        while end != len(data):
            long = pattern in CUT_RULES and len(data) - start > 2 * BLOCK_BYTES
            place = long and letter_space.search(data, start + BLOCK_BYTES)
            end = place.end() if place else len(data)
            parts.append(data[start:end])
            size += end - start
            start = end
            if size >= BLOCK_BYTES:
                yield END.join(parts) + END
                total += size
                update(total / 1e6)
                parts, size = [], 0
    if parts:
        yield END.join(parts) + END


def count_chunks(texts, pattern, processes, progress):
    """Split the texts by the pattern and count the distinct chunks -> symbols int32, weights uint32, both (n,).

    symbols: the bytes of all chunks, SEP before, between and behind them; weights: how often the chunk around it occurs.
    """
    segments, chunks, split = ByteStrings(), Counter(), regex.compile(pattern).findall

    def split_segments(counted):
        for segment, n in counted:
            for chunk in split(segment.decode()):
                chunks[chunk] += n

    def take_result(job):
        (key1, key2, count), long, others = job.result()
        segments.add(key1, key2, count)
        segments.long.update(long)
        chunks.update(others)

    blocks, running = read_blocks(texts, pattern, meter("read", "MB", None, progress)), deque()
    start_method = "fork" if sys.platform == "linux" else "spawn"    # fork is unsafe on macOS and unknown to Windows
    with ProcessPoolExecutor(max(1, processes - 1), get_context(start_method)) as pool:
        while job := list(islice(blocks, JOB_BLOCKS)):
            if running and running[0].done():
                take_result(running.popleft())
            if len(running) < 2 * (processes - 1) and len(job) == JOB_BLOCKS:
                running.append(pool.submit(count_elsewhere, job, pattern))
            else:                                                    # the others have enough to do, or there are none
                count_blocks(job, pattern, segments, chunks)
            if len(segments.long) > 100_000:                         # Chinese, say: whole sentences hold no certain cut
                split_segments(segments.long.items())
                segments.long.clear()
        while running:
            take_result(running.popleft())

    used = np.flatnonzero(segments.count)
    rows = np.stack((segments.key1[used], segments.key2[used]), 1).view(np.uint8)      # (n, 16): bytes, zeros, and the length
    letters = np.frombuffer(rows.tobytes().translate(bytes(byte in LETTER for byte in range(256))), np.uint8)
    is_word = letters.reshape(-1, 16).sum(1) + (rows[:, 0] == 32) == rows[:, 15]       # like " word": it is a chunk as it is
    other = rows[~is_word].tobytes()
    split_segments((other[16 * i:16 * i + n], count) for i, (n, count) in
                   enumerate(zip(rows[~is_word, 15].tolist(), segments.count[used[~is_word]].tolist())))
    split_segments(segments.long.items())
    segments.count[used[~is_word]] = 0                               # from here on `segments` holds chunks
    segments.long.clear()
    encoded = [chunk.encode() for chunk in chunks]
    ends = np.cumsum([0] + [len(chunk) for chunk in encoded])
    segments.add_slices(b"".join(encoded), ends[:-1], ends[1:], np.array(list(chunks.values()), np.int64))
    return lay_out(*segments.items(), segments.long)


def lay_out(key1, key2, count, long):
    """Counted byte strings, the short ones as keys -> symbols, weights: see count_chunks."""
    rows = np.stack((key1, key2), 1).view(np.uint8)
    order = np.argsort(rows.view(">u8")[:, 0].astype(np.uint64))     # by the first 8 bytes: merges then touch memory that lies
    rows, count = rows[order], count[order]                          # together, which saves a fifth of their time
    lengths = np.concatenate(([0], rows[:, 15], [len(string) for string in long]), dtype=np.int64, casting="unsafe") + 1
    counts = np.concatenate(([0], count, list(long.values())), dtype=np.int64, casting="unsafe")
    text = b"\0" + rows[np.arange(16) <= rows[:, 15:]].tobytes() + b"".join(string + b"\0" for string in long)
    if len(text) >= 2**31 or counts.max() >= 2**32:
        raise ValueError(f"{len(text):,} bytes of distinct chunks, the commonest {counts.max():,} times; at most 2**31 - 1 bytes and "
                         f"2**32 - 1 times can be counted. Read less: --max_chars")
    symbols = np.frombuffer(text, np.uint8).astype(np.int32)
    symbols[np.cumsum(lengths) - 1] = SEP
    return symbols, np.repeat(counts.astype(np.uint32), lengths)

# ---------------------------------------------------------------------------------------------------------------------
# Merging, many pairs at a time, and still greedy.
#
# Take the best pairs in greedy order as one batch, but skip a pair whose left token is the right token of a member or the
# other way round: only such pairs can overlap in the text, so the members leave each other's counts alone. Two things can
# then still come between them, and the batch ends before the first member that either would have beaten: a pair that an
# earlier member has just created, and a pair that was skipped. A batch holds about 24 merges, so numpy is called a few
# thousand times instead of a few million.
#
# A token covers some places of `symbols` and writes its id to the first and the last of them. Its neighbours begin right
# behind its last place and end right before its first, so no list of links is needed. A pair is known by its number:
# pair_at[i] is the pair of the token that begins at i and the next, and places[pair] lists where the pair occurs. It is
# made once, when the pair comes into being, for its occurrences can then only become fewer; that one is gone shows at
# pair_at. Pairs rarer than `floor` are too many to follow and will hardly ever be merged. Should the best pair get that
# rare, the text is indexed again, with a lower floor and with each token in a single place.

SEP, NO_PAIR, INSIDE = -1, -1, -2   # SEP stands in symbols; in pair_at: no pair that we follow, and not a token's first place
MAX_TOKENS = 65535                  # ids below 65535 leave 32 bits of a score for the count


def group(keys, values):
    """Group by sorting: integers below 2**32, int64 (n,) -> distinct keys uint64, start of each group, values by group uint32."""
    packed = keys << 32
    packed |= values
    packed = packed.view(np.uint64)
    packed.sort()                                                    # one plain sort is many times faster than np.unique
    values = packed.astype(np.uint32)                                # its low half
    packed >>= 32
    starts = np.flatnonzero(np.concatenate(([True], packed[1:] != packed[:-1]))[:len(packed)])
    return packed[starts], starts, values


def index_pairs(symbols, weights, floor):
    """Find the pairs that occur at least floor times -> scores uint64 (n,), places (n arrays), pair_at int32 like symbols."""
    at = np.flatnonzero((symbols[:-1] != SEP) & (symbols[1:] != SEP))
    keys, starts, at = group(symbols[at].astype(np.int64) << 16 | symbols[at + 1], at)
    sizes = np.diff(starts, append=len(at))
    counts = np.add.reduceat(weights[at], starts, dtype=np.uint64)
    if counts.max(initial=0) >= 2**32:
        raise ValueError(f"a pair of bytes occurs {counts.max():,} times; at most 2**32 - 1 can be counted. Read less: --max_chars")
    kept = np.flatnonzero(counts >= floor)
    number = np.full(len(keys), NO_PAIR, np.int32)
    number[kept] = np.arange(len(kept))
    pair_at = np.full(len(symbols), NO_PAIR, np.int32)
    pair_at[at] = np.repeat(number, sizes)
    places = [at[start:start + size] for start, size in zip(starts[kept].tolist(), sizes[kept].tolist())]
    return counts[kept] << 32 | keys[kept] ^ 0xFFFFFFFF, places, pair_at


def choose_batch(scores, candidates, size):
    """Candidates, best first -> batch of pairs that can't overlap; skipped pairs, and how many of the batch are before each."""
    batch, skipped, n_before, lefts, rights = [], [], [], set(), set()
    keys = (~scores[candidates] & 0xFFFFFFFF).tolist()
    for pair, key in zip(candidates.tolist(), keys):
        left, right = key >> 16, key & 0xFFFF
        if left in rights or right in lefts or left == right and batch:
            skipped.append(pair)
            n_before.append(len(batch))
        else:
            batch.append(pair)
            lefts.add(left)
            rights.add(right)
            if left == right or len(batch) == size:                  # a pair of equals goes alone: its occurrences overlap
                break
    return np.array(batch), np.array(skipped, np.int64), np.array(n_before, np.int64)


def every_other(at, width):
    """Occurrences of a pair of equals, a a a a a -> those that are merged from left to right: (a a) (a a) a."""
    at = np.sort(at)
    in_run = np.arange(len(at))
    run_starts = np.concatenate(([True], np.diff(at) != width))
    in_run -= np.maximum.accumulate(np.where(run_starts, in_run, 0))
    return at[in_run % 2 == 0]


def merge_chunks(symbols, weights, n_merges, progress):
    """Greedy BPE on counted chunks (see count_chunks) -> up to n_merges pairs (left id, right id), in the order of merging."""
    merges, update = [], meter("merged", "pairs", n_merges, progress)
    floor = max(1, int(weights.sum(dtype=np.int64)) // max(1, n_merges) // 16)
    while len(merges) < n_merges and floor:
        scores, places, pair_at = index_pairs(symbols, weights, floor)
        width = np.ones(256 + n_merges + 1, np.int64)                # places that each token covers; at the end 1, for SEP
        lowest, threshold, batch_size = np.uint64(floor << 32), np.uint64(2**64 - 1), 16
        floor = max(floor // 8, 1) if floor > 1 else 0               # for the next time
        while len(merges) < n_merges:
            # ---- choose a batch; `threshold` keeps the candidates to about a thousand ----
            candidates = np.flatnonzero(scores >= threshold)
            if len(candidates) < 2 * batch_size and threshold > lowest:
                threshold = max(lowest, np.partition(scores, -1024)[-1024]) if len(scores) > 1024 else lowest
                candidates = np.flatnonzero(scores >= threshold)
            if not len(candidates):
                break
            candidates = candidates[np.argsort(scores[candidates])[::-1][:2 * batch_size]]
            batch, skipped, n_before = choose_batch(scores, candidates, min(batch_size, n_merges - len(merges)))
            best, first_id = scores[batch], 256 + len(merges)
            keys = (~best & 0xFFFFFFFF).astype(np.int64)
            left, right = keys >> 16, keys & 0xFFFF
            width[first_id:first_id + len(batch)] = width[left] + width[right]

            # ---- find the n occurrences of its members, member by member, and merge them ----
            at = np.concatenate([places[pair] for pair in batch], dtype=np.int64)
            sizes = [len(places[pair]) for pair in batch]
            member = np.repeat(np.arange(len(batch)), sizes)
            there = np.flatnonzero(pair_at[at] == np.repeat(batch, sizes))             # the others have gone into other merges
            at, member = at[there], member[there]
            if left[0] == right[0]:
                at = every_other(at, width[left[0]])
                member = member[:len(at)]
            n, new, weight = len(at), first_id + member, weights[at].astype(np.uint64) << 32
            second = at + width[left][member]                        # where the right token begins
            end = second + width[right][member]
            symbols[at] = symbols[end - 1] = new

            # ---- see their neighbours as they are when member i is merged: members k > i are not merged yet ----
            before, after = symbols[at - 1].astype(np.int64), symbols[end].astype(np.int64)
            k_before, k_after = before - first_id, after - first_id  # the neighbour's member; negative if it is of none
            before_later, after_later = k_before > member, k_after > member
            before[before_later] = right[k_before[before_later]]
            after[after_later] = left[k_after[after_later]]
            before_at = at - width[before]

            # ---- group what that creates: (before, new) is entry i of occurrence i, (new, after) is its entry n + i ----
            has_before = np.flatnonzero((before != SEP) & (k_before != member))   # between two of one member: entry n + i
            has_after = np.flatnonzero(after != SEP)
            keys, starts, entries = group(np.concatenate((before[has_before] << 16 | new[has_before],
                                                          new[has_after] << 16 | after[has_after])),
                                          np.concatenate((has_before, n + has_after)))
            weight2, member2 = np.concatenate((weight, weight)), np.concatenate((member, member))
            created = np.add.reduceat(weight2[entries], starts) | keys ^ 0xFFFFFFFF      # the scores of new pairs ...
            creator = member2[entries[starts]]                                           # ... and the members who made them

            # ---- cut the batch before the first member that a new pair or a skipped one would have beaten ----
            cut = len(batch)
            strong = np.flatnonzero(created > best[-1])
            if len(strong):
                beaten = np.maximum(creator[strong] + 1, np.searchsorted(~best, ~created[strong]))
                cut = min(cut, int(beaten.min()))
            lost = np.concatenate((pair_at[before_at], pair_at[second]))                 # what each occurrence destroys
            if len(skipped):
                outer = np.concatenate((k_before < 0, np.full(n, True)))                 # in the batch: second of the one before
                hit = np.flatnonzero(outer & (lost >= 0) & (scores[lost] > best[-1]))    # so these are skipped pairs
                order = np.argsort(skipped)
                row = order[np.searchsorted(skipped, lost[hit], sorter=order)]
                taken = np.zeros((len(skipped), len(batch)), np.uint64)
                np.add.at(taken, (row, member2[hit]), weight2[hit])
                still = scores[skipped][:, None] - (taken.cumsum(1) - taken)             # when it is member j's turn
                beaten = ((still > best) & (np.arange(len(batch)) >= n_before[:, None])).any(0)
                cut = min(cut, int(beaten.argmax()) if beaten.any() else cut)
            undo = int(np.searchsorted(member, cut))                 # the first occurrence of the members cut off
            symbols[at[undo:]] = left[member[undo:]]
            symbols[end[undo:] - 1] = right[member[undo:]]
            if len(batch) > 1:
                batch_size = min(256, max(8, cut + cut // 2))

            # ---- take the vanished pairs off their counts, and enter the new ones ----
            outer = np.concatenate(((k_before < 0) | (k_before >= cut), np.full(n, True)))
            gone = np.flatnonzero(outer & (lost >= 0) & (member2 < cut))
            np.subtract.at(scores, lost[gone], weight2[gone])
            scores[batch[:cut]] = 0
            followed = np.flatnonzero((creator < cut) & (created >= lowest))
            number = np.full(len(created), NO_PAIR, np.int32)
            number[followed] = np.arange(len(places), len(places) + len(followed))
            ends = np.append(starts[1:], len(entries))
            pair_of = np.full(2 * n, NO_PAIR, np.int32)
            pair_of[entries] = np.repeat(number, ends - starts)
            entry_at = np.concatenate((before_at, at))
            where = entry_at[entries].astype(np.uint32)
            places += [where[a:b] for a, b in zip(starts[followed].tolist(), ends[followed].tolist())]
            if len(places) > len(scores):
                scores = np.concatenate((scores, np.zeros(len(places), np.uint64)))
            scores[len(places) - len(followed):len(places)] = created[followed]
            brief = np.concatenate((before_later & (k_before < cut), after_later & (k_after < cut)))     # merged again at once
            gone = np.flatnonzero(brief & (pair_of >= 0))
            np.subtract.at(scores, pair_of[gone], weight2[gone])
            pair_at[at[:undo]] = pair_of[n:n + undo]
            stays = np.flatnonzero((k_before != member) & ~brief[:n] & (member < cut))
            pair_at[before_at[stays]] = pair_of[stays]
            pair_at[second[:undo]] = INSIDE
            for pair in batch[:cut].tolist():
                places[pair] = None
            merges += zip(left[:cut].tolist(), right[:cut].tolist())
            update(len(merges))
        symbols, weights = symbols[pair_at != INSIDE], weights[pair_at != INSIDE]
    return merges

# ---------------------------------------------------------------------------------------------------------------------
# Files

def token_parts(token, ranks):
    """The two tokens that were merged into `token`: merge its bytes by the tokens before it. Our files hold no pairs."""
    parts = [token[i:i + 1] for i in range(len(token))]
    while len(parts) > 2:
        i = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], len(ranks)))
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts


def byte_letters():
    """GPT-2's spelling of bytes, which Hugging Face kept: byte -> a printable letter, itself where it is one already."""
    letters = {byte: chr(byte) for byte in [*range(33, 127), *range(161, 173), *range(174, 256)]}
    return letters | {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in letters)}


def hf_tokenizer_json(tokens, pattern, special_tokens):
    """-> dict, the same tokenizer as the content of a Hugging Face tokenizer.json."""
    letters, ranks = byte_letters(), {token: rank for rank, token in enumerate(tokens)}
    spell = lambda token: "".join(letters[byte] for byte in token)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": len(tokens) + i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, name in enumerate(special_tokens)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {spell(token): rank for token, rank in ranks.items()},
                  "merges": [[spell(part) for part in token_parts(token, ranks)] for token in tokens[256:]]}}


def save_tokenizer(path, tokens, pattern, trained_on):
    """Write merges.tiktoken and tokenizer.json as a folder that is replaced as a whole."""
    from common import SPECIAL_TOKENS, finish_replace, replace_folder, tokenizer_fingerprint, write_synced
    merges = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    info = {"pattern": pattern, "special_tokens": SPECIAL_TOKENS, "vocab_size": len(tokens) + len(SPECIAL_TOKENS),
            "trained_on": trained_on, "fingerprint": tokenizer_fingerprint(merges, pattern, SPECIAL_TOKENS)}
    new = path.with_name(path.name + ".tmp")
    finish_replace(path)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        write_synced(new / "merges.tiktoken", lambda f: f.write(merges))
        write_synced(new / "tokenizer.json", lambda f: f.write(json.dumps(info, indent=1).encode()))
        replace_folder(new, path)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise

# ---------------------------------------------------------------------------------------------------------------------
# Main: train, save, report

@dataclass
class Config:
    data: tuple = ()             # text to train on, files or folders; none: the documentation and source code of your Python
    mixture: str = "spelling_bee:3000,arithmetic:3000,python_questions,identity"  # without --data: these conversations as well
    out: str = "out"             # the tokenizer goes to the folder OUT/tokenizer
    vocab_size: int = 0          # number of tokens, the nine special ones included; 0: 1536 for the demo, else by the size of the text
    pattern: str = "default"     # how text is split before BPE: default, llama3, qwen2, gpt2, or a regular expression
    max_chars: int = 0           # stop reading after so many characters; 0 reads all
    doc_cap: int = 0             # take only so many characters of each document; 0 takes all
    processes: int = 0           # how many processes count words; 0: one a core

OTHER_SCRIPTS = """Привет, как дела? Сегодня мы пойдём в библиотеку, чтобы вернуть книги. Καλημέρα, τι κάνεις σήμερα;
今天天气很好，我们去公园散步吧。東京は日本の首都であり、世界で最も人口の多い都市の一つです。안녕하세요, 만나서 반갑습니다.
السلام عليكم، كيف حالك اليوم؟ שלום, מה שלומך היום? नमस्ते, आप कैसे हैं? สวัสดีครับ วันนี้อากาศดีมาก Crème brûlée, naïve, Ωmega 🙂🚀
"""


def training_texts(cfg, seen):
    """The documents to train on, within max_chars and doc_cap; counts them in the dict `seen`."""
    from data import python_corpus, sources, text
    texts = text.read_documents(cfg.data, "train") if cfg.data else chain(python_corpus.documents("train"), (
        part["text"] for conversation in sources.conversations(cfg.mixture, "train") for message in conversation["messages"]
        for part in ([{"text": message["content"]}] if isinstance(message["content"], str) else message["content"])))
    for document in texts:
        document = document[:cfg.doc_cap or None]
        if cfg.max_chars:
            document = document[:cfg.max_chars - seen["characters"]]
        seen["documents"] += 1
        seen["characters"] += len(document)
        yield document
        if seen["characters"] == cfg.max_chars:
            break


def cached_encodings():
    """GPT-2's and GPT-4's encodings, where tiktoken has their files already; nothing is downloaded."""
    import tiktoken
    url = "https://openaipublic.blob.core.windows.net/"
    files = {"gpt2": ("gpt-2/encodings/main/vocab.bpe", "gpt-2/encodings/main/encoder.json"),
             "cl100k_base": ("encodings/cl100k_base.tiktoken",)}
    cache = Path(os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
                 or Path(tempfile.gettempdir(), "data-gym-cache"))
    return {name: tiktoken.get_encoding(name) for name, needed in files.items()
            if all((cache / hashlib.sha1((url + file).encode()).hexdigest()).exists() for file in needed)}


def report(tok, tokens, cfg):
    """Print bytes per token on text that was not trained on, and a look at the vocabulary; ValueError if a text is altered."""
    from data import python_corpus, text
    samples = {"your held-out text": text.read_documents(cfg.data, "val")} if cfg.data else {}
    samples |= {"English prose": python_corpus.documents("val", code=0), "Python code": python_corpus.documents("val", prose=0),
                "other scripts": [OTHER_SCRIPTS], "numbers": [" ".join(str(7 ** i % 10 ** (i % 9 + 1)) for i in range(500))]}
    encodings = {"ours": tok.enc} | cached_encodings()
    print(f"\nbytes per token       " + "".join(f"{name:>14}" for name in encodings))
    for kind, texts in samples.items():
        sample = "\n\n".join(islice(texts, 500))[:1_000_000]
        if tok.decode(tok.encode(sample)) != sample:
            raise ValueError(f"--pattern loses text: {kind} does not survive encoding and decoding. Every character must match")
        size = len(sample.encode())
        print(f"{kind:<22}" + "".join(f"{size / len(enc.encode_ordinary(sample)):14.2f}" for enc in encodings.values()))
    show = lambda some: " ".join(repr(token.decode(errors="replace")) for token in some)
    print(f"first merges   {show(tokens[256:272])}\nlast merges    {show(tokens[256:][-16:])}")
    print(f"longest        {show(sorted(tokens, key=len)[-8:])}")


def main():
    from common import SPECIAL_TOKENS, Tokenizer, parse_config                      # imports torch, which train_bpe does without
    from data.text import list_files
    cfg = parse_config(Config, __doc__)
    if not cfg.vocab_size:                                           # small models learn the letters of few tokens only: LOG.md
        size = sum(f.stat().st_size for f in list_files(cfg.data)) if cfg.data else 0
        cfg.vocab_size = 1536 if not cfg.data else 4096 if size < 50e6 else 16384 if size < 1e9 else 32768
        print(f"vocabulary {cfg.vocab_size} (--vocab_size), for {'the embedded text' if not cfg.data else f'{size / 1e6:,.1f} MB'}")
    n_tokens, start = cfg.vocab_size - len(SPECIAL_TOKENS), time.monotonic()
    if not 256 <= n_tokens <= 65536 - len(SPECIAL_TOKENS):
        raise ValueError(f"--vocab_size {cfg.vocab_size}: the 256 bytes and {len(SPECIAL_TOKENS)} special tokens are part of it, and "
                         f"ids are stored in 16 bits; choose {256 + len(SPECIAL_TOKENS)} to 65536")
    for name in ("max_chars", "doc_cap", "processes"):
        if getattr(cfg, name) < 0:
            raise ValueError(f"--{name} {getattr(cfg, name)}: must be 0 or more")
    pattern, seen = PATTERNS.get(cfg.pattern, cfg.pattern), {"documents": 0, "characters": 0}
    if pattern not in CUT_RULES:
        print("note: where this pattern surely cuts is not known, so the regex reads the whole text: about five times slower")
    path = Path(cfg.out, "tokenizer")
    path.parent.mkdir(parents=True, exist_ok=True)                                  # now, not after the work
    tokens = train_bpe(training_texts(cfg, seen), n_tokens, pattern, cfg.processes, progress=sys.stderr.isatty())
    if not seen["characters"]:
        raise ValueError(f"no text to train on in {' '.join(cfg.data)}")
    print(f"{len(tokens):,} BPE tokens and {len(SPECIAL_TOKENS)} special ones from {seen['documents']:,} documents, "
          f"{seen['characters']:,} characters, in {time.monotonic() - start:.1f} s")
    if len(tokens) < n_tokens:
        print(f"note: the text has no more pairs to merge, so these are fewer than --vocab_size {cfg.vocab_size} asked for")
    sources = list(cfg.data) or ["the standard library of Python " + ".".join(map(str, sys.version_info[:2])), cfg.mixture]
    save_tokenizer(path, tokens, pattern, {"sources": sources, **seen})
    report(Tokenizer.load(path), tokens, cfg)
    print(f"saved to {path}. Next: python pretrain.py")


if __name__ == "__main__":
    from common import run
    run(main)
