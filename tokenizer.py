"""
Stage 1 of 6: the tokenizer. Reads text, writes out/tokenizer.

laptop    python tokenizer.py                                       # the documentation and source code of your Python
own text  python tokenizer.py --data books/ wiki.jsonl --vocab_size 65536
library   from tokenizer import train_bpe; tokens = train_bpe(iterator_of_str, 32768)

Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019) in three sentences. Cut the
text into chunks: a word with the space before it, a number, some punctuation. See each chunk as a row of bytes, the
first 256 tokens. Then, until the vocabulary is full, make the most frequent pair of neighbours in a chunk a new token.

The file tells it twice: train_bpe_by_definition is these sentences in twenty lines; train_bpe returns the same tokens,
on a large text a thousand times faster, in numpy. Encoding is the work of tiktoken, which loads what we save.
"""
import base64, hashlib, json, os, re, shutil, sys, tempfile, time
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

# GPT-4's pattern, but with digits in groups of one or two, which spends less of a small vocabulary on numbers. The
# others have names because llama.cpp only reads patterns that it knows.
SPLIT_PATTERN = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
                 r"|\s*[\r\n]|\s+(?!\S)|\s+")
LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                  r"|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {"default": SPLIT_PATTERN, "llama3": LLAMA3_PATTERN, "qwen2": LLAMA3_PATTERN.replace("{1,3}", ""),
            "gpt2": GPT2_PATTERN}


def train_bpe_by_definition(texts, vocab_size, pattern=SPLIT_PATTERN):
    """What train_bpe returns, as plainly as it can be said; the tests compare the two."""
    chunks = Counter(chunk for text in texts for chunk in regex.findall(pattern, text))
    words = [(list(chunk.encode()), count) for chunk, count in chunks.items()]       # a word is a list of token ids
    tokens = [bytes([byte]) for byte in range(256)]
    while len(tokens) < vocab_size:
        counts = Counter()
        for ids, count in words:
            for pair in zip(ids, ids[1:]):
                counts[pair] += count
        if not counts:
            break                                                    # every word is a single token by now
        left, right = min(counts, key=lambda pair: (-counts[pair], pair))        # most frequent; ties: smaller ids
        for ids, _ in words:
            for i in range(len(ids)):                                # from left to right: a a a -> (aa) a
                if ids[i:i + 2] == [left, right]:
                    ids[i:i + 2] = [len(tokens)]
        tokens.append(tokens[left] + tokens[right])
    return tokens


def train_bpe(texts, vocab_size, pattern=SPLIT_PATTERN, processes=None, progress=False, total_mb=None):
    """Train byte-level BPE on an iterator of str -> list of bytes, the tokens in rank order; 0 to 255 are the bytes.

    vocab_size: tokens to return, 256 to 65535; fewer come back when the text has no pairs left to merge.
    pattern: a name in PATTERNS or a regular expression. processes: how many count chunks, by default one a core.
    progress: show on stderr how far it is; total_mb: about how much text there is, for the time left while reading.
    Depends on nothing but the text. Lone surrogates count as U+FFFD: so does tiktoken encode them.
    ValueError for an impossible size, pattern or amount of text; OSError if a counting process dies.
    """
    if not 256 <= vocab_size <= MAX_TOKENS:
        raise ValueError(f"cannot train {vocab_size} BPE tokens: ask for 256 (the bytes) to {MAX_TOKENS} (16-bit ids)")
    update = meter("read", "MB", total_mb, progress)
    try:
        symbols, weights = count_chunks(texts, PATTERNS.get(pattern, pattern), processes or os.cpu_count(), update)
    except BrokenProcessPool:
        raise OSError("a counting process died: killed, out of memory, or started by a script without `if __name__ == "
                      "'__main__':`. Go without it: --processes 1") from None
    tokens = [bytes([byte]) for byte in range(256)]
    update = meter("merged", "pairs", vocab_size - 256, progress)
    for left, right in merge_chunks(symbols, weights, vocab_size - 256, update):
        tokens.append(tokens[left] + tokens[right])
    assert len(set(tokens)) == len(tokens), "greedy BPE never makes a token in two ways"
    return tokens


def splitter(pattern):
    """-> the function text -> list of chunks."""
    try:
        compiled = regex.compile(pattern)
    except regex.error as e:
        raise ValueError(f"split pattern {pattern!r} is none of {', '.join(PATTERNS)} and no regular expression: {e}")
    if compiled.groups:
        raise ValueError(f"split pattern {pattern!r} has capturing groups; write (?:...) for (...)")
    return compiled.findall


