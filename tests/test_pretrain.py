"""The size of a new model and the weights it starts with. Runs of pretrain.py: test_stages.py."""
import math

import pytest
import torch
import torch.nn.functional as F

from common import GPT, rms_norm, rotary_table, rotate
from pretrain import choose_seq_len, flops_per_token, init_weights, model_config
from toy import random_ids


def test_a_new_model_predicts_nothing_and_is_the_seeds_function():
    model = GPT(model_config(2, 300, 64))
    init_weights(model, 3)
    ids = random_ids(2, 64)
    assert model(ids, ids).item() / ids.numel() == pytest.approx(math.log(300), rel=1e-6)
    for name, p in model.named_parameters():
        # The next test checks channel 0.
        p = p[:, 1:] if name == "embed" else p
        if name not in ("blocks.0.attn.wq", "blocks.0.attn.wk"):
            expected = 1.0 if name == "embed" else 0.0 if name.endswith(("wo", "down", "head")) else p.size(1) ** -0.5
            assert p.std().item() == pytest.approx(expected, rel=0.05) and abs(p.mean().item()) < 0.02
    same, other = GPT(model.config), GPT(model.config)
    init_weights(same, 3), init_weights(other, 4)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), same.parameters()))
    assert not torch.equal(model.embed, other.embed)
    assert not torch.equal(model.blocks[0].attn.wq, model.blocks[0].attn.wk)
    x = rms_norm(torch.randn(500, 128)) @ model.blocks[0].attn.wv.T
    # Activations keep rms 1.
    assert x.std().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("depth, n_kv_head", [(2, 0), (3, 0), (4, 0), (4, 1), (8, 2)])
def test_at_the_start_two_heads_of_the_first_half_of_the_blocks_look_one_and_two_tokens_back(depth, n_kv_head):
    c = model_config(depth, 300, 64, n_kv_head)
    model, D, found = GPT(c), c.n_embd // c.n_head, {}
    init_weights(model, 0)
    # Blocks add nothing yet, so that the input of all of them is the same.
    x = rms_norm(F.embedding(random_ids(4, 64), model.embed))
    for n, block in enumerate(model.blocks):
        q, k = (rms_norm((x @ w.T).view(4, 64, -1, D).transpose(1, 2)) for w in (block.attn.wq, block.attn.wk))
        q, k = (rotate(t, *rotary_table(torch.arange(64), D, c.rope_theta)) for t in (q, k))
        scores = q @ k.repeat_interleave(c.n_head // c.n_kv_head, dim=1).mT / D ** 0.5
        weights = scores.masked_fill(torch.ones(64, 64).triu(1) > 0, -math.inf).softmax(-1)
        # For every distance d, the mean weight of the token d places back.
        for head in range(c.n_head):
            mean = [weights[:, head].diagonal(-d, -2, -1).mean().item() for d in range(8)]
            if max(mean) > 0.4:
                found[n, head] = mean.index(max(mean))
    group = c.n_head // c.n_kv_head
    assert found == {(n, kv * group): kv + 1 for n in range(depth // 2) for kv in range(min(2, c.n_kv_head))}


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6, 8, 12, 20, 32])
def test_the_depth_dial_gives_whole_heads_and_a_counted_model(depth):
    c = model_config(depth, 5000, 512)
    assert c.n_embd == c.n_head * (c.n_embd // c.n_head) == 64 * depth and (c.n_embd // c.n_head) % 2 == 0
    assert c.n_ff % 128 == 0 and 8 / 3 * c.n_embd <= c.n_ff < 8 / 3 * c.n_embd + 128
    with torch.device("meta"):
        model = GPT(c)
    matrices = depth * (4 * c.n_embd ** 2 + 3 * c.n_embd * c.n_ff) + 5000 * c.n_embd
    assert model.num_params() == matrices + 5000 * c.n_embd
    assert flops_per_token(c) == 6 * matrices + 12 * depth * c.n_embd * 512


def test_grouped_queries_must_divide_the_heads():
    assert model_config(4, 300, 64, n_kv_head=1).n_kv_head == 1
    with pytest.raises(ValueError, match="--n_kv_head 3"):
        model_config(4, 300, 64, n_kv_head=3)


def test_short_texts_and_cpus_get_short_rows(tmp_path):
    (tmp_path / "short.txt").write_text("x" * 999_999)
    (tmp_path / "more.txt").write_text("x")
    assert choose_seq_len([tmp_path / "short.txt"], on_gpu=True) == 512
    assert choose_seq_len([tmp_path], on_gpu=True) == 2048 == choose_seq_len((), on_gpu=True)
    assert choose_seq_len([tmp_path], on_gpu=False) == 512 == choose_seq_len((), on_gpu=False)
