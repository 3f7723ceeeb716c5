"""
Which split an item (a word, an expression, a question's base wording) belongs to, decided by a hash of the item itself.

A seed could be shared by mistake and a shuffled index list moves when the data grows; a hash does neither, so a word
that the evaluation asks about can never turn up in training, whoever asks, in whatever order, on whatever machine.
"""
import hashlib
import random

# Percent of the items: train for midtraining and SFT, pairs for DPO, prompts for distillation, test for evaluation.
SHARES = {"train": 80, "pairs": 8, "prompts": 5, "test": 7}


def stable_hash(text):
    """64 bits of BLAKE2b as an int; unlike hash(), equal in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def split_of(item, shares=SHARES):
    """The split of one item: split_of("strawberry") -> "train"."""
    point = stable_hash("split " + item) % 100
    for split, percent in shares.items():
        if point < percent:
            return split
        point -= percent
    raise ValueError(f"the shares of the splits add up to {sum(shares.values())} percent, expected 100: {shares}")


def check_split(split):
    """ValueError unless split is one of the four names above."""
    if split not in SHARES:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SHARES)}")


def generator(*key):
    """A random.Random that depends on the key alone: generator("spelling", "train", 17)."""
    return random.Random(stable_hash("\x1f".join(map(str, key))))


def item_index(i, size):
    """Index i of a task with `size` items, negative ones from the end; IndexError outside (it also ends a for loop)."""
    if not -size <= i < size:
        raise IndexError(f"item {i} of a task with {size} items")
    return i % size