def meter(what, unit, total, show):
    """-> update(done): one line on stderr, rewritten twice a second; with the time left if the total is known."""
    start = last = time.monotonic()

    def update(done):
        nonlocal last
        now = time.monotonic()
        if show and (now - last > 0.5 or done == total):
            last, speed = now, max(done, 1) / max(now - start, 1e-9)
            left = f", {max(0, total - done) / speed:.0f} s left" if total else ""
            print(f"\r{what} {done:,.0f} {unit}, {speed:,.0f} {unit}/s{left}    ", end="\n" if done == total else "",
                  file=sys.stderr, flush=True)
    return update

# ---------------------------------------------------------------------------------------------------------------------
# Counting chunks. Text is the same few words again and again: the trick is to let the regex see each of them once.
#
# In some places a chunk ends whatever stands around: between a letter and a comma, say. There we cut without any regex,
# and only the distinct segments (3 % of all in 131 MB of prose) need the pattern. A cut is certain if no alternative of
# the pattern can match across it, and if what stands before it is split in the same way when the text ends there; the
# latter is about white space alone, because of the lookahead \s+(?!\S). Of the bytes above 127 those take part whose
# meaning is plain: behind C2, E1, E2 and E3 there may hide white space. tests/test_tokenizer.py attacks these rules.

ASCII, LETTER = set(range(128)), set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
DIGIT, VISIBLE, SPACE, NEWLINE = set(b"0123456789"), set(range(33, 127)), {32}, {10, 13}
PUNCT, NONSPACE = VISIBLE - LETTER - DIGIT, VISIBLE | set(range(0xC3, 0xF5)) - {0xE1, 0xE2, 0xE3}
CERTAIN_CUTS = [                    # between (a byte, the byte after it)
    (LETTER, ASCII - LETTER),       # rule 0: a letter is the end of whatever it is in, unless letters follow ...
    (DIGIT, ASCII - DIGIT),         # 1: ... and so is a digit
    (VISIBLE - DIGIT, DIGIT),       # 2: not so after a space: in "a  5" the lookahead would see another text
    (VISIBLE, SPACE),               # 3: no alternative holds a space after something visible
    (NEWLINE, NONSPACE),            # 4: a newline ends its run of white space; but GPT-2 splits "\n\na" as \n \n a
    (SPACE, NONSPACE),              # 5: cut *before* the space, which belongs to what follows
    (SPACE | PUNCT, PUNCT),         # 6: if two bytes fit rule 6 ...
    (PUNCT, LETTER),                # 7: ... and the next two rule 7, cut before the letter: (( a, but (a is one chunk
]
CUT_RULES = {pattern: 0b11111 for pattern in PATTERNS.values()} | {GPT2_PATTERN: 0b01111}        # bit k: rule k holds
FIRST, SECOND = (bytes(sum((byte in pair[side]) << k for k, pair in enumerate(CERTAIN_CUTS)) for byte in range(256))
                 for side in (0, 1))                                 # byte -> the rules that it fits as first, second
IS_LETTER = bytes(byte in LETTER for byte in range(256))
END = b"\xff"                       # follows each document; UTF-8 never holds this byte
BLOCK_BYTES = 1 << 18               # work on so much text at a time: the arrays about it stay in the processor's cache
JOB_BLOCKS = 32                     # blocks that another process is given at a time


def find_segments(block, rules):
    """Cut documents, each followed by END, in all certain places -> starts and ends of the segments, int64 (n,)."""
    pair = np.frombuffer(block.translate(FIRST), np.uint8)[:-1] & np.frombuffer(block.translate(SECOND), np.uint8)[1:]
    cut = pair & rules != 0                                          # cut[i]: between bytes i and i + 1
    cut[:-1] |= pair[1:] & 1 << 5 != 0
    cut[1:] |= (pair[:-1] >> 6) & (pair[1:] >> 7) != 0
    is_end = np.frombuffer(block, np.uint8) == END[0]
    cut |= is_end[:-1] | is_end[1:]
    ends = np.flatnonzero(cut) + 1
    starts = np.concatenate(([0], ends))[:-1]
    is_text = ~is_end[starts]
    return starts[is_text], ends[is_text]


