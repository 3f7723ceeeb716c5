"""
Lazy sequences of conversations: mixtures for training, one source after another for a curriculum,
and cheap slices of both.

    # Two epochs of identity.
    train = Mixture([SmolTalk("train"), GSM8K("train"), identity, identity], seed=42)
    # At most 10,000 rows of SmolTalk.
    small = Mixture([(SmolTalk("train"), 10_000), ARCEasy("train")])
    # All of spelling, then all of counting.
    lesson = Sequence([spelling, counting])
    # A view of every second row: nothing is read.
    half = train[0:len(train):2]

A source is anything with len(source) and source[i]. Nothing is read before it is asked for: a
mixture keeps its sources and 4 bytes for each item.
"""
import numpy as np


class Lazy:
    """A sequence whose items are made when asked for; slices are views.

    A subclass defines __len__ and get(i) for 0 <= i < len.
    """

    def __getitem__(self, i):
        if isinstance(i, slice):
            return View(self, range(len(self))[i])
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} of {type(self).__name__} with {len(self)} items")
        return self.get(i % len(self))

    def __iter__(self):
        return (self.get(i) for i in range(len(self)))


class View(Lazy):
    """The items of `source` at `positions`, a range or an array; its slices are views, too."""

    def __init__(self, source, positions):
        self.source = source
        self.positions = positions

    def __len__(self):
        return len(self.positions)

    def get(self, i):
        return self.source[self.positions[i]]

    def __getitem__(self, i):
        # A slice of a view is a view of the source, not a view of a view.
        if isinstance(i, slice):
            return View(self.source, self.positions[i])
        return super().__getitem__(i)


class Sequence(Lazy):
    """One source after another: Sequence(["ab", "c"]) reads "a", "b", "c"."""

    def __init__(self, sources):
        self.sources = [first_items(source) for source in sources]
        self.ends = np.cumsum([len(source) for source in self.sources], dtype=np.int64)

    def __len__(self):
        return int(self.ends[-1]) if len(self.ends) else 0

    def get(self, i):
        # Source k is the first that ends behind item i.
        k = int(np.searchsorted(self.ends, i, side="right"))
        begin = int(self.ends[k - 1]) if k > 0 else 0
        return self.sources[k][i - begin]


class Mixture(Sequence):
    """The items of all sources, in an order that depends on `seed` and the number of items alone.

    A source that is listed twice is read twice: two epochs of it.
    """

    def __init__(self, sources, seed=42):
        super().__init__(sources)
        dtype = np.uint32 if len(self) <= 2**32 else np.uint64
        rng = np.random.Generator(np.random.PCG64(seed))
        self.order = rng.permutation(np.arange(len(self), dtype=dtype))

    def get(self, i):
        return super().get(int(self.order[i]))


def first_items(source):
    """A source as it is; of a pair (source, size) the first `size` items, all if it has fewer."""
    if not isinstance(source, tuple):
        return source
    source, size = source
    if size < 0:
        raise ValueError(f"the size of a source must be at least 0, not {size}")
    return View(source, range(min(size, len(source))))
