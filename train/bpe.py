"""
The fast BPE trainer. What it computes is said by train_bpe_by_definition in tokenizer.py; this file
computes the same tokens with numpy, on a large text a thousand times faster. Two functions, in this
order, and before each of them the ideas that it rests on:

count_chunks   texts -> the distinct chunks that the split pattern makes of them, and their counts
merge_chunks   those -> the pairs to merge, in order

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
# Text repeats the same words again and again, and a regex is slow. So the regex gets to see each of
# them only once:
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
# tests/test_bpe.py attacks the rules. CUT_RULES in tokenizer.py says which of the rules 0 to 4 hold
# for a pattern, with bit k for rule k; the rules 5 to 7 hold for all of its patterns.

ASCII, LETTER = set(range(128)), set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
DIGIT, VISIBLE, SPACE, NEWLINE = set(b"0123456789"), set(range(33, 127)), {32}, {10, 13}
PUNCT, NONSPACE = (VISIBLE - LETTER - DIGIT,
                   VISIBLE | set(range(0xC3, 0xF5)) - {0xE1, 0xE2, 0xE3})
# Each rule: a byte of the first set, and behind it one of the second. Unless a rule says otherwise,
# the cut is between the two.
CERTAIN_CUTS = [
    # 0: After a letter, only letters go on with the same chunk.
    (LETTER, ASCII - LETTER),
    # 1: After a digit, only digits do.
    (DIGIT, ASCII - DIGIT),
    # 2: A digit begins a chunk. But after spaces, as in "a  5", the lookahead would see other text.
    (VISIBLE - DIGIT, DIGIT),
    # 3: No alternative has a space after something visible.
    (VISIBLE, SPACE),
    # 4: A newline ends its run of white space. Not for GPT-2, which splits "\n\na" as \n \n a.
    (NEWLINE, NONSPACE),
    # 5: Cut before the space, since it belongs to what follows it.
    (SPACE, NONSPACE),
    # 6 and 7: If two bytes fit rule 6, and the second of them and a third byte fit rule 7, then cut
    # between the second and the third: "((a" is "((" and "a", but "(a" is a single chunk.
    (SPACE | PUNCT, PUNCT),
    (PUNCT, LETTER),
]
# FIRST[byte]: the rules that the byte fits as the first of the two; bit k for rule k. So SECOND.
FIRST, SECOND = (
    bytes(sum((byte in pair[side]) << k for k, pair in enumerate(CERTAIN_CUTS))
          for byte in range(256))
    for side in (0, 1))
IS_LETTER = bytes(byte in LETTER for byte in range(256))
# This byte follows each document. UTF-8 never uses it.
END = b"\xff"
# Work on so much text at a time: the arrays about it then stay in the processor's cache.
BLOCK_BYTES = 1 << 18
# Blocks that another process is given at a time.
JOB_BLOCKS = 32


def find_segments(block, rules):
    """Cut documents, each followed by END, in all certain places.

    block: bytes. rules: which of the rules 0 to 4 hold, bit k for rule k.
    Returns starts and ends of the segments in the block, int64 (n,) each.
    """
    # Bit k of pair[i] says that the bytes i and i + 1 fit rule k.
    pair = (np.frombuffer(block.translate(FIRST), np.uint8)[:-1]
            & np.frombuffer(block.translate(SECOND), np.uint8)[1:])
    # cut[i] says that we cut between the bytes i and i + 1. Rules 0 to 4, then 5, then 6 and 7:
    cut = pair & rules != 0
    cut[:-1] |= pair[1:] & 1 << 5 != 0
    cut[1:] |= (pair[:-1] >> 6) & (pair[1:] >> 7) != 0

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
    last byte the length. They are kept as two uint64, key1 and key2. Since the table compares whole
    keys, a collision of hashes costs time, but never makes a count wrong.
    Longer strings are rare and go to the Counter `long`.
    """
    # KEEP[0][n] and KEEP[1][n] keep the first n of 16 bytes and clear the others; LENGTH[n] has n
    # in the last byte of key2. Made from bytes, they are right on machines of either byte order.
    KEEP = np.frombuffer(b"".join(b"\xff" * n + bytes(16 - n) for n in range(16)),
                         np.uint64).reshape(16, 2).T.copy()
    LENGTH = np.frombuffer(b"".join(bytes(15) + bytes([n]) for n in range(16)),
                           np.uint64)[1::2].copy()

    def __init__(self, bits=16):
        self.bits, self.n_used, self.long = bits, 0, Counter()
        # No string is empty, so key2, which holds the length, is 0 only in a free slot.
        self.key1, self.key2 = np.zeros((2, 1 << bits), np.uint64)
        self.count = np.zeros(1 << bits, np.int64)

    def add_slices(self, text, starts, ends, counts):
        """Count text[start:end] for all starts and ends, counts (n,) int64 times each."""
        length = ends - starts
        short, long = length <= 15, np.flatnonzero(length > 15)
        for start, end, count in zip(starts[long].tolist(), ends[long].tolist(),
                                     counts[long].tolist()):
            self.long[text[start:end]] += count
        starts, length = starts[short], length[short]
        # windows[i] is the 16 bytes from place i on, without a copy.
        windows = np.ndarray(len(text) + 1, "V16", text + bytes(16), strides=1)
        key1, key2 = windows[starts].view(np.uint64).reshape(-1, 2).T
        self.add(key1 & self.KEEP[0].take(length),
                 key2 & self.KEEP[1].take(length) | self.LENGTH.take(length), counts[short])

    def add(self, key1, key2, counts):
        # Open addressing with linear probing, all keys at once: in each round every key that is
        # left looks at one slot. It has found itself there, or takes the slot because it is free,
        # or goes on to the next slot because another key lives there.
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
            # Where several keys claim a slot, the last one gets it. The next round shows who it is.
            self.key1[claimed], self.key2[claimed] = key1[free], key2[free]
            # An upper bound, as a slot may be claimed more than once. make_room counts exactly.
            self.n_used += len(claimed)
            slot[~free] = (slot[~free] + 1) & len(self.count) - 1

    def first_slot(self, key1, key2):
        return (key1 * 0x9E3779B97F4A7C15 + key2 * 0xC2B2AE3D27D4EB4F
                >> 64 - self.bits).astype(np.int64)

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
    segments, chunks = ByteStrings(bits=19), Counter()
    count_blocks(blocks, pattern, rules, segments, chunks)
    return segments.items(), segments.long, chunks


