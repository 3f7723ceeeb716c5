"""talk/options.py: options in one row and in batches against each option alone in GPT.forward."""
import itertools
import random

import numpy as np
import torch
import torch.nn.functional as F

from talk.options import batches_by_length, score_rows, tree_row
from toy import tiny_model

torch.set_num_threads(1)


@torch.no_grad()
def score_alone(model, ids, start):
    """The plain way, one forward pass for one option.

    Returns the loss of each scored token, and whether it is the likeliest.
    """
    ids = torch.tensor(ids)
    targets = ids[start:]
    logits = model(ids[None, :-1])[0, start - 1:]
    losses = F.cross_entropy(logits, targets, reduction="none")
    return losses.numpy(), (logits.argmax(-1) == targets).numpy()


def test_a_tree_row_says_the_common_beginning_once():
    row, scored = tree_row([([9, 1, 2, 3, 4], 3), ([9, 1, 2, 5], 3)])
    # 4 and 5 are only predicted.
    assert row.tolist() == [[9, 1, 2, 3], [0, 1, 2, 3], [0, 0, 0, 1]]
    assert scored.tolist() == [[2, 3, 2], [3, 4, 5], [0, 0, 1]]
    # In a schema the beginnings differ and the ends are the same.
    row, scored = tree_row([([9, 1, 2, 7], 3), ([9, 5, 2, 7], 3)])
    assert row.tolist() == [[9, 1, 2, 5, 2], [0, 1, 2, 1, 2], [0, 1, 1, 2, 2]]
    assert scored.tolist() == [[2, 4], [7, 7], [0, 1]]
    # A single option.
    row, scored = tree_row([([9, 1, 2], 1)])
    assert row[0].tolist() == [9, 1, 2] and scored.tolist() == [[0, 1], [1, 2], [0, 0]]


def random_options(rng):
    """One to five options with a common beginning, now and then the same one twice."""
    common = [256] + [rng.randrange(256) for _ in range(rng.randrange(0, 30))]
    options = []
    for _ in range(rng.randrange(1, 5)):
        ids = common + [rng.randrange(3) for _ in range(rng.randrange(1, 7))]
        options.append((ids, rng.randrange(1, len(ids))))
    return options + [options[0]] * rng.randrange(2)


def test_options_in_one_row_and_batch_have_the_losses_of_each_alone():
    model = tiny_model(seq_len=256)
    rng = random.Random(0)
    cases = [random_options(rng) for _ in range(25)]
    trees = [tree_row(options) for options in cases]
    has_branches = [row[2].any() for row, _ in trees]
    assert any(has_branches) and not all(has_branches)
    # All together, then one by one.
    for batch in [range(25), *([i] for i in range(25))]:
        for i, (losses, likeliest) in zip(batch, score_rows(model, [trees[i] for i in batch])):
            _, scored = trees[i]
            for option, (ids, start) in enumerate(cases[i]):
                expected, expected_likeliest = score_alone(model, ids, start)
                ours = scored[2] == option
                np.testing.assert_allclose(losses[ours], expected, atol=2e-4)
                assert likeliest[ours].tolist() == expected_likeliest.tolist()


def test_batches_hold_rows_of_one_length_and_hardly_any_padding():
    rng = random.Random(1)
    trees = [(np.zeros((3, rng.randrange(40, 400)), np.int32), None) for _ in range(1000)]
    batches = list(batches_by_length(trees, 8192))
    assert sorted(itertools.chain(*batches)) == list(range(1000))
    widths = [max(trees[i][0].shape[1] for i in batch) for batch in batches]
    assert widths == sorted(widths, reverse=True)
    sizes = [len(batch) * width for batch, width in zip(batches, widths)]
    assert max(sizes) <= 8192
    assert sum(row.shape[1] for row, _ in trees) > 0.96 * sum(sizes)
    # Rows that are longer than the batch go alone.
    assert [len(batch) for batch in batches_by_length(trees[:3], 10)] == [1, 1, 1]