class ByteStrings:
    """Counts short byte strings, all those of a block at once: an open-addressing hash table in numpy.

    The key of a string of up to 15 bytes is the string itself and its length, as two uint64: a collision of hashes
    costs time and never truth. Longer strings go to the Counter `long`.
    """
    KEEP = np.frombuffer(b"".join(b"\xff" * n + bytes(16 - n) for n in range(16)), np.uint64).reshape(16, 2).T.copy()
    LENGTH = np.frombuffer(b"".join(bytes(15) + bytes([n]) for n in range(16)), np.uint64)[1::2].copy()

    def __init__(self, bits=16):
        self.bits, self.n_used, self.long = bits, 0, Counter()
        self.key1, self.key2 = np.zeros((2, 1 << bits), np.uint64)   # key2 holds the length, so 0 is a free slot
        self.count = np.zeros(1 << bits, np.int64)

    def add_slices(self, text, starts, ends, counts):
        """Count text[start:end] for all starts and ends, counts (n,) int64 times each."""
        length = ends - starts
        short, long = length <= 15, np.flatnonzero(length > 15)
        for start, end, count in zip(starts[long].tolist(), ends[long].tolist(), counts[long].tolist()):
            self.long[text[start:end]] += count
        starts, length = starts[short], length[short]
        windows = np.ndarray(len(text) + 1, "V16", text + bytes(16), strides=1)      # the 16 bytes from each place on
        key1, key2 = windows[starts].view(np.uint64).reshape(-1, 2).T
        self.add(key1 & self.KEEP[0].take(length), key2 & self.KEEP[1].take(length) | self.LENGTH.take(length),
                 counts[short])

    def add(self, key1, key2, counts):
        slot = self.first_slot(key1, key2)
        while len(slot):
            found = (self.key1.take(slot) == key1) & (self.key2.take(slot) == key2)
            np.add.at(self.count, slot[found], counts[found])
            missed = np.flatnonzero(~found)
            key1, key2, counts, slot = key1[missed], key2[missed], counts[missed], slot[missed]
            if 3 * (self.n_used + len(slot)) > len(self.count):      # keep two thirds free, else the tries get many
                self.make_room(len(slot))
                slot = self.first_slot(key1, key2)
                continue
            free = self.key2[slot] == 0
            claimed = slot[free]
            self.key1[claimed], self.key2[claimed] = key1[free], key2[free]          # the last of many gets the slot
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
    """Count the segments in blocks of documents; where no cuts are certain, the chunks at once, in a Counter of str."""
    rules, split = CUT_RULES.get(pattern), splitter(pattern)
    for block in blocks:
        if rules is None:
            chunks.update(chain.from_iterable(split(text.decode()) for text in block.split(END)))
        else:
            starts, ends = find_segments(block, rules)
            segments.add_slices(block, starts, ends, np.ones(len(starts), np.int64))


def count_elsewhere(blocks, pattern):
    """count_blocks in another process -> what it has counted."""
    segments, chunks = ByteStrings(bits=19), Counter()
    count_blocks(blocks, pattern, segments, chunks)
    return segments.items(), segments.long, chunks


def read_blocks(texts, pattern, update):
    """Texts as bytes, each followed by END, in blocks of about BLOCK_BYTES; long texts are cut before some space."""
    parts, size, total, place = [], 0, 0, re.compile(rb"[A-Za-z](?= )")
    for text in texts:
        try:
            data = text.encode()
        except UnicodeEncodeError:                                   # tiktoken's rule for lone surrogates
            data = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        start, end = 0, None
        while end != len(data):
            long = pattern in CUT_RULES and len(data) - start > 2 * BLOCK_BYTES
            cut = place.search(data, start + BLOCK_BYTES) if long else None
            end = cut.end() if cut else len(data)
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


