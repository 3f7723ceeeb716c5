"""
The fast BPE trainer. train_bpe_by_definition in tokenizer.py says in twenty lines what it does;
this file makes the same tokens with numpy, on a large text a thousand times faster. It has two
parts, and each begins with its ideas:

count_chunks   texts -> the distinct chunks that the split pattern makes of them, and their counts
merge_chunks   chunks and counts -> the pairs to merge, in order

The processes that help to count import this file alone, so it must not import torch.
"""
import re
import sys
from collections import Counter, deque
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context

import numpy as np
import regex

# In the array `symbols`, this stands between two chunks.
SEP = -1
# Ids fit into 16 bits, so that a pair of ids fits into 32, and none of them looks like SEP there.
MAX_TOKENS = 65535

# --------------------------------------------------------------------------------------------------
# Counting chunks: the ideas.
#
# Text repeats the same words again and again, and a regex is slow. So the regex gets to see each
# of them only once:
#   1. find_segments cuts text in places where a chunk ends whatever else stands around, between a
#      letter and a comma for example. It looks at two or three bytes and needs no regex.
#   2. ByteStrings counts the segments. In 131 MB of prose 3 % of them are distinct.
#   3. The regex splits each distinct segment, and its chunks count as often as the segment did.
#
# A cut is certain under two conditions. No alternative of the pattern matches across it. And the
# text before the cut is split in the same way when the text ends there; only white space can break
# this, because of the lookahead in \s+(?!\S).
#
# Most rules are about ASCII. Of the bytes above 127 they use those that can begin a character but
# never a white space; the white space beyond ASCII begins with C2, E1, E2 or E3.
# tests/test_bpe.py attacks the rules. CUT_RULES in tokenizer.py says which of the rules 0 to 4
# hold for a pattern, with bit k for rule k; the rules 5 to 7 hold for all of its patterns.

ASCII = set(range(128))
LETTER = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
DIGIT = set(b"0123456789")
VISIBLE = set(range(33, 127))
PUNCT = VISIBLE - LETTER - DIGIT
SPACE = {32}
NEWLINE = {10, 13}
NONSPACE = VISIBLE | (set(range(0xC3, 0xF5)) - {0xE1, 0xE2, 0xE3})

# Each rule: a byte of the first set, and behind it one of the second. Unless a rule says
# otherwise, the cut is between the two.
CERTAIN_CUTS = [
    # 0: After a letter, only letters go on with the same chunk.
    (LETTER, ASCII - LETTER),
    # 1: After a digit, only digits do.
    (DIGIT, ASCII - DIGIT),
    # 2: A digit after something visible begins a chunk. Don't cut after spaces: in "a  5" each of
    # them is a chunk, but if the text ended there, the two would be one.
    (VISIBLE - DIGIT, DIGIT),
    # 3: No alternative has a space after something visible.
    (VISIBLE, SPACE),
    # 4: A newline ends a run of white space. Not with GPT-2's pattern: it makes three chunks of
    # "\n\na", and "\n\n" alone is one.
    (NEWLINE, NONSPACE),
    # 5: Cut before the space: it goes with what follows it.
    (SPACE, NONSPACE),
    # 6 and 7: If two bytes fit rule 6, and the second of them and a third byte fit rule 7, then
    # cut between the second and the third: "((a" is "((" and "a", but "(a" is a single chunk.
    (SPACE | PUNCT, PUNCT),
    (PUNCT, LETTER),
]


def rules_of_bytes(side):
    """byte -> the rules that it fits as the first (side 0) or second (1), bit k for rule k."""
    return bytes(sum((byte in rule[side]) << k for k, rule in enumerate(CERTAIN_CUTS))
                 for byte in range(256))


FIRST = rules_of_bytes(0)
SECOND = rules_of_bytes(1)
IS_LETTER = bytes(byte in LETTER for byte in range(256))
# This byte follows each document. UTF-8 never uses it.
END = b"\xff"
# Work on so much text at a time: the arrays about it then stay in the processor's cache.
BLOCK_BYTES = 1 << 18
# Blocks that another process is given at a time.
JOB_BLOCKS = 32