def read_blocks(texts, rules, update):
    """Yield the texts as bytes, each followed by END, in blocks of about BLOCK_BYTES.

    Long texts are cut between a letter and a space, which rule 3 allows.
    update is called with the MB that have been read.
    """
    parts, size, total, place = [], 0, 0, re.compile(rb"[A-Za-z](?= )")
    for text in texts:
        try:
            data = text.encode()
        except UnicodeEncodeError:
            # Surrogates in pairs become one character and lone ones U+FFFD, as in tiktoken.
            data = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        start, end = 0, None
        while end != len(data):
            long = rules is not None and len(data) - start > 2 * BLOCK_BYTES
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


def count_chunks(texts, pattern, rules, processes, update):
    """Split the texts by the pattern and count the distinct chunks.

    rules: the rules of CERTAIN_CUTS that hold for the pattern, or None if they are not known.
    update is called with the MB that have been read.
    Returns two arrays (n,). symbols, int32: the bytes of all chunks one after the other, with SEP
    before, between and behind them. weights, uint32: how often the chunk of that symbol occurs.
    """
    segments, chunks, split, running = (ByteStrings(), Counter(), regex.compile(pattern).findall,
                                        deque())

    def take_result(job):
        keys_and_counts, long, others = job.result()
        segments.add(*keys_and_counts)
        segments.long.update(long)
        chunks.update(others)

    def split_segments(counted):
        for segment, count in counted:
            for chunk in split(segment.decode()):
                chunks[chunk] += count

    # ---- count segments, here and in other processes ----
    blocks = read_blocks(texts, rules, update)
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
            # In Chinese, for example, a whole sentence has no certain cut, so hardly one occurs
            # twice. Split what has come together, before it fills the memory.
            if len(segments.long) > 100_000:
                split_segments(segments.long.items())
                segments.long.clear()
        while running:
            take_result(running.popleft())

    # ---- split the distinct segments; " word" and "word" are chunks as they are ----
    used = np.flatnonzero(segments.count)
    # (n,) and (n,) -> (n, 16), the bytes of each key
    rows = np.stack((segments.key1[used], segments.key2[used]), 1).view(np.uint8)
    n_letters = np.frombuffer(rows.tobytes().translate(IS_LETTER), np.uint8).reshape(-1, 16).sum(1)
    is_other = n_letters + (rows[:, 0] == 32) != rows[:, 15]
    other, counts = rows[is_other].tobytes(), segments.count[used[is_other]].tolist()
    split_segments((other[16 * i:16 * i + other[16 * i + 15]], count)
                   for i, count in enumerate(counts))
    split_segments(segments.long.items())

    # ---- put the chunks of those in their place: from here on `segments` holds chunks ----
    segments.long.clear()
    segments.count[used[is_other]] = 0
    encoded = [chunk.encode() for chunk in chunks]
    ends = np.cumsum([0] + [len(chunk) for chunk in encoded])
    segments.add_slices(b"".join(encoded), ends[:-1], ends[1:],
                        np.array(list(chunks.values()), np.int64))
    return lay_out(*segments.items(), segments.long)