def count_chunks(texts, pattern, processes, update):
    """Split the texts by the pattern and count the distinct chunks -> symbols int32, weights uint32, both (n,).

    symbols: the bytes of all chunks, SEP before, between and behind them; weights: how often the chunk occurs.
    """
    segments, chunks, split, running = ByteStrings(), Counter(), splitter(pattern), deque()

    def take_result(job):
        keys_and_counts, long, others = job.result()
        segments.add(*keys_and_counts)
        segments.long.update(long)
        chunks.update(others)

    def split_segments(counted):
        for segment, count in counted:
            for chunk in split(segment.decode()):
                chunks[chunk] += count

    blocks = read_blocks(texts, pattern, update)
    start_method = "fork" if sys.platform == "linux" else "spawn"    # macOS forks unsafely, Windows not at all
    with ProcessPoolExecutor(max(1, processes - 1), get_context(start_method)) as pool:
        while job := list(islice(blocks, JOB_BLOCKS)):
            if running and running[0].done():
                take_result(running.popleft())
            if len(running) < 2 * (processes - 1) and len(job) == JOB_BLOCKS:
                running.append(pool.submit(count_elsewhere, job, pattern))
            else:                                                    # the others have enough to do, or there are none
                count_blocks(job, pattern, segments, chunks)
            if len(segments.long) > 100_000:                         # Chinese, say: a sentence holds no certain cut
                split_segments(segments.long.items())
                segments.long.clear()
        while running:
            take_result(running.popleft())

    used = np.flatnonzero(segments.count)
    rows = np.stack((segments.key1[used], segments.key2[used]), 1).view(np.uint8)    # (n, 16): bytes, 0s, the length
    n_letters = np.frombuffer(rows.tobytes().translate(IS_LETTER), np.uint8).reshape(-1, 16).sum(1)
    is_other = n_letters + (rows[:, 0] == 32) != rows[:, 15]         # all but " word" and "word", chunks as they are
    other, counts = rows[is_other].tobytes(), segments.count[used[is_other]].tolist()
    split_segments((other[16 * i:16 * i + other[16 * i + 15]], count) for i, count in enumerate(counts))
    split_segments(segments.long.items())
    segments.long.clear()
    segments.count[used[is_other]] = 0                               # from here on `segments` holds chunks
    encoded = [chunk.encode() for chunk in chunks]
    ends = np.cumsum([0] + [len(chunk) for chunk in encoded])
    segments.add_slices(b"".join(encoded), ends[:-1], ends[1:], np.array(list(chunks.values()), np.int64))
    return lay_out(*segments.items(), segments.long)


def lay_out(key1, key2, count, long):
    """Counted byte strings, the short ones as keys -> symbols, weights: see count_chunks."""
    rows = np.stack((key1, key2), 1).view(np.uint8)
    order = np.argsort(rows.view(">u8")[:, 0].astype(np.uint64))     # by their first 8 bytes: then merges touch memory
    rows, count = rows[order], count[order]                          # that lies together, a fifth of their time less
    lengths = np.concatenate(([0], rows[:, 15], [*map(len, long)]), dtype=np.int64, casting="unsafe") + 1
    counts = np.concatenate(([0], count, [*long.values()]), dtype=np.int64, casting="unsafe")
    text = b"\0" + rows[np.arange(16) <= rows[:, 15:]].tobytes() + b"".join(string + b"\0" for string in long)
    if len(text) >= 2**31 or counts.max() >= 2**32:
        raise ValueError(f"{len(text):,} bytes of distinct chunks, the commonest {counts.max():,} times: more than the "
                         f"2**31 bytes and 2**32 times that can be counted. Read less: --max_chars")
    symbols = np.frombuffer(text, np.uint8).astype(np.int32)
    symbols[np.cumsum(lengths) - 1] = SEP
    return symbols, np.repeat(counts.astype(np.uint32), lengths)

# ---------------------------------------------------------------------------------------------------------------------
# Merging many pairs at a time, and still greedily.
#
# Take the best pairs in greedy order as one batch, but skip a pair whose left token is the right token of a member or
# the other way round: only such pairs can overlap in the text, so members leave each other's counts alone. Two things
# can still come between them: a new pair that an earlier member creates, and a pair that was skipped. The batch is cut
# before the first member that one of these would have beaten. About 20 merges are left in a batch, so numpy is called
# a thousand times less than with one merge at a time.
#
# A token covers some places of `symbols` and has its id in the first and the last of them. The next token begins behind
# its last place, the one before it ends before its first: no list of links is needed. Pairs have numbers: pair_at[i] is
# the pair of the token that begins at i and the next one, and places[pair] lists where a pair occurs. It is made once,
# when the pair comes into being, for a pair only ever gets rarer; a place that is gone shows in pair_at. Pairs that
# occur less than `floor` times are too many to follow and hardly ever merged. Should the best pair be as rare as that,
# the text is indexed anew with a lower floor, each token now in a single place.

SEP, NO_PAIR, INSIDE = -1, -1, -2   # SEP: in symbols. In pair_at: no pair that we follow; no token begins here
MAX_TOKENS = 65535                  # so that a pair of ids fits 32 bits, and SEP is none of them


def group(keys, values):
    """Group by sorting; int64 (n,), 0 to 2**32 - 1 -> distinct keys uint64, start of each group, values by group."""
    packed = keys << 32
    packed |= values
    packed = packed.view(np.uint64)
    packed.sort()                                                    # one plain sort, many times faster than np.unique
    values = packed.astype(np.uint32)                                # its lower half
    packed >>= 32
    starts = np.flatnonzero(np.concatenate(([True], packed[1:] != packed[:-1]))[:len(packed)])
    return packed[starts], starts, values