def to_utf8(text):
    """Encode as tiktoken does: two surrogates make a character, and a lone one becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def cut_long(data, rules):
    """Yield a document in pieces of about BLOCK_BYTES, if it is much longer than that."""
    start = 0
    if rules is not None:
        # Between a letter and a space there is a certain cut.
        letter_before_space = re.compile(rb"[A-Za-z](?= )")
        while len(data) - start > 2 * BLOCK_BYTES:
            found = letter_before_space.search(data, start + BLOCK_BYTES)
            if not found:
                break
            yield data[start:found.end()]
            start = found.end()
    yield data[start:]


def read_blocks(texts, rules, update):
    """Yield the texts as bytes, each followed by END, in blocks of about BLOCK_BYTES.

    update is called with the MB that have been read.
    """
    parts = []
    size = 0
    total = 0
    for text in texts:
        for part in cut_long(to_utf8(text), rules):
            parts.append(part)
            size += len(part)
            if size >= BLOCK_BYTES:
                yield END.join(parts) + END
                total += size
                update(total / 1e6)
                parts = []
                size = 0
    if parts:
        yield END.join(parts) + END


def find_segments(block, rules):
    """Cut documents, each followed by END, in all certain places.

    block: bytes. rules: which of the rules 0 to 4 hold, bit k for rule k.
    Returns starts and ends of the segments in the block, int64 (n,) each.
    """
    # Bit k of fits[i] says that the bytes i and i + 1 fit rule k.
    first = np.frombuffer(block.translate(FIRST), np.uint8)
    second = np.frombuffer(block.translate(SECOND), np.uint8)
    fits = first[:-1] & second[1:]

    # cut[i] says that we cut between the bytes i and i + 1. Rules 0 to 4, then 5, then 6 and 7:
    cut = (fits & rules) != 0
    cut[:-1] |= (fits[1:] & (1 << 5)) != 0
    cut[1:] |= ((fits[:-1] >> 6) & (fits[1:] >> 7)) != 0

    # Each END becomes a segment of its own, and is then left out.
    is_end = np.frombuffer(block, np.uint8) == END[0]
    cut |= is_end[:-1] | is_end[1:]
    ends = np.flatnonzero(cut) + 1
    starts = np.concatenate(([0], ends))[:-1]
    is_text = ~is_end[starts]
    return starts[is_text], ends[is_text]


class ByteStrings:
    """A hash table in numpy that counts short byte strings, thousands of them in one call.

    A string of up to 15 bytes is its own key: 16 bytes, which are the string, zeros, and in the
    last byte the length. They are kept as two uint64, key1 and key2. Since the table compares
    whole keys, a collision of hashes costs time, but never makes a count wrong.
    Longer strings are rare and go to the Counter `long`.
    """
    # KEEP[0][n] and KEEP[1][n] keep the first n of 16 bytes and clear the others; LENGTH[n] has n
    # in the last byte of key2. Made from bytes, they are right on machines of either byte order.
    KEEP = np.frombuffer(b"".join(b"\xff" * n + bytes(16 - n) for n in range(16)),
                         np.uint64).reshape(16, 2).T.copy()
    LENGTH = np.frombuffer(b"".join(bytes(15) + bytes([n]) for n in range(16)),
                           np.uint64)[1::2].copy()

    def __init__(self, bits=16):
        self.long = Counter()
        self.allocate(bits)

    def allocate(self, bits):
        """Begin with 2**bits free slots."""
        self.bits = bits
        self.n_used = 0
        # No string is empty, so key2, which holds the length, is 0 only in a free slot.
        self.key1, self.key2 = np.zeros((2, 1 << bits), np.uint64)
        self.count = np.zeros(1 << bits, np.int64)

    def add_slices(self, text, starts, ends, counts):
        """Count text[start:end] for all starts and ends, counts (n,) int64 times each."""
        length = ends - starts
        long = np.flatnonzero(length > 15)
        for start, end, count in zip(starts[long].tolist(), ends[long].tolist(),
                                     counts[long].tolist()):
            self.long[text[start:end]] += count

        short = length <= 15
        length = length[short]
        # windows[i] is the 16 bytes from place i on, without a copy.
        windows = np.ndarray(len(text) + 1, "V16", text + bytes(16), strides=1)
        key1, key2 = windows[starts[short]].view(np.uint64).reshape(-1, 2).T
        key1 = key1 & self.KEEP[0].take(length)
        key2 = key2 & self.KEEP[1].take(length) | self.LENGTH.take(length)
        self.add(key1, key2, counts[short])

    def add(self, key1, key2, counts):
        """Count keys, counts (n,) int64 times each.

        Open addressing with linear probing, all keys at once: in each round every key that is left
        looks at one slot. It has found itself there, or takes the slot because it is free, or goes
        on to the next slot because another key lives there.
        """
        slot = self.first_slot(key1, key2)
        while len(slot):
            found = (self.key1.take(slot) == key1) & (self.key2.take(slot) == key2)
            np.add.at(self.count, slot[found], counts[found])

            missed = np.flatnonzero(~found)
            key1, key2, counts, slot = key1[missed], key2[missed], counts[missed], slot[missed]
            # Keep two thirds of the slots free: with fewer, some keys need many rounds.
            if 3 * (self.n_used + len(slot)) > len(self.count):
                self.make_room(len(slot))
                slot = self.first_slot(key1, key2)
                continue

            free = self.key2[slot] == 0
            claimed = slot[free]
            # Where several keys claim a slot, the last one gets it; the next round shows which.
            self.key1[claimed] = key1[free]
            self.key2[claimed] = key2[free]
            # An upper bound, as a slot may be claimed more than once. make_room counts exactly.
            self.n_used += len(claimed)
            slot[~free] = (slot[~free] + 1) & (len(self.count) - 1)

    def first_slot(self, key1, key2):
        """Where the search for a key begins: the highest bits of a hash of it."""
        product = key1 * 0x9E3779B97F4A7C15 + key2 * 0xC2B2AE3D27D4EB4F
        return (product >> (64 - self.bits)).astype(np.int64)

    def make_room(self, n):
        """Count the slots in use; if n more are too many, move to a table four times as large."""
        key1, key2, count = self.items()
        self.n_used = len(count)
        if 3 * (self.n_used + n) > len(self.count):
            self.allocate(self.bits + 2)
            self.add(key1, key2, count)

    def items(self):
        """-> key1, key2 and count of each distinct short string, (n,) each."""
        used = np.flatnonzero(self.count)
        return self.key1[used], self.key2[used], self.count[used]


def count_blocks(blocks, pattern, rules, segments, chunks):
    """Count the segments in blocks of documents, in the ByteStrings `segments`.

    If no certain cuts are known for the pattern (rules is None), then count the chunks themselves,
    in the Counter of str `chunks`.
    """
    split = regex.compile(pattern).findall
    for block in blocks:
        if rules is None:
            chunks.update(chain.from_iterable(split(text.decode()) for text in block.split(END)))
        else:
            starts, ends = find_segments(block, rules)
            segments.add_slices(block, starts, ends, np.ones(len(starts), np.int64))


def count_elsewhere(blocks, pattern, rules):
    """count_blocks in another process -> what it has counted."""
    # 2**19 slots have room for most jobs: a table that grows moves all its keys.
    segments = ByteStrings(bits=19)
    chunks = Counter()
    count_blocks(blocks, pattern, rules, segments, chunks)
    return segments.items(), segments.long, chunks


def split_and_count(counted, pattern, chunks):
    """Split segments by the pattern, and add their chunks to the Counter `chunks`.

    counted: an iterable of (segment, count).
    """
    split = regex.compile(pattern).findall
    for segment, count in counted:
        for chunk in split(segment.decode()):
            chunks[chunk] += count


def count_segments(texts, pattern, rules, processes, update):
    """Count the segments of all texts, here and in other processes.

    Returns the segments, ByteStrings, and a Counter of chunks, for text that was split already.
    """
    segments = ByteStrings()
    chunks = Counter()

    def take_result(job):
        short, long, others = job.result()
        segments.add(*short)
        segments.long.update(long)
        chunks.update(others)

    blocks = read_blocks(texts, rules, update)
    running = deque()
    # A fork starts at once, but macOS can't do it safely and Windows not at all.
    start_method = "fork" if sys.platform == "linux" else "spawn"
    with ProcessPoolExecutor(max(1, processes - 1), get_context(start_method)) as pool:
        while job := list(islice(blocks, JOB_BLOCKS)):
            if running and running[0].done():
                take_result(running.popleft())
            # Keep two jobs a process waiting or running. What is beyond that we count here.
            if len(running) < 2 * (processes - 1) and len(job) == JOB_BLOCKS:
                running.append(pool.submit(count_elsewhere, job, pattern, rules))
            else:
                count_blocks(job, pattern, rules, segments, chunks)
            # In Chinese, for example, a whole sentence has no certain cut, so few segments occur
            # twice. Split what has come together, before it fills the memory.
            if len(segments.long) > 100_000:
                split_and_count(segments.long.items(), pattern, chunks)
                segments.long.clear()
        while running:
            take_result(running.popleft())
    return segments, chunks


def split_segments(segments, chunks, pattern):
    """Replace the segments by their chunks, and add `chunks` to those; all of it in `segments`."""
    used = np.flatnonzero(segments.count)
    # (n,) and (n,) -> (n, 16), the bytes of each key; the last one is the length.
    rows = np.stack((segments.key1[used], segments.key2[used]), 1).view(np.uint8)

    # Most segments are " word" or "word", and such a segment is a chunk as it is.
    n_letters = np.frombuffer(rows.tobytes().translate(IS_LETTER), np.uint8).reshape(-1, 16).sum(1)
    is_word = n_letters + (rows[:, 0] == 32) == rows[:, 15]
    keys = rows[~is_word].tobytes()
    others = (keys[i:i + keys[i + 15]] for i in range(0, len(keys), 16))
    split_and_count(zip(others, segments.count[used[~is_word]].tolist()), pattern, chunks)
    split_and_count(segments.long.items(), pattern, chunks)

    # Take the segments out that were split, and put the chunks in.
    segments.count[used[~is_word]] = 0
    segments.long.clear()
    encoded = [chunk.encode() for chunk in chunks]
    ends = np.cumsum([0] + [len(chunk) for chunk in encoded])
    segments.add_slices(b"".join(encoded), ends[:-1], ends[1:],
                        np.array(list(chunks.values()), np.int64))


def lay_out(key1, key2, count, long):
    """Lay counted chunks out for merging. key1, key2, count, long: as ByteStrings holds them.

    Returns two arrays (n,). symbols, int32: the bytes of all chunks one after the other, with SEP
    before, between and behind them. weights, uint32: how often the chunk of that symbol occurs.
    """
    rows = np.stack((key1, key2), 1).view(np.uint8)
    # Sort by the first 8 bytes. Merges then touch memory that lies together, which takes a fifth
    # off their time.
    order = np.argsort(rows.view(">u8")[:, 0].astype(np.uint64))
    rows, count = rows[order], count[order]
    # One SEP goes to the very front, as the end of an empty string, and one behind each string.
    lengths = np.concatenate(([0], rows[:, 15], [len(string) for string in long]),
                             dtype=np.int64, casting="unsafe") + 1
    counts = np.concatenate(([0], count, list(long.values())), dtype=np.int64, casting="unsafe")
    # Of a short string take one byte more than its length: that byte is where its SEP goes.
    text = (b"\0" + rows[np.arange(16) <= rows[:, 15:]].tobytes()
            + b"".join(string + b"\0" for string in long))
    if len(text) >= 2**31 or counts.max() >= 2**32:
        raise ValueError(f"{len(text):,} bytes of distinct chunks, the commonest "
                         f"{counts.max():,} times: more than the 2**31 bytes and 2**32 times that "
                         f"can be counted. Read less: --max_chars")
    symbols = np.frombuffer(text, np.uint8).astype(np.int32)
    symbols[np.cumsum(lengths) - 1] = SEP
    return symbols, np.repeat(counts.astype(np.uint32), lengths)


def count_chunks(texts, pattern, rules, processes, update):
    """Split the texts by the pattern and count the distinct chunks.

    Returns symbols and weights, see lay_out.
    rules: the rules of CERTAIN_CUTS that hold for the pattern, or None if they are not known.
    update is called with the MB that have been read.
    """
    segments, chunks = count_segments(texts, pattern, rules, processes, update)
    split_segments(segments, chunks, pattern)
    return lay_out(*segments.items(), segments.long)

# --------------------------------------------------------------------------------------------------
# Merging: the ideas.
#
# Greedy BPE merges one pair after the other. With one merge at a time numpy would spend its time
# on calls, not on numbers. So merge_down_to takes the best pairs, in greedy order, as a batch,
# and merges them all at once. Three things could make the result another than one at a time:
#   - Two members overlap in the text, as (a, b) and (b, c) do in "abc". Only pairs can where the
#     left token of one is the right token of the other. choose_batch skips such a pair, so members
#     leave each other's counts alone.
#   - The merge of a member creates a new pair, which is better than a later member.
#   - A pair that was skipped is still better than a later member when that one's turn comes.
# In the last two cases we say that the later member is beaten. The batch is cut before the first
# member that is beaten, and the merges of that one and all behind it are undone. About 20 merges
# of a batch remain, so numpy is called 20 times less often.
#
# A token covers one or more places of `symbols`; its id stands in the first and in the last of
# them. So the next token begins behind the last place, and the token before ends before the first:
# no list of links is needed. For example, when "th" is 256 and "the" is 257:
#       SEP  t   h   e  SEP
#       SEP 256 256  e  SEP     after the merge of (t, h)
#       SEP 257 256 257 SEP     after the merge of (256, e)
#
# Pairs have numbers. pair_at[i] is the pair of the token that begins at place i and the token
# after it. places[pair] lists where the pair occurs. The list is made once, when the pair comes
# into being, since a pair only ever gets rarer; pair_at shows which places still hold.
#
# Most pairs are rare: they are too many to follow, and hardly any of them is ever merged. So we
# follow only pairs that occur at least `floor` times. When the best pair is rarer than that, the
# text is indexed anew with a lower floor, and with each token in a single place.

# In pair_at, in place of a pair: there is none, or none that we follow.
NO_PAIR = -1
# In pair_at: no token begins here.
INSIDE = -2


def group(keys, values):
    """Group values by their keys, with a sort. Both int64 (n,), from 0 to 2**32 - 1.

    Returns the distinct keys in order, uint64 (m,), the start of each one's group (m,), and the
    values, uint32 (n,), group after group, in order within each group.
    """
    # One plain sort of key and value in a single number is many times faster than np.unique.
    packed = keys << 32
    packed |= values
    packed = packed.view(np.uint64)
    packed.sort()
    # The cast keeps the lower half.
    values = packed.astype(np.uint32)
    packed >>= 32
    # The slice is for empty input, which has no first group.
    begins_group = np.concatenate(([True], packed[1:] != packed[:-1]))[:len(packed)]
    starts = np.flatnonzero(begins_group)
    return packed[starts], starts, values


def ids_of(score):
    """The left and the right id of the pair with this score; see index_pairs. Int or array."""
    return ~score >> 16 & 0xFFFF, ~score & 0xFFFF


def index_pairs(symbols, weights, floor):
    """Find the pairs that occur at least floor times, with every token in a single place.

    Returns their scores, uint64 (n,), their places, a list of n arrays, and pair_at, int32 and as
    long as symbols.
    A pair's score is count << 32 | ~(left << 16 | right), the complement in 32 bits. Greedy BPE
    always merges the pair with the largest score: the most frequent one and, of equally frequent
    ones, the one with the smallest ids. No two pairs have the same score.
    """
    at = np.flatnonzero((symbols[:-1] != SEP) & (symbols[1:] != SEP))
    keys, starts, at = group(symbols[at].astype(np.int64) << 16 | symbols[at + 1], at)
    sizes = np.diff(starts, append=len(at))
    counts = np.add.reduceat(weights[at], starts, dtype=np.uint64)
    if counts.max(initial=0) >= 2**32:
        raise ValueError(f"a pair of bytes occurs {counts.max():,} times, more than 2**32. "
                         f"Read less: --max_chars")

    # Give numbers to the pairs that we follow.
    kept = np.flatnonzero(counts >= floor)
    number = np.full(len(keys), NO_PAIR, np.int32)
    number[kept] = np.arange(len(kept))
    pair_at = np.full(len(symbols), NO_PAIR, np.int32)
    pair_at[at] = np.repeat(number, sizes)
    places = [at[start:start + size]
              for start, size in zip(starts[kept].tolist(), sizes[kept].tolist())]
    return counts[kept] << 32 | keys[kept] ^ 0xFFFFFFFF, places, pair_at


def best_pairs(scores, n, threshold, lowest):
    """The n pairs with the largest scores, best first, and the threshold for the next call.

    Only pairs with a score of at least `threshold` are sorted. When they are fewer than n, it is
    lowered, but never below `lowest`, so that about a thousand pairs pass it.
    """
    candidates = np.flatnonzero(scores >= threshold)
    if len(candidates) < n and threshold > lowest:
        threshold = lowest
        if len(scores) > 1024:
            threshold = max(lowest, np.partition(scores, -1024)[-1024])
        candidates = np.flatnonzero(scores >= threshold)
    order = np.argsort(scores[candidates])[::-1]
    return candidates[order[:n]], threshold


def choose_batch(scores, candidates, size):
    """Choose up to `size` pairs that can't overlap. candidates: pairs, best first.

    Returns the batch, best first; the pairs that were skipped on the way; and for each of those
    how many members of the batch go before it.
    """
    batch = []
    skipped = []
    n_before = []
    lefts = set()
    rights = set()
    for pair, score in zip(candidates.tolist(), scores[candidates].tolist()):
        left, right = ids_of(score)
        overlaps = left in rights or right in lefts
        # A pair of equal tokens overlaps with itself: it goes alone, and merge_down_to sees to it.
        is_double = left == right
        if overlaps or (is_double and batch):
            skipped.append(pair)
            n_before.append(len(batch))
            continue
        batch.append(pair)
        lefts.add(left)
        rights.add(right)
        if is_double or len(batch) == size:
            break
    return np.array(batch), np.array(skipped, np.int64), np.array(n_before, np.int64)


def find_occurrences(batch, places, pair_at):
    """Where the pairs of a batch occur now, pair after pair.

    Returns at, int64 (n,), the places where they begin, and member, (n,), which of the batch each
    of them is.
    """
    at = np.concatenate([places[pair] for pair in batch], dtype=np.int64)
    sizes = [len(places[pair]) for pair in batch]
    # Some places no longer hold, since other merges took their tokens.
    there = np.flatnonzero(pair_at[at] == np.repeat(batch, sizes))
    return at[there], np.repeat(np.arange(len(batch)), sizes)[there]


def every_other(at, width):
    """Of the occurrences of a pair of equal tokens, those to merge: a a a a a -> (a a) (a a) a.

    at: where the pair occurs; width: places that its token covers.
    """
    at = np.sort(at)
    # In a run, one occurrence follows the other at the distance of a token.
    begins_run = np.concatenate(([True], np.diff(at) != width))
    i = np.arange(len(at))
    begin_of_run = np.maximum.accumulate(np.where(begins_run, i, 0))
    return at[(i - begin_of_run) % 2 == 0]


def beaten_by_new(best, created, creator):
    """The first member of a batch that a new pair would beat; m if there is none.

    best: the scores of the members, best first, (m,). created: the scores of the new pairs;
    creator: the members whose merges create them.
    """
    strong = np.flatnonzero(created > best[-1])
    # The first member with a smaller score: `best` falls, so its complement rises. But a new pair
    # can beat only members behind its creator.
    smaller = np.searchsorted(~best, ~created[strong])
    beaten = np.maximum(creator[strong] + 1, smaller)
    return int(beaten.min(initial=len(best)))


def beaten_by_skipped(best, scores, skipped, n_before, lost, member, weight):
    """The first member of a batch that a pair skipped before it would beat; m if there is none.

    best: the scores of the members, best first, (m,). skipped, n_before: see choose_batch.
    Skipped pairs get rarer as members are merged: merging member[i] takes weight[i] off the score
    of the pair lost[i].
    """
    # Row r of `taken` is about skipped[r], column j about member j.
    order = np.argsort(skipped)
    row = order[np.searchsorted(skipped, lost, sorter=order)]
    taken = np.zeros((len(skipped), len(best)), np.uint64)
    np.add.at(taken, (row, member), weight)

    # The scores of the skipped pairs when it is member j's turn, after the merges before it.
    score_then = scores[skipped][:, None] - (taken.cumsum(1) - taken)
    is_behind = np.arange(len(best)) >= n_before[:, None]
    beaten = ((score_then > best) & is_behind).any(0)
    return int(beaten.argmax()) if beaten.any() else len(best)


def merge_down_to(floor, symbols, weights, n_merges, merges, update):
    """Merge pairs in `symbols` while the best one occurs at least floor times -> pair_at.

    Appends the pairs to `merges` and stops when that has n_merges of them.
    """
    scores, places, pair_at = index_pairs(symbols, weights, floor)
    # How many places a token covers. The last entry is no token's: width[SEP] reads it.
    width = np.ones(256 + n_merges + 1, np.int64)
    lowest = np.uint64(floor << 32)
    threshold = np.uint64(2**64 - 1)
    batch_size = 16
    while len(merges) < n_merges:
        candidates, threshold = best_pairs(scores, 2 * batch_size, threshold, lowest)
        if not len(candidates):
            break
        batch, skipped, n_before = choose_batch(scores, candidates,
                                                min(batch_size, n_merges - len(merges)))
        # Member k of the batch is the pair (left[k], right[k]) and becomes the token first_id + k.
        best = scores[batch]
        left, right = (ids.astype(np.int64) for ids in ids_of(best))
        first_id = 256 + len(merges)
        width[first_id:first_id + len(batch)] = width[left] + width[right]

        # ---- merge all occurrences of the members ----
        # Occurrence i is of the member member[i]. Its left token begins at the place at[i], its
        # right token at middle[i], and the token after it at end[i].
        at, member = find_occurrences(batch, places, pair_at)
        if left[0] == right[0]:
            at = every_other(at, width[left[0]])
            member = member[:len(at)]
        n = len(at)
        middle = at + width[left][member]
        end = middle + width[right][member]
        new = first_id + member
        symbols[at] = new
        symbols[end - 1] = new

        # ---- see the neighbours as they are when it is the member's turn ----
        # If a neighbour is the new token of a later member, then that one is not merged yet: what
        # stands there is still the right token of its pair (before us) or the left one (after us).
        before = symbols[at - 1].astype(np.int64)
        after = symbols[end].astype(np.int64)
        # The member whose new token the neighbour is; negative if it is an older token.
        k_before = before - first_id
        k_after = after - first_id
        before_later = k_before > member
        after_later = k_after > member
        before[before_later] = right[k_before[before_later]]
        after[after_later] = left[k_after[after_later]]
        before_at = at - width[before]

        # ---- find the pairs that the merges create ----
        # The merge of (left, right) in "before left right after" creates two pairs, which we call
        # entries: entry i is (before, new) of occurrence i, and entry n + i its (new, after).
        # Where two new tokens of the same member stand side by side, their pair is an entry only
        # once, as the (new, after) of the first.
        has_before = np.flatnonzero((before != SEP) & (k_before != member))
        has_after = np.flatnonzero(after != SEP)
        keys, starts, entries = group(np.concatenate((before[has_before] << 16 | new[has_before],
                                                      new[has_after] << 16 | after[has_after])),
                                      np.concatenate((has_before, n + has_after)))
        # Of each entry, (2 n,): its weight as a part of a score, its member, and its place.
        weight = np.tile(weights[at].astype(np.uint64) << 32, 2)
        entry_member = np.tile(member, 2)
        entry_at = np.append(before_at, at).astype(np.uint32)
        # Of each new pair: its score, and the member whose merge creates it.
        created = np.add.reduceat(weight[entries], starts) | keys ^ 0xFFFFFFFF
        creator = entry_member[entries[starts]]

        # ---- find the pairs that are lost ----
        # An entry takes the place of a pair: of (before, left) or of (right, after). If the token
        # before is a new one too, the (right, after) of that occurrence counts the loss. It may
        # count it for a later member than ours; the batch is then cut too early, but not wrongly.
        lost = np.concatenate((pair_at[before_at], pair_at[middle]))
        always = np.full(n, True)
        is_lost = (lost >= 0) & np.append(k_before < 0, always)
        # Of the lost pairs, only skipped ones have scores this large.
        hit = np.flatnonzero(is_lost & (scores[lost] > best[-1]))

        # ---- cut the batch before the first member that is beaten, and undo the rest ----
        cut = min(beaten_by_new(best, created, creator),
                  beaten_by_skipped(best, scores, skipped, n_before, lost[hit], entry_member[hit],
                                    weight[hit]))
        done = int(np.searchsorted(member, cut))
        symbols[at[done:]] = left[member[done:]]
        symbols[end[done:] - 1] = right[member[done:]]
        # The next batch is half as large again as what remained of this one.
        if len(batch) > 1:
            batch_size = min(256, max(8, cut + cut // 2))

        # ---- lower the scores of the lost pairs ----
        # Now the token before is a new one only if its member was not undone.
        is_lost = ((lost >= 0) & (entry_member < cut)
                   & np.append((k_before < 0) | (k_before >= cut), always))
        np.subtract.at(scores, lost[is_lost], weight[is_lost])
        scores[batch[:cut]] = 0

        # ---- enter the new pairs that are frequent enough to be followed ----
        followed = np.flatnonzero((creator < cut) & (created >= lowest))
        number = np.full(len(created), NO_PAIR, np.int32)
        number[followed] = len(places) + np.arange(len(followed))
        sizes = np.diff(starts, append=len(entries))
        where = entry_at[entries]
        for start, size in zip(starts[followed].tolist(), sizes[followed].tolist()):
            places.append(where[start:start + size])
        # Make room for the scores of many new pairs at once: a pair with score 0 is never chosen.
        if len(places) > len(scores):
            scores = np.append(scores, np.zeros(len(places), np.uint64))
        scores[number[followed]] = created[followed]
        # The number of each entry's pair.
        new_pair = np.full(2 * n, NO_PAIR, np.int32)
        new_pair[entries] = np.repeat(number, sizes)

        # ---- a brief pair did not last: its neighbour merged later in the same batch ----
        brief_before = before_later & (k_before < cut)
        brief_after = after_later & (k_after < cut)
        gone = np.flatnonzero(np.append(brief_before, brief_after) & (new_pair >= 0))
        np.subtract.at(scores, new_pair[gone], weight[gone])

        # ---- write down which pair begins where ----
        # First all (new, after); then the (before, new) that lasted, which take the place of brief
        # (new, after).
        pair_at[at[:done]] = new_pair[n:n + done]
        lasting = np.flatnonzero((k_before != member) & ~brief_before & (member < cut))
        pair_at[before_at[lasting]] = new_pair[lasting]
        pair_at[middle[:done]] = INSIDE

        merges += zip(left[:cut].tolist(), right[:cut].tolist())
        for pair in batch[:cut].tolist():
            places[pair] = None
        update(len(merges))
    return pair_at


def merge_chunks(symbols, weights, n_merges, update):
    """Greedy BPE on counted chunks -> up to n_merges pairs (left id, right id), in order.

    symbols, weights: see lay_out; symbols is overwritten. update is called with the number of
    merges so far.
    """
    merges = []
    # With these floors the table of pairs stays small enough to be searched as a whole each time.
    floor = max(1, int(weights.sum(dtype=np.int64)) // max(1, n_merges) // 16)
    while len(merges) < n_merges:
        pair_at = merge_down_to(floor, symbols, weights, n_merges, merges, update)
        # With a floor of 1 every pair was followed: now no pairs are left.
        if floor == 1:
            break
        floor = max(floor // 8, 1)
        begins_token = pair_at != INSIDE
        symbols = symbols[begins_token]
        weights = weights[begins_token]
    return merges
