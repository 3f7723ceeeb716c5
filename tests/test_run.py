"""train/run.py: the size of a step and of a micro-batch, and the held-out loss by hand."""
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from machine import Env
from toy import merged_tokenizer, tiny_model
from train.run import evaluate_loss, largest_batch, own_passes, rows_for_step

torch.set_num_threads(1)
ENV = Env(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("seq_len", [64, 512, 2048])
def test_a_step_grows_with_the_horizon_and_leaves_it_400_steps(seq_len, world_size):
    env = Env(ENV.device, ENV.dtype, 0, world_size)
    before = 0
    for horizon in 1, 10 ** 5, 10 ** 6, 4 * 10 ** 6, 10 ** 8, 10 ** 10:
        rows = rows_for_step(horizon, seq_len, env)
        assert rows % world_size == 0 and rows >= before
        # The rows are rounded up to a multiple of the ranks.
        assert rows * seq_len <= 524288 + world_size * seq_len
        at_least = rows - world_size
        assert at_least < 8192 // seq_len or at_least * seq_len * 400 <= horizon
        before = rows


@pytest.mark.parametrize("n_tokens, passes, tokens_per_step", [
    (5_000, 10, 2048), (20_480, 10, 2048), (102_400, 2, 2048), (300_000, 1, 2048),
    (500_000, 1, 4096), (2 ** 20, 1, 8192), (2 ** 30, 1, 524288)])
def test_a_users_few_rows_make_more_and_smaller_steps(n_tokens, passes, tokens_per_step):
    horizon = round(own_passes(n_tokens) * n_tokens)
    assert own_passes(n_tokens) == passes
    assert rows_for_step(horizon, 512, ENV, own_data=True) * 512 == tokens_per_step
    assert rows_for_step(horizon, 512, ENV) * 512 == max(8192, tokens_per_step)


@pytest.mark.parametrize("rows_per_step, seq_len, world_size", [
    (8, 1024, 1), (256, 2048, 2), (7, 64, 1), (12, 10 ** 5, 3), (1, 512, 4)])
def test_the_micro_batch_divides_a_ranks_share_of_the_step(rows_per_step, seq_len, world_size):
    model = SimpleNamespace(config=SimpleNamespace(seq_len=seq_len))
    n = largest_batch(model, rows_per_step, Env(ENV.device, ENV.dtype, 0, world_size))
    share = max(1, rows_per_step // world_size)
    assert share % n == 0 and (n == 1 or n * seq_len <= 8192)


def test_bits_per_byte_counts_the_raw_bytes_of_the_text_alone(tmp_path):
    merged = merged_tokenizer(tmp_path)
    model = tiny_model(vocab_size=merged.vocab_size)
    text = "été 12 = 12?\n## naïve 50"
    bos = merged.special("<|bos|>")
    # The first row ends with special tokens; of the second one, 20 letters are targets.
    ids = torch.tensor([([bos] + merged.encode(text) + [bos] * 32)[:33],
                        [bos] + merged.encode("x" * 32)])
    targets = ids[:, 1:].clone()
    targets[1, 20:] = -1

    class TwoRows:
        def batch(self, indices, only_learned):
            return ids[indices, :-1], targets[indices]

        def __len__(self):
            return 2

    logits = model(ids[:, :-1]).flatten(0, 1)
    nats = F.cross_entropy(logits, targets.flatten(), ignore_index=-1,
                           reduction="none").view(2, 32)
    is_text = (targets >= 0) & (targets < merged.vocab_size - 9)
    n_bytes = len(text.encode()) + 20
    for batch_size in 1, 2:
        result = evaluate_loss(model, TwoRows(), merged, ENV, batch_size, 10)
        assert result["bpb"] == pytest.approx(
            nats[is_text].sum().item() / math.log(2) / n_bytes, rel=1e-5)
        assert result["loss"] == pytest.approx(
            nats.sum().item() / (targets >= 0).sum().item(), rel=1e-5)
