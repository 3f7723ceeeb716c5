"""
The fast BPE trainer of tokenizer.py, where train_bpe_by_definition says what it computes: the same tokens, on a large
text a thousand times faster, in numpy. Two functions, in this order, each with the idea before it:

count_chunks   texts -> the distinct chunks that the split pattern cuts them into, and how often each occurs
merge_chunks   those -> the pairs to merge, in order

Processes that count are started with this file alone, so it must not import torch.
"""
import re
import sys
from collections import Counter, deque
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context

import numpy as np
import regex

SEP = -1                            # in symbols: between two chunks
MAX_TOKENS = 65535                  # so that a pair of ids fits 32 bits, and SEP is none of them

# ---------------------------------------------------------------------------------------------------------------------
# Counting chunks. Text is the same few words again and again: the trick is to let the regex see each of them once.
#
# In some places a chunk ends whatever stands around: between a letter and a comma, say. There we cut without any regex,
# and only the distinct segments (3 % of all in 131 MB of prose) need the pattern. A cut is certain if no alternative of
# the pattern can match across it, and if what stands before it is split in the same way when the text ends there; the
# latter is about white space alone, because of the lookahead \s+(?!\S). Of the bytes above 127 those take part whose
# meaning is plain: behind C2, E1, E2 and E3 there may hide white space. tests/test_tokenizer.py attacks these rules;
# which of them hold for a pattern, says CUT_RULES beside the patterns in tokenizer.py: `rules`, bit k for rule k.

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


def count_blocks(blocks, pattern, rules, segments, chunks):
    """Count the segments in blocks of documents; where no cuts are certain, the chunks at once, in a Counter of str."""
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
    """Texts as bytes, each followed by END, in blocks of about BLOCK_BYTES; long texts are cut before some space."""
    parts, size, total, place = [], 0, 0, re.compile(rb"[A-Za-z](?= )")
    for text in texts:
        try:
            data = text.encode()
        except UnicodeEncodeError:                                   # tiktoken's rule for lone surrogates
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
    """Split the texts by the pattern and count the distinct chunks -> symbols int32, weights uint32, both (n,).

    symbols: the bytes of all chunks, SEP before, between and behind them; weights: how often the chunk occurs.
    rules: the CERTAIN_CUTS that hold for the pattern, or None. update is called with the MB that have been read.
    """
    segments, chunks, split, running = ByteStrings(), Counter(), regex.compile(pattern).findall, deque()

    def take_result(job):
        keys_and_counts, long, others = job.result()
        segments.add(*keys_and_counts)
        segments.long.update(long)
        chunks.update(others)

    def split_segments(counted):
        for segment, count in counted:
            for chunk in split(segment.decode()):
                chunks[chunk] += count

    blocks = read_blocks(texts, rules, update)
    start_method = "fork" if sys.platform == "linux" else "spawn"    # macOS forks unsafely, Windows not at all
    with ProcessPoolExecutor(max(1, processes - 1), get_context(start_method)) as pool:
        while job := list(islice(blocks, JOB_BLOCKS)):
            if running and running[0].done():
                take_result(running.popleft())
            if len(running) < 2 * (processes - 1) and len(job) == JOB_BLOCKS:
                running.append(pool.submit(count_elsewhere, job, pattern, rules))
            else:                                                    # the others have enough to do, or there are none
                count_blocks(job, pattern, rules, segments, chunks)
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

NO_PAIR, INSIDE = -1, -2            # in pair_at: no pair that we follow; no token begins here


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


def best_pairs(scores, n, threshold, lowest):
    """-> the n pairs with the largest scores, best first, and a threshold that keeps the search to about a thousand."""
    candidates = np.flatnonzero(scores >= threshold)
    if len(candidates) < n and threshold > lowest:
        threshold = max(lowest, np.partition(scores, -1024)[-1024]) if len(scores) > 1024 else lowest
        candidates = np.flatnonzero(scores >= threshold)
    return candidates[np.argsort(scores[candidates])[::-1][:n]], threshold


def beaten_by_skipped(best, scores, skipped, n_before, lost, member, weight):
    """The first member of a batch, scores best (m,), that a pair skipped before it would have beaten; m if none.

    Skipped pairs get rarer: the pair lost[i] (n,) by weight[i] when member[i] is merged.
    """
    order = np.argsort(skipped)
    row = order[np.searchsorted(skipped, lost, sorter=order)]
    taken = np.zeros((len(skipped), len(best)), np.uint64)
    np.add.at(taken, (row, member), weight)
    score_then = scores[skipped][:, None] - (taken.cumsum(1) - taken)        # at member j's turn
    beaten = ((score_then > best) & (np.arange(len(best)) >= n_before[:, None])).any(0)
    return int(beaten.argmax()) if beaten.any() else len(best)


