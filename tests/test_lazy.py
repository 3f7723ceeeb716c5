"""data/lazy.py: mixtures, sequences and slices that read nothing before it is asked for."""
import pickle

import pytest

from data.lazy import Mixture, Sequence


class Numbers(list):
    """A source that counts how often it is read."""
    reads = 0

    def __getitem__(self, i):
        self.reads += 1
        return super().__getitem__(i)


def test_mixture_is_a_deterministic_shuffle_of_all_items():
    sources = [list(range(1000)), list(range(1000, 1500))]
    mixture = Mixture(sources)
    assert sorted(mixture) == list(range(1500))
    assert list(mixture) != list(range(1500))
    assert list(mixture) == list(Mixture(sources))
    assert list(mixture) != list(Mixture(sources, seed=1))
    # Mixed, not one after the other: of 300 items a third, about 100, are of the second source.
    assert sum(item >= 1000 for item in mixture[:300]) > 60


def test_mixture_epochs_caps_and_negative_index():
    identity = ["i", "j"]
    mixture = Mixture([identity, identity, (range(100), 3), (["z"], 10)])
    assert sorted(map(str, mixture)) == ["0", "1", "2", "i", "i", "j", "j", "z"]
    assert mixture[-1] == mixture[7]
    assert len(Mixture([])) == 0
    with pytest.raises(ValueError, match="at least 0, not -1"):
        Mixture([([1], -1)])
    with pytest.raises(IndexError):
        mixture[8]


def test_sequence_keeps_the_order_and_skips_empty_sources():
    sequence = Sequence([[], [1, 2], [], (range(5), 2), [9]])
    assert list(sequence) == [1, 2, 0, 1, 9]
    assert sequence[-5] == 1


def test_slices_are_views_and_nothing_is_read_before_it_is_asked_for():
    numbers = Numbers(range(1_000_000))
    mixture = Mixture([numbers, numbers])
    view = mixture[10:1_000_000:7][::2][3:5]
    assert numbers.reads == 0
    assert len(view) == 2
    assert list(view) == [mixture[10 + 14 * 3], mixture[10 + 14 * 4]]
    assert numbers.reads == 4
    assert list(Sequence([range(5)])[::-1]) == [4, 3, 2, 1, 0]
    # Worker processes get a view by pickling.
    assert pickle.loads(pickle.dumps(view))[1] == view[1]
