"""The size of a new model and the weights it starts with. Runs of pretrain.py: test_stages.py."""
import json
import math

import pytest
import torch
import torch.nn.functional as F

import pretrain
from common import GPT, rms_norm, rotary_table, rotate
from machine import Env
from pretrain import DEMO_DEPTH, choose_seq_len, estimate_tokens, init_weights, model_config
from toy import random_ids, run_script, succeed, write_tokenizer
from train.plan import CARDS, card, flops_per_token


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


class Stop(Exception):
    """Ends main() of pretrain.py where the model would be made, which takes a GPU."""


def decide(monkeypatch, capsys, tmp_path, chip, n_tokens, *argv):
    """-> the shape that pretrain.py decides on with such a Chip, and what it prints."""
    write_tokenizer(tmp_path)
    device = "cuda" if chip else "cpu"
    env = Env(torch.device(device), torch.bfloat16)

    def pack(path, documents, tok, seq_len, made_from, env):
        print("packing")
        return range(int(n_tokens) // seq_len)

    def stop(config):
        raise Stop(config)

    monkeypatch.setattr(pretrain, "setup", lambda *args: env)
    monkeypatch.setattr(pretrain, "this_chip", lambda *args: chip)
    monkeypatch.setattr(pretrain, "pack_documents", pack)
    monkeypatch.setattr(pretrain, "GPT", stop)
    monkeypatch.setattr("sys.argv", ["pretrain.py", "--out", str(tmp_path), *map(str, argv)])
    with pytest.raises(Stop) as stopped:
        pretrain.main()
    return stopped.value.args[0], capsys.readouterr().out


def test_the_text_of_the_demo_gets_the_same_model_on_every_machine(monkeypatch, capsys, tmp_path):
    on_cpu, _ = decide(monkeypatch, capsys, tmp_path, None, 5e6, "--data", "demo")
    for chip in CARDS:
        on_gpu, out = decide(monkeypatch, capsys, tmp_path, chip, 5e6, "--data", "demo")
        assert on_gpu == on_cpu and "plan " not in out
    assert on_cpu.n_layer == DEMO_DEPTH and on_cpu.seq_len == 512


def test_on_a_gpu_text_memory_and_hours_decide_and_say_so_before_packing(monkeypatch, capsys,
                                                                         tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Some words, and more of them.\n\n" * 50_000)
    small = card("RTX 3060", 12)

    def depth_of(n_tokens, *argv):
        shape, out = decide(monkeypatch, capsys, tmp_path, small, n_tokens, "--data", text, *argv)
        plan, packing = out.index("plan "), out.index("packing")
        assert plan < packing and " hours" in out[plan:packing]
        return shape.n_layer, out

    assert depth_of(1e6)[0] == DEMO_DEPTH
    # The tokens that are packed count, and not the estimate of 1.6 million.
    depth, out = depth_of(1e11)
    assert "has about 2 M tokens" in out
    slower, _ = depth_of(1e11, "--hours", 2)
    longer, _ = depth_of(1e11, "--hours", 100)
    assert DEMO_DEPTH < slower < depth < longer
    # The one that was asked for, with a word about what it takes.
    given, out = depth_of(1e6, "--depth", 20)
    assert given == 20 and "depth 20 takes " in out and "tokens of text" in out


def test_hours_without_a_gpu_or_a_text_are_an_error(tmp_path):
    write_tokenizer(tmp_path)
    result = run_script("pretrain.py", "--out", tmp_path, "--device", "cpu", "--hours", 3,
                        log=tmp_path / "log")
    assert result.status == 2 and result.stderr.startswith("error: --hours 3: it chooses the depth")


def test_a_resumed_run_keeps_its_depth(monkeypatch, capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Some words, and more of them.\n\n" * 50_000)
    (tmp_path / "pretrain.part").mkdir()
    meta = dict(format=1, settings=dict(n_layer=14))
    (tmp_path / "pretrain.part/meta.json").write_text(json.dumps(meta))
    argv = ["--data", text]
    chip = card("RTX 3060", 12)
    assert decide(monkeypatch, capsys, tmp_path, chip, 1e11, *argv)[0].n_layer == 10
    assert decide(monkeypatch, capsys, tmp_path, chip, 1e11, *argv, "--resume")[0].n_layer == 14


def test_the_tokens_are_estimated_before_packing(tmp_path):
    tok = write_tokenizer(tmp_path)
    (tmp_path / "a").mkdir()
    for i in range(4):
        (tmp_path / f"a/{i}.txt").write_text(f"{i} words and more.\n\n" * 30_000)
    n_bytes = sum(file.stat().st_size for file in (tmp_path / "a").glob("*.txt"))
    # Each byte is a token of this tokenizer.
    assert estimate_tokens([tmp_path / "a"], tok) == pytest.approx(n_bytes, rel=1e-3)


@pytest.mark.slow
def test_plan_needs_no_tokenizer_and_trains_nothing(tmp_path):
    result = succeed("pretrain.py", "--plan", "--device", "cpu", "--out", tmp_path / "none",
                     log=tmp_path / "log")
    assert "unmeasured" in result.stdout and "RTX 3060, 12 GB" in result.stdout
    assert not (tmp_path / "none").exists()