def lay_out(key1, key2, count, long):
    """Counted byte strings -> symbols and weights, see count_chunks.

    key1, key2, count: (n,), the short strings as ByteStrings holds them; long: its Counter.
    """
    rows = np.stack((key1, key2), 1).view(np.uint8)
    # Sort by the first 8 bytes. Merges then touch memory that lies together, which takes a fifth
    # off their time.
    order = np.argsort(rows.view(">u8")[:, 0].astype(np.uint64))
    rows, count = rows[order], count[order]
    # One SEP goes to the very front, as the end of an empty string, and one behind each string.
    lengths = np.concatenate(([0], rows[:, 15], [*map(len, long)]), dtype=np.int64,
                             casting="unsafe") + 1
    counts = np.concatenate(([0], count, [*long.values()]), dtype=np.int64, casting="unsafe")
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

# --------------------------------------------------------------------------------------------------
# Merging: the ideas.
#
# Greedy BPE merges one pair after the other. With one merge at a time numpy would spend its time on
# calls, not on numbers. So merge_down_to takes the best pairs, in greedy order, as a batch, and
# merges them all at once. The result must be that of one at a time. Three things could spoil it:
#   - Two members overlap in the text, as (a, b) and (b, c) do in "abc". Only pairs can where the
#     left token of one is the right token of the other. choose_batch skips such a pair, so members
#     leave each other's counts alone.
#   - The merge of a member creates a new pair, which is better than a later member.
#   - A pair that was skipped is still better than a later member when that one's turn comes.
# In the last two cases we say that the later member is beaten. The batch is cut before the first
# member that is beaten, and the merges of that one and all behind it are undone. About 20 merges of
# a batch remain, so numpy is called 20 times less often.
#
# A token covers one or more places of `symbols`; its id stands in the first and in the last of
# them. So the next token begins behind the last place, and the token before ends before the first:
# no list of links is needed. For example, when "th" is 256 and "the" is 257:
#       SEP  t   h   e  SEP
#       SEP 256 256  e  SEP     after the merge of (t, h)
#       SEP 257 256 257 SEP     after the merge of (256, e)
#
# Pairs have numbers. pair_at[i] is the pair of the token that begins at place i and the token after
# it. places[pair] lists where the pair occurs. The list is made once, when the pair comes into
# being, since a pair only ever gets rarer; pair_at shows which places still hold.
#
# Most pairs are rare: they are too many to follow, and hardly any of them is ever merged. So we
# follow only pairs that occur at least `floor` times. When the best pair is rarer than that, the
# text is indexed anew with a lower floor, and with each token in a single place.

# In pair_at, in place of a pair: a pair that we don't follow, or none; no token begins here.
NO_PAIR, INSIDE = -1, -2


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
    starts = np.flatnonzero(
        np.concatenate(([True], packed[1:] != packed[:-1]))[:len(packed)])
    return packed[starts], starts, values


