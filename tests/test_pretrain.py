"""The size of a new model and the weights it starts with. Runs of pretrain.py: test_stages.py."""
import math

import pytest
import torch
import torch.nn.functional as F

from common import GPT, rms_norm, rotary_table, rotate
from pretrain import choose_seq_len, init_weights, model_config
from toy import random_ids
from train.plan import flops_per_token


def test_a_new_model_predicts_nothing_and_is_the_seeds_function():
    model = GPT(model_config(2, 300, 64))
    init_weights(model, 3)
    ids = random_ids(2, 64)
    assert model(ids, ids).item() / ids.numel() == pytest.approx(math.log(300), rel=1e-6)
    for name, p in model.named_parameters():
        # The next test checks the heads that look back, and channel 0 of the embedding.
        if name in ("blocks.0.attn.wq", "blocks.0.attn.wk"):
            continue
        expected = p.size(1) ** -0.5
        if name == "embed":
            p = p[:, 1:]
            expected = 1.0
        elif name.endswith(("wo", "down", "head")):
            expected = 0.0
        assert p.std().item() == pytest.approx(expected, rel=0.05)
        assert abs(p.mean().item()) < 0.02
    same = GPT(model.config)
    init_weights(same, 3)
    other = GPT(model.config)
    init_weights(other, 4)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), same.parameters()))
    assert not torch.equal(model.embed, other.embed)
    assert not torch.equal(model.blocks[0].attn.wq, model.blocks[0].attn.wk)
    x = rms_norm(torch.randn(500, 128)) @ model.blocks[0].attn.wv.T
    # Activations keep rms 1.
    assert x.std().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("depth, n_kv_head", [(2, 0), (3, 0), (4, 0), (4, 1), (8, 2)])
def test_at_first_two_heads_of_the_lower_blocks_look_one_and_two_tokens_back(depth, n_kv_head):
    c = model_config(depth, 300, 64, n_kv_head)
    D = c.n_embd // c.n_head
    group = c.n_head // c.n_kv_head
    model = GPT(c)
    init_weights(model, 0)
    cos, sin = rotary_table(torch.arange(64), D, c.rope_theta)

    def heads(x, weight):
        return rotate(rms_norm((x @ weight.T).view(4, 64, -1, D).transpose(1, 2)), cos, sin)

    # Blocks add nothing yet, so that the input of all of them is the same.
    x = rms_norm(F.embedding(random_ids(4, 64), model.embed))
    found = {}
    for n, block in enumerate(model.blocks):
        q = heads(x, block.attn.wq)
        k = heads(x, block.attn.wk).repeat_interleave(group, dim=1)
        scores = q @ k.mT / D ** 0.5
        weights = scores.masked_fill(torch.ones(64, 64).triu(1) > 0, -math.inf).softmax(-1)
        for head in range(c.n_head):
            # For every distance d, the mean weight of the token d places back.
            mean = [weights[:, head].diagonal(-d, -2, -1).mean().item() for d in range(8)]
            if max(mean) > 0.4:
                found[n, head] = mean.index(max(mean))
    expected = {(n, kv_head * group): kv_head + 1
                for n in range(depth // 2) for kv_head in range(min(2, c.n_kv_head))}
    assert found == expected


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6, 8, 12, 20, 32])
def test_the_depth_dial_gives_whole_heads_and_a_counted_model(depth):
    c = model_config(depth, 5000, 512)
    assert c.n_embd == c.n_head * (c.n_embd // c.n_head) == 64 * depth
    assert (c.n_embd // c.n_head) % 2 == 0
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
    assert choose_seq_len([tmp_path], on_gpu=True) == 2048
    # The demo has the same size on every machine.
    assert choose_seq_len((), on_gpu=True) == 512
    assert choose_seq_len([tmp_path], on_gpu=False) == 512 == choose_seq_len((), on_gpu=False)