def index_pairs(symbols, weights, floor):
    """-> scores uint64 (n,) of the pairs that occur at least floor times; places, n arrays; pair_at int32 like symbols.

    A pair's score is count << 32 | ~(left << 16 | right): greedy BPE always merges the pair with the largest score.
    """
    at = np.flatnonzero((symbols[:-1] != SEP) & (symbols[1:] != SEP))
    keys, starts, at = group(symbols[at].astype(np.int64) << 16 | symbols[at + 1], at)
    sizes = np.diff(starts, append=len(at))
    counts = np.add.reduceat(weights[at], starts, dtype=np.uint64)
    if counts.max(initial=0) >= 2**32:
        raise ValueError(f"a pair of bytes occurs {counts.max():,} times, more than 2**32. Read less: --max_chars")
    kept = np.flatnonzero(counts >= floor)
    number = np.full(len(keys), NO_PAIR, np.int32)
    number[kept] = np.arange(len(kept))
    pair_at = np.full(len(symbols), NO_PAIR, np.int32)
    pair_at[at] = np.repeat(number, sizes)
    places = [at[start:start + size] for start, size in zip(starts[kept].tolist(), sizes[kept].tolist())]
    return counts[kept] << 32 | keys[kept] ^ 0xFFFFFFFF, places, pair_at


def choose_batch(scores, candidates, size):
    """Pairs, best first -> a batch without overlaps; the skipped pairs, and how many of the batch go before each."""
    batch, skipped, n_before, lefts, rights = [], [], [], set(), set()
    for pair, score in zip(candidates.tolist(), scores[candidates].tolist()):
        left, right = ~score >> 16 & 0xFFFF, ~score & 0xFFFF
        if left in rights or right in lefts or left == right and batch:
            skipped.append(pair)
            n_before.append(len(batch))
        else:
            batch.append(pair)
            lefts.add(left)
            rights.add(right)
            if left == right or len(batch) == size:                  # equals go alone: they overlap with themselves
                break
    return np.array(batch), np.array(skipped, np.int64), np.array(n_before, np.int64)


def every_other(at, width):
    """The occurrences of a pair of equals that are merged, from left to right: a a a a a -> (a a) (a a) a."""
    at, i = np.sort(at), np.arange(len(at))
    starts_run = np.concatenate(([True], np.diff(at) != width))
    return at[(i - np.maximum.accumulate(np.where(starts_run, i, 0))) % 2 == 0]