def index_pairs(symbols, weights, floor):
    """Find the pairs that occur at least floor times, with every token in a single place.

    Returns their scores, uint64 (n,), their places, a list of n arrays, and pair_at, int32
    like symbols.
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
    kept = np.flatnonzero(counts >= floor)
    number = np.full(len(keys), NO_PAIR, np.int32)
    number[kept] = np.arange(len(kept))
    pair_at = np.full(len(symbols), NO_PAIR, np.int32)
    pair_at[at] = np.repeat(number, sizes)
    places = [at[start:start + size]
              for start, size in zip(starts[kept].tolist(), sizes[kept].tolist())]
    return counts[kept] << 32 | keys[kept] ^ 0xFFFFFFFF, places, pair_at


def choose_batch(scores, candidates, size):
    """Choose up to `size` pairs that can't overlap. candidates: pairs, best first.

    Returns the batch, best first; the pairs that were skipped on the way; and for each of those how
    many members of the batch go before it.
    """
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
            # A pair of equal tokens overlaps with itself, so it goes alone.
            if left == right or len(batch) == size:
                break
    return np.array(batch), np.array(skipped, np.int64), np.array(n_before, np.int64)


def every_other(at, width):
    """Of the occurrences of a pair of equal tokens, those to merge: a a a a a -> (a a) (a a) a.

    at: where the pair occurs; width: places that its token covers.
    """
    at, i = np.sort(at), np.arange(len(at))
    # The occurrences of a run follow each other a token apart. Take the 1st, 3rd, 5th of each run.
    starts_run = np.concatenate(([True], np.diff(at) != width))
    return at[(i - np.maximum.accumulate(np.where(starts_run, i, 0))) % 2 == 0]


def best_pairs(scores, n, threshold, lowest):
    """The n pairs with the largest scores, best first, and the threshold for the next call.

    Only pairs with a score of at least `threshold` are sorted. When they are fewer than n, it is
    lowered, but never below `lowest`, so that about a thousand pairs pass it.
    """
    candidates = np.flatnonzero(scores >= threshold)
    if len(candidates) < n and threshold > lowest:
        threshold = (max(lowest, np.partition(scores, -1024)[-1024]) if len(scores) > 1024
                     else lowest)
        candidates = np.flatnonzero(scores >= threshold)
    return candidates[np.argsort(scores[candidates])[::-1][:n]], threshold


def beaten_by_skipped(best, scores, skipped, n_before, lost, member, weight):
    """The first member of a batch that a pair skipped before it would beat; m if there is none.

    best: the scores of the members, (m,). skipped, n_before: see choose_batch.
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
    beaten = ((score_then > best) & (np.arange(len(best)) >= n_before[:, None])).any(0)
    return int(beaten.argmax()) if beaten.any() else len(best)


