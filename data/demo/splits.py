"""
The split that an item belongs to, decided by a hash of the item itself.

An item is a word to spell, an expression to compute, the wording of a question. Two stages could
share a seed by mistake, and a shuffled list changes when the data grow. A hash has neither problem:
on no machine, in no order, does a word that the evaluation asks about turn up in training.
"""
import hashlib
import random

# Percent of the items. Midtraining and SFT use train, DPO uses pairs, distillation uses prompts,
# reinforcement learning uses rl, and evaluation uses test.
SHARES = {"train": 75, "pairs": 8, "prompts": 5, "rl": 5, "test": 7}


def stable_hash(text):
    """64 bits of BLAKE2b as an int: unlike hash(), the same in every process on every machine."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def split_of(item, shares=SHARES):
    """The split of one item: split_of("strawberry") -> "train"."""
    point = stable_hash("split " + item) % 100
    for split, percent in shares.items():
        if point < percent:
            return split
        point -= percent
    raise ValueError(f"the shares of the splits add up to {sum(shares.values())} percent, "
                     f"expected 100: {shares}")


def check_split(split):
    """Raise ValueError unless split is one of the five names above."""
    if split not in SHARES:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SHARES)}")


def generator(*key):
    """A random.Random whose draws follow from the key: generator("spelling", "train", 17)."""
    return random.Random(stable_hash("\x1f".join(map(str, key))))