def merge_chunks(symbols, weights, n_merges, update):
    """Greedy BPE on counted chunks (see count_chunks) -> up to n_merges pairs (left id, right id) in order."""
    merges, floor = [], max(1, int(weights.sum(dtype=np.int64)) // max(1, n_merges) // 16)
    while len(merges) < n_merges and floor:
        pair_at = merge_down_to(floor, symbols, weights, n_merges, merges, update)
        symbols, weights = symbols[pair_at != INSIDE], weights[pair_at != INSIDE]
        floor = max(floor // 8, 1) if floor > 1 else 0               # for the next time
    return merges


def merge_down_to(floor, symbols, weights, n_merges, merges, update):
    """Merge pairs in `symbols`, and append them to `merges`, while the best one occurs floor times -> pair_at."""
    scores, places, pair_at = index_pairs(symbols, weights, floor)
    width = np.ones(256 + n_merges + 1, np.int64)                    # places that a token covers; for SEP, the last: 1
    lowest, threshold, batch_size = np.uint64(floor << 32), np.uint64(2**64 - 1), 16
    while len(merges) < n_merges:
        candidates, threshold = best_pairs(scores, 2 * batch_size, threshold, lowest)
        if not len(candidates):
            break
        batch, skipped, n_before = choose_batch(scores, candidates, min(batch_size, n_merges - len(merges)))
        best, first_id = scores[batch], 256 + len(merges)
        left, right = (~best >> 16 & 0xFFFF).astype(np.int64), (~best & 0xFFFF).astype(np.int64)
        width[first_id:first_id + len(batch)] = width[left] + width[right]

        # ---- find the n occurrences of its members, member by member, and merge them ----
        at = np.concatenate([places[pair] for pair in batch], dtype=np.int64)
        sizes = [len(places[pair]) for pair in batch]
        there = np.flatnonzero(pair_at[at] == np.repeat(batch, sizes))       # the others have been merged away
        at, member = at[there], np.repeat(np.arange(len(batch)), sizes)[there]
        if left[0] == right[0]:
            at = every_other(at, width[left[0]])
            member = member[:len(at)]
        n, new, weight = len(at), first_id + member, weights[at].astype(np.uint64) << 32
        second = at + width[left][member]                            # where the right token begins
        end = second + width[right][member]
        symbols[at] = symbols[end - 1] = new

        # ---- see the neighbours as they are when member i is merged: members k > i are not merged yet ----
        before, after = symbols[at - 1].astype(np.int64), symbols[end].astype(np.int64)
        k_before, k_after = before - first_id, after - first_id      # whose token the neighbour is; < 0: of no member
        before_later, after_later = k_before > member, k_after > member
        before[before_later] = right[k_before[before_later]]
        after[after_later] = left[k_after[after_later]]
        before_at = at - width[before]

        # ---- group the new pairs: entry i is (before, new) of occurrence i, entry n + i is its (new, after) ----
        has_before = np.flatnonzero((before != SEP) & (k_before != member))  # else it is entry n + i of another
        has_after = np.flatnonzero(after != SEP)
        keys, starts, entries = group(np.concatenate((before[has_before] << 16 | new[has_before],
                                                      new[has_after] << 16 | after[has_after])),
                                      np.concatenate((has_before, n + has_after)))
        weight, member = np.tile(weight, 2), np.tile(member, 2)      # by entry from here on
        created = np.add.reduceat(weight[entries], starts) | keys ^ 0xFFFFFFFF       # scores of the new pairs, and ...
        creator = member[entries[starts]]                                            # ... the members who made them

        # ---- cut the batch before the first member that a new pair or a skipped one would have beaten ----
        strong = np.flatnonzero(created > best[-1])
        beaten = np.maximum(creator[strong] + 1, np.searchsorted(~best, ~created[strong]))
        lost = np.concatenate((pair_at[before_at], pair_at[second]))         # the pairs that entries replace
        is_lost = (lost >= 0) & np.append(k_before < 0, np.full(n, True))    # merged: it was `second` there
        hit = np.flatnonzero(is_lost & (scores[lost] > best[-1]))            # skipped pairs that get rarer
        cut = min(int(beaten.min(initial=len(batch))),
                  beaten_by_skipped(best, scores, skipped, n_before, lost[hit], member[hit], weight[hit]))
        done = int(np.searchsorted(member[:n], cut))                 # undo the occurrences from here on
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
        new_pair = np.full(2 * n, NO_PAIR, np.int32)                 # by entry
        new_pair[entries] = np.repeat(number, sizes)
        where = np.append(before_at, at).astype(np.uint32)[entries]
        for start, size in zip(starts[followed].tolist(), sizes[followed].tolist()):
            places.append(where[start:start + size])
        if len(places) > len(scores):
            scores = np.append(scores, np.zeros(len(places), np.uint64))     # zeros: room to grow
        scores[number[followed]] = created[followed]
        brief = np.append(before_later & (k_before < cut), after_later & (k_after < cut))
        was = np.flatnonzero(brief & (new_pair >= 0))                # pairs that a later member has destroyed again
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