def merge_chunks(symbols, weights, n_merges, update):
    """Greedy BPE on counted chunks -> up to n_merges pairs (left id, right id), in order.

    symbols, weights: see count_chunks; symbols is overwritten. update is called with the number of
    merges so far.
    """
    merges, floor = [], max(1, int(weights.sum(dtype=np.int64)) // max(1, n_merges) // 16)
    while len(merges) < n_merges and floor:
        pair_at = merge_down_to(floor, symbols, weights, n_merges, merges, update)
        symbols, weights = symbols[pair_at != INSIDE], weights[pair_at != INSIDE]
        # The floor of the next round. A floor of 0 ends the loop: not even pairs that occur once
        # are left.
        floor = max(floor // 8, 1) if floor > 1 else 0
    return merges


def merge_down_to(floor, symbols, weights, n_merges, merges, update):
    """Merge pairs in `symbols` while the best one occurs at least floor times -> pair_at.

    Appends the pairs to `merges` and stops when that has n_merges of them.
    """
    scores, places, pair_at = index_pairs(symbols, weights, floor)
    # How many places a token covers. The last entry is never a token's: width[SEP] reads it.
    width = np.ones(256 + n_merges + 1, np.int64)
    lowest, threshold, batch_size = np.uint64(floor << 32), np.uint64(2**64 - 1), 16
    while len(merges) < n_merges:
        candidates, threshold = best_pairs(scores, 2 * batch_size, threshold, lowest)
        if not len(candidates):
            break
        batch, skipped, n_before = choose_batch(scores, candidates,
                                                min(batch_size, n_merges - len(merges)))
        # Member i of the batch is the pair (left[i], right[i]) and becomes the token first_id + i.
        best, first_id = scores[batch], 256 + len(merges)
        left, right = (~best >> 16 & 0xFFFF).astype(np.int64), (~best & 0xFFFF).astype(np.int64)
        width[first_id:first_id + len(batch)] = width[left] + width[right]

        # ---- find the n occurrences of the members, member after member, and merge them ----
        # Occurrence i is of the member member[i] and begins at the place at[i].
        at = np.concatenate([places[pair] for pair in batch], dtype=np.int64)
        sizes = [len(places[pair]) for pair in batch]
        # Some places no longer hold: other merges took their tokens.
        there = np.flatnonzero(pair_at[at] == np.repeat(batch, sizes))
        at, member = at[there], np.repeat(np.arange(len(batch)), sizes)[there]
        if left[0] == right[0]:
            at = every_other(at, width[left[0]])
            member = member[:len(at)]
        n, new, weight = len(at), first_id + member, weights[at].astype(np.uint64) << 32
        # Its right token begins at second[i]; the token after it begins at end[i].
        second = at + width[left][member]
        end = second + width[right][member]
        symbols[at] = symbols[end - 1] = new

        # ---- see the neighbours as they are when it is the member's turn ----
        # If a neighbour is the new token of a later member, then that one is not merged yet: what
        # stands there is still the right token of its pair (before us) or the left one (after us).
        before, after = symbols[at - 1].astype(np.int64), symbols[end].astype(np.int64)
        # The member whose new token the neighbour is; negative if it is an older token.
        k_before, k_after = before - first_id, after - first_id
        before_later, after_later = k_before > member, k_after > member
        before[before_later] = right[k_before[before_later]]
        after[after_later] = left[k_after[after_later]]
        before_at = at - width[before]

        # ---- find the pairs that the merges create ----
        # Each occurrence creates two, which we call entries: entry i is (before, new) of occurrence
        # i and entry n + i is its (new, after). Where two new tokens of the same member stand side
        # by side, the pair of them is the entry n + i of the first alone.
        has_before = np.flatnonzero((before != SEP) & (k_before != member))
        has_after = np.flatnonzero(after != SEP)
        keys, starts, entries = group(np.concatenate((before[has_before] << 16 | new[has_before],
                                                      new[has_after] << 16 | after[has_after])),
                                      np.concatenate((has_before, n + has_after)))
        # From here on, weight and member are by entry, (2 n,).
        weight, member = np.tile(weight, 2), np.tile(member, 2)
        # The scores of the new pairs, and the member whose merge creates each of them.
        created = np.add.reduceat(weight[entries], starts) | keys ^ 0xFFFFFFFF
        creator = member[entries[starts]]

        # ---- cut the batch before the first member that is beaten ----
        # By a new pair: the first member behind its creator that has a smaller score.
        strong = np.flatnonzero(created > best[-1])
        beaten = np.maximum(creator[strong] + 1, np.searchsorted(~best, ~created[strong]))
        # By a skipped pair. An entry takes the place of a pair that is lost: (before, left) at
        # before_at, (right, after) at second. If the token before is a new one too, then its own
        # entry (right, after) counts that loss already.
        lost = np.concatenate((pair_at[before_at], pair_at[second]))
        is_lost = (lost >= 0) & np.append(k_before < 0, np.full(n, True))
        # Of the lost pairs, only skipped ones have scores this large.
        hit = np.flatnonzero(is_lost & (scores[lost] > best[-1]))
        cut = min(int(beaten.min(initial=len(batch))),
                  beaten_by_skipped(best, scores, skipped, n_before, lost[hit], member[hit],
                                    weight[hit]))
        # Undo the merges of the members from `cut` on: the occurrences from `done` on.
        done = int(np.searchsorted(member[:n], cut))
        symbols[at[done:]] = left[member[done:n]]
        symbols[end[done:] - 1] = right[member[done:n]]
        # The next batch is half as large again as what remained of this one.
        batch_size = min(256, max(8, cut + cut // 2)) if len(batch) > 1 else batch_size

        # ---- lower the scores of the lost pairs ----
        is_lost = ((lost >= 0) & (member < cut)
                   & np.append((k_before < 0) | (k_before >= cut), np.full(n, True)))
        np.subtract.at(scores, lost[is_lost], weight[is_lost])
        scores[batch[:cut]] = 0

        # ---- enter the new pairs, as far as they are frequent enough to be followed ----
        followed = np.flatnonzero((creator < cut) & (created >= lowest))
        number, sizes = (np.full(len(created), NO_PAIR, np.int32),
                         np.diff(starts, append=len(entries)))
        number[followed] = len(places) + np.arange(len(followed))
        # The number of an entry's pair.
        new_pair = np.full(2 * n, NO_PAIR, np.int32)
        new_pair[entries] = np.repeat(number, sizes)
        where = np.append(before_at, at).astype(np.uint32)[entries]
        for start, size in zip(starts[followed].tolist(), sizes[followed].tolist()):
            places.append(where[start:start + size])
        # Scores of 0 are room to grow.
        if len(places) > len(scores):
            scores = np.append(scores, np.zeros(len(places), np.uint64))
        scores[number[followed]] = created[followed]

        # ---- write pair_at; an entry is brief if a later member has replaced its pair again ----
        brief = np.append(before_later & (k_before < cut), after_later & (k_after < cut))
        was = np.flatnonzero(brief & (new_pair >= 0))
        np.subtract.at(scores, new_pair[was], weight[was])
        pair_at[at[:done]] = new_pair[n:n + done]
        stays = np.flatnonzero((k_before != member[:n]) & ~brief[:n] & (member[:n] < cut))
        pair_at[before_at[stays]] = new_pair[stays]
        pair_at[second[:done]] = INSIDE
        merges += zip(left[:cut].tolist(), right[:cut].tolist())
        for pair in batch[:cut].tolist():
            places[pair] = None
        update(len(merges))
    return pair_at