def merge_chunks(symbols, weights, n_merges, update):
    """Greedy BPE on counted chunks (see count_chunks) -> up to n_merges pairs (left id, right id) in order."""
    merges = []
    floor = max(1, int(weights.sum(dtype=np.int64)) // max(1, n_merges) // 16)
    while len(merges) < n_merges and floor:
        scores, places, pair_at = index_pairs(symbols, weights, floor)
        width = np.ones(256 + n_merges + 1, np.int64)                # places that a token covers; for SEP, the last: 1
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
            left, right = (~best >> 16 & 0xFFFF).astype(np.int64), (~best & 0xFFFF).astype(np.int64)
            width[first_id:first_id + len(batch)] = width[left] + width[right]

            # ---- find the n occurrences of its members, member by member, and merge them ----
            at = np.concatenate([places[pair] for pair in batch], dtype=np.int64)
            sizes = [len(places[pair]) for pair in batch]
            there = np.flatnonzero(pair_at[at] == np.repeat(batch, sizes))           # the others have been merged away
            at, member = at[there], np.repeat(np.arange(len(batch)), sizes)[there]
            if left[0] == right[0]:
                at = every_other(at, width[left[0]])
                member = member[:len(at)]
            n, new, weight = len(at), first_id + member, weights[at].astype(np.uint64) << 32
            second = at + width[left][member]                        # where the right token begins
            end = second + width[right][member]
            symbols[at] = symbols[end - 1] = new

            # ---- see the neighbours as they are when member i is merged: members k > i are not merged yet ----
            before, after = symbols[at - 1].astype(np.int64), symbols[end].astype(np.int64)
            k_before, k_after = before - first_id, after - first_id  # whose token the neighbour is; < 0: of no member
            before_later, after_later = k_before > member, k_after > member
            before[before_later] = right[k_before[before_later]]
            after[after_later] = left[k_after[after_later]]
            before_at = at - width[before]

            # ---- group the new pairs: entry i is (before, new) of occurrence i, entry n + i is its (new, after) ----
            has_before = np.flatnonzero((before != SEP) & (k_before != member))      # else it is entry n + i of another
            has_after = np.flatnonzero(after != SEP)
            keys, starts, entries = group(np.concatenate((before[has_before] << 16 | new[has_before],
                                                          new[has_after] << 16 | after[has_after])),
                                          np.concatenate((has_before, n + has_after)))
            weight, member = np.tile(weight, 2), np.tile(member, 2)  # by entry from here on
            created = np.add.reduceat(weight[entries], starts) | keys ^ 0xFFFFFFFF   # scores of the new pairs, and ...
            creator = member[entries[starts]]                                        # ... the members who made them

            # ---- cut the batch before the first member that a new pair or a skipped one would have beaten ----
            cut, strong = len(batch), np.flatnonzero(created > best[-1])
            if len(strong):
                beaten = np.maximum(creator[strong] + 1, np.searchsorted(~best, ~created[strong]))
                cut = min(cut, int(beaten.min()))
            lost = np.concatenate((pair_at[before_at], pair_at[second]))             # the pairs that entries replace
            if len(skipped):
                is_lost = (lost >= 0) & np.append(k_before < 0, np.full(n, True))    # merged: it was `second` there
                hit = np.flatnonzero(is_lost & (scores[lost] > best[-1]))            # skipped pairs that get rarer
                order = np.argsort(skipped)
                row = order[np.searchsorted(skipped, lost[hit], sorter=order)]
                taken = np.zeros((len(skipped), len(batch)), np.uint64)
                np.add.at(taken, (row, member[hit]), weight[hit])
                score_then = scores[skipped][:, None] - (taken.cumsum(1) - taken)    # at member j's turn
                beaten = ((score_then > best) & (np.arange(len(batch)) >= n_before[:, None])).any(0)
                cut = min(cut, int(beaten.argmax())) if beaten.any() else cut
            done = int(np.searchsorted(member[:n], cut))             # undo the occurrences from here on
            symbols[at[done:]] = left[member[done:n]]
            symbols[end[done:] - 1] = right[member[done:n]]
            batch_size = min(256, max(8, cut + cut // 2)) if len(batch) > 1 else batch_size

            # ---- lower the counts of the lost pairs, enter the new ones ----
            is_lost = (lost >= 0) & (member < cut) & np.append((k_before < 0) | (k_before >= cut), np.full(n, True))
            np.subtract.at(scores, lost[is_lost], weight[is_lost])
            scores[batch[:cut]] = 0
            followed = np.flatnonzero((creator < cut) & (created >= lowest))
            number, sizes = np.full(len(created), NO_PAIR, np.int32), np.diff(starts, append=len(entries))
            number[followed] = len(places) + np.arange(len(followed))
            new_pair = np.full(2 * n, NO_PAIR, np.int32)             # by entry
            new_pair[entries] = np.repeat(number, sizes)
            where = np.append(before_at, at).astype(np.uint32)[entries]
            for start, size in zip(starts[followed].tolist(), sizes[followed].tolist()):
                places.append(where[start:start + size])
            if len(places) > len(scores):
                scores = np.append(scores, np.zeros(len(places), np.uint64))         # zeros: room to grow
            scores[number[followed]] = created[followed]
            brief = np.append(before_later & (k_before < cut), after_later & (k_after < cut))
            was = np.flatnonzero(brief & (new_pair >= 0))            # pairs that a later member has destroyed again
            np.subtract.at(scores, new_pair[was], weight[was])
            pair_at[at[:done]] = new_pair[n:n + done]
            stays = np.flatnonzero((k_before != member[:n]) & ~brief[:n] & (member[:n] < cut))
            pair_at[before_at[stays]] = new_pair[stays]
            pair_at[second[:done]] = INSIDE
            merges += zip(left[:cut].tolist(), right[:cut].tolist())
            for pair in batch[:cut].tolist():
                places[pair] = None
            update(len(merges))
        symbols, weights = symbols[pair_at != INSIDE], weights[pair_at != INSIDE]
    return merges

# ---------------------------------------------------------------------------------------------------------------------
# Files

def save_tokenizer(path, merges, tok, trained_on):
    """Write merges.tiktoken, of which tok was made, and tokenizer.json as a folder that is replaced as a whole."""
    from common import finish_replace, replace_folder, write_synced
    info = {"pattern": tok.pattern, "special_tokens": list(tok.specials), "vocab_size": tok.vocab_size,
            "trained_on": trained_on, "fingerprint": tok.fingerprint}
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


def token_parts(token, ranks):
    """The two tokens that `token` was merged from: merge its bytes as far as by the tokens before it."""
    parts = [token[i:i + 1] for i in range(len(token))]
    while len(parts) > 2:
        i = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], len(ranks)))
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts


def byte_letters():
    """GPT-2's spelling of bytes, which Hugging Face kept: byte -> a printable letter, itself where it is one."""
    letters = {byte: chr(byte) for byte in [*range(33, 127), *range(161, 173), *range(174, 256)]}
    return letters | {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in letters)}


def hf_tokenizer_json(tokens, pattern, special_tokens):
    """-> dict, the same tokenizer as the content of a Hugging Face tokenizer.json."""
    letters, ranks = byte_letters(), {token: rank for rank, token in enumerate(tokens)}

    def spell(token):
        return "".join(letters[byte] for byte in token)

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
            "added_tokens": [{"id": i, "content": name} | flags for i, name in enumerate(special_tokens, len(tokens))],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {spell(token): rank for token, rank in ranks.items()},
                      "merges": [[spell(part) for part in token_parts(token, ranks)] for token in tokens[256:]]}}

# ---------------------------------------------------------------------------------------------------------------------
# Main: train, save, report

@dataclass
class Config:
    data: tuple = ()             # text, files or folders; none: downloads on a GPU, else (or with "demo") Python's own
    mixture: str = "spelling_bee:3000,arithmetic:3000,python_questions,identity"  # without --data: conversations, too
    out: str = "out"             # the tokenizer goes to the folder OUT/tokenizer
    vocab_size: int = 0          # tokens, the nine special ones included; 0: 1536 for the demo, else by the text's size
    pattern: str = "default"     # how text is split: default, llama3, qwen2, gpt2, or a regular expression of your own
    max_chars: int = 0           # stop after so many characters; 0 reads everything
    doc_cap: int = 0             # take only so many characters of each document; 0 takes all
    processes: int = 0           # how many processes count chunks; 0: one a core


OTHER_SCRIPTS = """Привет, как дела? Сегодня мы пойдём в библиотеку, чтобы вернуть книги. Καλημέρα, τι κάνεις σήμερα;
今天天气很好，我们去公园散步吧。東京は日本の首都であり、人口の多い都市の一つです。안녕하세요, 만나서 반갑습니다. Crème brûlée,
السلام عليكم، كيف حالك اليوم؟ שלום, מה שלומך היום? नमस्ते, आप कैसे हैं? สวัสดีครับ วันนี้อากาศดีมาก naïve Ωmega 🙂🚀
"""


def training_texts(cfg, seen):
    """The documents to train on, within max_chars and doc_cap; counts them in the dict `seen`."""
    from data import python_corpus, sources, text
    conversations = () if cfg.data or not cfg.mixture else sources.conversations(cfg.mixture, "train")
    contents = (message["content"] for conversation in conversations for message in conversation["messages"])
    spoken = (part["text"] for content in contents
              for part in ([{"text": content}] if isinstance(content, str) else content))
    texts = text.read_documents(cfg.data, "train") if cfg.data else chain(python_corpus.documents("train"), spoken)
    for document in texts:
        document = document[:cfg.doc_cap or None]
        document = document[:cfg.max_chars - seen["characters"]] if cfg.max_chars else document
        seen["documents"] += 1
        seen["characters"] += len(document)
        yield document
        if seen["characters"] == cfg.max_chars:
            break


def cached_encodings():
    """GPT-2's and GPT-4's encodings where tiktoken has their files already; nothing is downloaded."""
    import tiktoken
    files = {"gpt2": ("gpt-2/encodings/main/vocab.bpe", "gpt-2/encodings/main/encoder.json"),
             "cl100k_base": ("encodings/cl100k_base.tiktoken",)}
    cache = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    cache, url = Path(cache or tempfile.gettempdir() + "/data-gym-cache"), "https://openaipublic.blob.core.windows.net/"
    return {name: tiktoken.get_encoding(name) for name, needed in files.items()
            if all((cache / hashlib.sha1((url + file).encode()).hexdigest()).exists() for file in needed)}


def report(tok, tokens, cfg):
    """Print bytes per token on text not trained on, and a look at the vocabulary; ValueError if a text gets altered."""
    from data import python_corpus, text
    if cfg.data:
        from pydoc_data.topics import topics
        samples = {"your held-out text": text.read_documents(cfg.data, "val"), "English prose": topics.values(),
                   "Python code": (Path(module.__file__).read_text("utf-8") for module in (os, json, shutil, tempfile))}
    else:
        samples = {"held-out prose": python_corpus.documents("val", code=0),
                   "held-out code": python_corpus.documents("val", prose=0)}
    numbers = " ".join(str(7 ** i % 10 ** (i % 9 + 1)) for i in range(500))
    samples |= {"other scripts": [OTHER_SCRIPTS], "numbers": [numbers]}
    encodings = {"ours": tok.enc} | cached_encodings()
    print("\nbytes per token     " + "".join(f"{name:>14}" for name in encodings))
    for kind, texts in samples.items():
        sample = "\n\n".join(islice(texts, 500))[:1_000_000]
        if tok.decode(tok.encode(sample)) != sample:
            raise ValueError(f"{kind} comes back changed: --pattern {cfg.pattern!r} does not match every character")
        lengths = [len(encoding.encode_ordinary(sample)) for encoding in encodings.values()]
        print(f"{kind:<20}" + "".join(f"{len(sample.encode()) / max(1, length):14.2f}" for length in lengths))
    for what, some in [("first merges", tokens[256:270]), ("last merges", tokens[256:][-14:]),
                       ("longest", sorted(tokens, key=len)[-6:])]:
        print(f"{what:<16}" + " ".join(repr(token.decode(errors="replace")) for token in some))


def main():
    import torch                                                     # train_bpe does without
    from common import SPECIAL_TOKENS, Tokenizer, parse_config
    from data.sources import choose_documents
    from data.text import list_files
    cfg = parse_config(Config, __doc__)
    paths = choose_documents(cfg.data, torch.cuda.is_available())
    if paths and not cfg.data:
        cfg.max_chars = cfg.max_chars or 10**9                       # more changes hardly a token (guess)
    cfg.data, growth = paths, {".parquet": 2.5, ".gz": 2.5, ".xz": 3.5}              # of a file when it is read: guess
    size = sum(file.stat().st_size * growth.get(file.suffix, 1) for file in list_files(paths)) if paths else 0
    size = min(size, cfg.max_chars or size)
    if not cfg.vocab_size:                                           # small models learn to spell few tokens: LOG.md
        cfg.vocab_size = 1536 if not paths else 4096 if size < 50e6 else 16384 if size < 1e9 else 32768
        source = f"about {size / 1e6:,.1f} MB of text" if paths else "the embedded text"
        print(f"vocabulary {cfg.vocab_size} (--vocab_size), for {source}")
    n_tokens, start = cfg.vocab_size - len(SPECIAL_TOKENS), time.monotonic()
    if not 256 <= n_tokens <= 65536 - len(SPECIAL_TOKENS):
        raise ValueError(f"--vocab_size {cfg.vocab_size}: choose from {256 + len(SPECIAL_TOKENS)}, the bytes and the "
                         f"special tokens, to 65536, for ids of 16 bits")
    pattern, seen = PATTERNS.get(cfg.pattern, cfg.pattern), {"documents": 0, "characters": 0}
    if pattern not in CUT_RULES:
        print("note       where this pattern surely cuts is not known: the regex reads all text, several times slower")
    path = Path(cfg.out, "tokenizer")
    path.parent.mkdir(parents=True, exist_ok=True)                   # fails now, not after the work
    tokens = train_bpe(training_texts(cfg, seen), n_tokens, pattern, cfg.processes, sys.stderr.isatty(), size / 1e6)
    if not seen["characters"]:
        raise ValueError(f"no text to train on in {' '.join(cfg.data)}")
    print(f"trained    {len(tokens):,} tokens on {seen['documents']:,} documents of {seen['characters']:,} characters "
          f"in {time.monotonic() - start:.1f} s; {len(SPECIAL_TOKENS)} special tokens follow them")
    if len(tokens) < n_tokens:
        print(f"note       fewer than --vocab_size {cfg.vocab_size} asked for: the text has no more pairs to merge")
    sources = list(cfg.data) or [f"standard library of Python {sys.version_info[0]}.{sys.version_info[1]}", cfg.mixture]
    merges = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    tok = Tokenizer(merges, pattern)
    report(tok, tokens, cfg)
    save_tokenizer(path, merges, tok, {"sources": sources, **seen})
    print(f"done       {path}. Next: python pretrain.py")


if __name__ == "__main__":
    from common import run
    run(main)
