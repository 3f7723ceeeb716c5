"""common.py in its order, against references: tokenizer and mask, model, loss, checkpoints."""
import base64
import dataclasses
import errno
import itertools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiktoken.load
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

import common
from common import (
    CHUNK,
    SPECIAL_TOKENS,
    LinearCrossEntropy,
    Tokenizer,
    generate,
    load_checkpoint,
    rms_norm,
    save_checkpoint,
    token_losses,
)
from machine import Env, can_compile, set_up_gpu, setup
from toy import chat, merged_tokenizer, random_ids, read_folder, tiny_model, write_tokenizer
from train.optimizer import Optimizer

torch.set_num_threads(1)
ENV = Env(torch.device("cpu"), torch.float32)
needs_compiler = pytest.mark.skipif(not can_compile(ENV.device),
                                    reason="torch.compile needs a C++ compiler")


# ---- tokenizer ----

@pytest.fixture(scope="module")
def byte_tok(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    return merged_tokenizer(tmp_path_factory.mktemp("merged"))


@pytest.fixture(params=["byte_tok", "merged"])
def tok(request):
    return request.getfixturevalue(request.param)


def test_ids_are_tiktokens_and_the_nine_special_tokens_come_last(merged):
    merges = merged.folder / "merges.tiktoken"
    reference = tiktoken.Encoding("reference", pat_str=merged.pattern, special_tokens={},
                                  mergeable_ranks=tiktoken.load.load_tiktoken_bpe(str(merges)))
    text = "x = 12?\n## été 5050 <|bos|>"
    assert merged.encode(text) == reference.encode(text) == merged.encode_batch(["", text])[1]
    assert len(merged.encode(text)) < len(text)
    assert merged.decode(merged.encode(text)) == text
    names = ("bos user_start user_end assistant_start assistant_end "
             "python_start python_end output_start output_end")
    assert [merged.special(f"<|{name}|>") for name in names.split()] == list(range(267, 276))
    assert merged.vocab_size == 276


def test_token_bytes_are_raw_bytes_and_0_for_special_tokens(tok):
    assert tok.token_bytes.dtype == np.int32 and len(tok.token_bytes) == tok.vocab_size
    # The byte 0x80 alone decodes to U+FFFD, which has 3 bytes; the token has one.
    for i in range(tok.vocab_size - 9):
        assert tok.token_bytes[i] == len(tok.enc.decode_single_token_bytes(i))
    assert not tok.token_bytes[-9:].any()
    text = "naïve été 12 = 12 🙂"
    assert tok.token_bytes[tok.encode(text)].sum() == len(text.encode())


def runs(tok, ids, mask):
    """Join ids of ordinary text that have the same mask: [("<|bos|>", 0), ("Weng", 1), ...]."""
    names = {id: name for name, id in tok.specials.items()}

    def kind(pair):
        id, learn = pair
        return names.get(id), learn

    pieces = []
    for (name, learn), group in itertools.groupby(zip(ids, mask), kind):
        ids_of_group = [id for id, _ in group]
        if name:
            pieces += [(name, learn)] * len(ids_of_group)
        else:
            pieces.append((tok.decode(ids_of_group), learn))
    return pieces


def test_the_worked_example_renders_as_the_design_says(tok):
    fixture = Path(__file__).with_name("fixtures") / "weng.json"
    conversation = json.loads(fixture.read_text())
    ids, mask = tok.render_conversation(conversation)
    assert runs(tok, ids, mask) == [
        ("<|bos|>", 0), ("<|user_start|>", 0),
        ("Weng earns $12 an hour for babysitting. Yesterday, she just did 50 minutes of "
         "babysitting. How much did she earn?", 0),
        ("<|user_end|>", 0), ("<|assistant_start|>", 0), ("Weng earns 12/60 = ", 1),
        ("<|python_start|>", 1), ("12/60", 1), ("<|python_end|>", 1),
        ("<|output_start|>", 0), ("0.2", 0), ("<|output_end|>", 0),
        (" per minute. Working 50 minutes, she earned 0.2*50 = ", 1),
        ("<|python_start|>", 1), ("0.2*50", 1), ("<|python_end|>", 1),
        ("<|output_start|>", 0), ("10", 0), ("<|output_end|>", 0),
        (".\n#### 10", 1), ("<|assistant_end|>", 1)]


TWO_TURNS = {"messages": [{"role": "system", "content": "Be short."},
                          {"role": "user", "content": "1 = 12?"},
                          {"role": "assistant", "content": "\n# no"},
                          {"role": "user", "content": "why?"},
                          {"role": "assistant", "content": "## 50 = 50"}]}


def test_the_mask_selects_exactly_the_answers_and_their_ends(tok):
    ids, mask = tok.render_conversation(TWO_TURNS)
    # That includes the first token of an answer and its <|assistant_end|>.
    learned = [id for id, learn in zip(ids, mask) if learn]
    assert tok.decode(learned) == "\n# no<|assistant_end|>## 50 = 50<|assistant_end|>"
    assert len(learned) == len(tok.encode("\n# no")) + len(tok.encode("## 50 = 50")) + 2
    assert runs(tok, ids, mask)[:3] == [("<|bos|>", 0), ("<|user_start|>", 0),
                                        ("Be short.\n\n1 = 12?", 0)]
    assert ids.count(tok.special("<|bos|>")) == 1
    assert ids.index(tok.special("<|user_start|>")) == 1


def test_every_piece_is_encoded_by_itself(merged):
    # Encoded as one text, "?\n" and " = 12" would each become a token across two pieces.
    ids, _ = merged.render_conversation(TWO_TURNS)
    s = merged.special
    assert ids == [
        s("<|bos|>"),
        s("<|user_start|>"), *merged.encode("Be short.\n\n1 = 12?"), s("<|user_end|>"),
        s("<|assistant_start|>"), *merged.encode("\n# no"), s("<|assistant_end|>"),
        s("<|user_start|>"), *merged.encode("why?"), s("<|user_end|>"),
        s("<|assistant_start|>"), *merged.encode("## 50 = 50"), s("<|assistant_end|>")]


def test_special_tokens_that_somebody_types_stay_ordinary_text(tok):
    typed = "".join(SPECIAL_TOKENS) + "<|endoftext|>"
    parts = [{"type": kind, "text": typed} for kind in ("text", "python", "python_output")]
    ids, mask = tok.render_conversation({"messages": [
        {"role": "system", "content": typed}, {"role": "user", "content": typed},
        {"role": "assistant", "content": parts}]})
    first_special = tok.special("<|bos|>")
    order = [SPECIAL_TOKENS[id - first_special] for id in ids if id >= first_special]
    assert order == ["<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>",
                     "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>",
                     "<|assistant_end|>"]
    assert sum(mask) == 2 * len(tok.encode(typed)) + 3


def test_truncated_anywhere_it_is_a_prefix_without_an_end_to_learn(tok):
    ids, mask = tok.render_conversation(TWO_TURNS)
    for n in range(len(ids) + 5):
        assert tok.render_conversation(TWO_TURNS, max_tokens=n) == (ids[:n], mask[:n])
    assert sum(id == tok.special("<|assistant_end|>") for id in ids[:-1]) == 1


def test_other_user_text_changes_no_target(tok):
    """Two conversations that differ in what the user says have the same tokens to learn."""
    dogs, dogs_mask = tok.render_conversation(chat("dogs", "yes"))
    cats, cats_mask = tok.render_conversation(chat("cats", "yes"))
    assert dogs != cats and dogs_mask == cats_mask
    assert ([id for id, learn in zip(dogs, dogs_mask) if learn]
            == [id for id, learn in zip(cats, cats_mask) if learn])


def test_a_prompt_is_what_stood_before_the_answer_in_training(tok):
    ids, mask = tok.render_conversation(TWO_TURNS)
    prompt = tok.render_for_completion(TWO_TURNS)
    start = len(ids) - ids[::-1].index(tok.special("<|assistant_start|>"))
    assert prompt == ids[:start]
    assert mask[start] == 1
    without_answer = {"messages": TWO_TURNS["messages"][:-1]}
    assert prompt == tok.render_for_completion(without_answer)


@pytest.mark.parametrize("roles", [
    "", "assistant", "system", "system assistant", "user user", "user system", "user tool",
    "user assistant assistant"])
def test_a_role_out_of_order_is_an_error(byte_tok, roles):
    messages = [{"role": role, "content": "x"} for role in roles.split()]
    with pytest.raises(ValueError, match="expected"):
        byte_tok.render_conversation({"messages": messages})


def test_the_fingerprint_follows_everything_that_decides_the_ids(byte_tok, merged):
    merges = b"".join(base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256))
    others = [merged, Tokenizer(merges, r"\S|\s"),
              Tokenizer(merges, r"[\s\S]", SPECIAL_TOKENS[::-1])]
    assert Tokenizer(merges, r"[\s\S]").fingerprint == byte_tok.fingerprint
    assert len({t.fingerprint for t in [byte_tok, *others]}) == 4


def test_a_tokenizer_that_a_crash_left_between_two_renames_is_found(tmp_path):
    tok = write_tokenizer(tmp_path)
    (tmp_path / "tokenizer").rename(tmp_path / "tokenizer.old")
    assert Tokenizer.load(tmp_path / "tokenizer").fingerprint == tok.fingerprint
    assert not (tmp_path / "tokenizer.old").exists()


# ---- the model ----

def naive_logits(model, ids, isolate):
    """The model as the papers define it, with loops, in float64: ids (T,) -> logits (T, V)."""
    c = model.config
    weights = {name: p.detach().double() for name, p in model.named_parameters()}
    D = c.n_embd // c.n_head
    group = c.n_head // c.n_kv_head

    def norm(v):
        return v / (v.pow(2).mean() + 1e-6).sqrt()

    def rotated(v, position):
        out = v.clone()
        for i in range(D // 2):
            angle = position * c.rope_theta ** (-2 * i / D)
            out[i] = v[i] * math.cos(angle) - v[i + D // 2] * math.sin(angle)
            out[i + D // 2] = v[i] * math.sin(angle) + v[i + D // 2] * math.cos(angle)
        return out

    def heads(v):
        return [v[i:i + D] for i in range(0, len(v), D)]

    x = [norm(weights["embed"][id]) for id in ids]
    # The first position that each position sees.
    first = [0] * len(ids)
    if isolate:
        for t in range(len(ids)):
            begins = ids[t] == c.vocab_size - 9
            first[t] = t if begins else first[max(0, t - 1)]
    for layer in range(c.n_layer):
        wq, wk, wv, wo = (weights[f"blocks.{layer}.attn.{name}"]
                          for name in ("wq", "wk", "wv", "wo"))
        gate, up, down = (weights[f"blocks.{layer}.mlp.{name}"]
                          for name in ("gate", "up", "down"))
        q = [[rotated(norm(h), t) for h in heads(wq @ norm(v))] for t, v in enumerate(x)]
        k = [[rotated(norm(h), t) for h in heads(wk @ norm(v))] for t, v in enumerate(x)]
        v_ = [heads(wv @ norm(v)) for v in x]
        for t in range(len(x)):
            out = []
            sees = range(first[t], t + 1)
            for h in range(c.n_head):
                weight = [math.exp(q[t][h] @ k[s][h // group] / D ** 0.5) for s in sees]
                total = sum(w * v_[s][h // group] for w, s in zip(weight, sees))
                out.append(total / sum(weight))
            x[t] = x[t] + wo @ torch.cat(out)
            g = gate @ norm(x[t])
            x[t] = x[t] + down @ (g / (1 + torch.exp(-g)) * (up @ norm(x[t])))
    return torch.stack([weights["head"] @ norm(v) for v in x])


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
@pytest.mark.parametrize("isolate", [False, True])
def test_logits_equal_a_naive_loop_in_float64(n_kv_head, isolate):
    model = tiny_model(n_kv_head=n_kv_head)
    ids = random_ids(2, 14)
    ids[:, 0] = ids[0, 5] = ids[1, 9] = ids[1, 10] = model.config.bos
    logits = model(ids, isolate=isolate)
    assert logits.dtype == torch.float32
    for row in range(2):
        expected = naive_logits(model, ids[row].tolist(), isolate)
        torch.testing.assert_close(logits[row].double(), expected, rtol=1e-4, atol=2e-5)


def test_rope_tells_far_positions_apart():
    """bfloat16 cannot tell 256 from 257: angles are float32, whatever the compute dtype."""
    cos, sin = common.rotary_table(torch.arange(4096), 64, 10000.0)
    assert cos.dtype == torch.float32 and cos.shape == (1, 4096, 32)
    exact = np.arange(4096)[:, None] * 10000.0 ** (-np.arange(0, 64, 2) / 64)
    assert np.abs(cos[0].numpy() - np.cos(exact)).max() < 1e-3
    assert np.abs(sin[0].numpy() - np.sin(exact)).max() < 1e-3


def test_the_rotary_table_is_in_no_checkpoint_and_grows_with_the_row():
    config = common.GPTConfig(64, seq_len=16, n_layer=1, n_head=2, n_kv_head=1, n_embd=32, n_ff=64)
    model = common.GPT(config)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    longer = common.GPT(dataclasses.replace(config, seq_len=64))
    longer.load_state_dict(model.state_dict())
    ids = torch.randint(0, 64, (2, 40), generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(ids), longer(ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_later_token_changes_no_earlier_logit(dtype):
    model = tiny_model(n_head=2, n_kv_head=1, n_embd=128)
    model.compute_dtype = dtype
    ids = random_ids(1, 70)
    logits = model(ids)
    for t in 1, 33, 69:
        other = ids.clone()
        other[0, t] = (ids[0, t] + 1) % 256
        changed = model(other)
        assert torch.equal(changed[:, :t], logits[:, :t])
        assert not torch.equal(changed[:, t], logits[:, t])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_packed_conversations_do_not_see_each_other_to_the_bit(dtype, n_kv_head):
    model = tiny_model(n_head=2, n_kv_head=n_kv_head, n_embd=128)
    model.compute_dtype = dtype
    # From 160 on there is padding: one <|bos|> after the other.
    T = 170
    starts = [0, 37, 80, 150]
    ids = random_ids(2, T)
    ids[:, starts + list(range(160, T))] = model.config.bos
    logits = model(ids, isolate=True)
    assert torch.isfinite(logits).all()
    for start, end in zip(starts, starts[1:] + [160]):
        other = ids.clone()
        other[:, start + 1:end] = random_ids(2, end - start - 1, seed=1)
        changed = model(other, isolate=True)
        rest = [t for t in range(T) if not start < t < end]
        assert torch.equal(changed[:, rest], logits[:, rest])
        assert not torch.equal(changed[:, start + 1:end], logits[:, start + 1:end])
        # Without isolate they do see each other.
        assert not torch.equal(model(other)[:, rest], model(ids)[:, rest])
        # Each has the logits that it would have in a row of its own, up to rounding.
        alone = model(ids[:, start:end])
        tolerance = 1e-3 if dtype is torch.float32 else 0.15
        torch.testing.assert_close(alone, logits[:, start:end], rtol=0.05, atol=tolerance)


def naive_varlen_attn(q, k, v, bounds_q, bounds_k, max_q, max_k, window_size, enable_gqa):
    """Causal attention of a document after the other: (N, H, D), (N, Hkv, D) -> (N, H, D)."""
    assert bounds_q is bounds_k and window_size == (-1, 0) and enable_gqa
    assert bounds_q.dtype == torch.int32 and bounds_q[0] == 0 and bounds_q[-1] == len(q)
    group = q.size(1) // k.size(1)
    outputs = []
    for start, end in itertools.pairwise(bounds_q.tolist()):
        assert 0 <= end - start <= max_q == max_k
        for t in range(start, end):
            keys, values = (x[start:t + 1].repeat_interleave(group, dim=1) for x in (k, v))
            scores = (q[t] * keys).sum(-1) * q.size(-1) ** -0.5          # (t - start + 1, H)
            outputs.append((scores.softmax(0)[..., None] * values).sum(0))
    return torch.stack(outputs)


@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_cut_at_the_documents_bounds_attention_is_that_of_the_mask(monkeypatch, n_kv_head):
    model = tiny_model(n_head=2, n_kv_head=n_kv_head)
    ids = random_ids(2, 40)
    # The first row ends with padding, the second one with the first token of a document.
    ids[0, [0, 7, 20, *range(33, 40)]] = model.config.bos
    ids[1, [0, 25, 39]] = model.config.bos
    targets = ids.roll(-1, 1).masked_fill(random_ids(2, 40, seed=1, high=3) == 0, -1)
    targets[0, 32:] = -1
    calls = []

    def spy(*args, **kwargs):
        calls.append(args)
        return naive_varlen_attn(*args, **kwargs)

    monkeypatch.setattr(common, "has_varlen", lambda x, dtype: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", spy)
    results = []
    for isolate in True, common.document_bounds(ids):
        loss = model(ids, targets, isolate=isolate)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
        model.zero_grad()
    assert len(calls) == model.config.n_layer
    for by_mask, by_bounds in zip(*results, strict=True):
        torch.testing.assert_close(by_bounds, by_mask, rtol=1e-4, atol=1e-5)


def test_the_bounds_are_the_documents_of_all_rows_and_few_sizes():
    bos = 9
    ids = torch.tensor([[9, 1, 2, 9, 3, 9, 9, 9],
                        [9, 9, 9, 9, 9, 9, 9, 9],
                        [9, 4, 5, 6, 7, 8, 1, 9]])
    bounds = common.document_bounds(ids)
    # Padding counts from its last <|bos|> on, but no document is longer than a row.
    expected = [0, 3, 7, 8, 15, 16, 23]
    assert bounds.dtype == torch.int32 and bounds.tolist() == expected + 57 * [24]
    sizes = {len(common.document_bounds(torch.tensor([[bos, 1] * n]))) for n in range(1, 300)}
    assert sizes == {64, 128, 256, 512}
    # The last one always is the end.
    for n in 63, 64, 127, 128:
        bounds = common.document_bounds(torch.tensor([[bos, 1] * n])).tolist()
        assert bounds[:n] == list(range(0, 2 * n, 2)) and set(bounds[n:]) == {2 * n}


def test_where_flash_attention_is_missing_bounds_mean_the_mask():
    model = tiny_model()
    ids = random_ids(2, 40)
    ids[:, [0, 9]] = model.config.bos
    assert torch.equal(model(ids, isolate=common.document_bounds(ids)), model(ids, isolate=True))
    assert common.isolation(ids) is True
    with FakeTensorMode():
        on_gpu = torch.empty(1, 2, device="cuda", dtype=torch.int64)
    assert common.has_varlen(on_gpu, torch.bfloat16)
    # A T4 computes in float16, and has no kernel for it.
    assert not common.has_varlen(on_gpu, torch.float16)
    assert not common.has_varlen(ids, torch.bfloat16)


def test_no_gradient_crosses_conversations():
    model = tiny_model()
    ids = torch.cat([torch.arange(0, 16), torch.arange(16, 32)])[None]
    ids[0, 0] = ids[0, 16] = model.config.bos
    targets = torch.full_like(ids, -1)
    # Only the first conversation is learned.
    targets[0, :15] = ids[0, 1:16]
    model(ids, targets, isolate=True).backward()
    assert model.embed.grad[1:15].abs().amax(1).min() > 0
    assert model.embed.grad[17:32].abs().max() == 0


def test_bfloat16_compute_stays_near_float32_and_every_weight_is_float32():
    model = tiny_model(n_embd=64)
    ids = random_ids(2, 32)
    exact = model(ids, ids).item()
    model.compute_dtype = torch.bfloat16
    loss = model(ids, ids)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact, rel=0.01)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


@needs_compiler
@pytest.mark.slow
def test_the_compiled_loss_and_gradients_equal_the_plain_ones():
    model = tiny_model(n_layer=1)
    ids = random_ids(2, 32)
    ids[:, [0, 11]] = model.config.bos
    targets = ids.roll(-1, 1).masked_fill(random_ids(2, 32, seed=1, high=3) == 0, -1)
    results = []
    for f in model, torch.compile(model, dynamic=False):
        loss = f(ids, targets, isolate=True)
        loss.backward()
        results.append([loss.detach()] + [p.grad for p in model.parameters()])
        model.zero_grad()
    for plain, compiled in zip(*results):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.slow
def test_a_compiled_step_on_two_threads_gives_the_same_gradients_to_the_bit():
    """--resume needs that. By default, threads add up the embedding's gradient in any order."""
    env = setup("cpu", "bfloat16")
    model = tiny_model(n_layer=1, n_embd=64, vocab_size=64, seq_len=512)
    model.compute_dtype = env.dtype
    compiled = torch.compile(model, dynamic=False)
    ids = torch.randint(64, (16, 512))
    steps = []
    torch.set_num_threads(2)
    try:
        for _ in range(4):
            model.zero_grad()
            loss = compiled(ids, ids.roll(-1, 1))
            loss.backward()
            steps.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    finally:
        torch.set_num_threads(1)
    for step in steps[1:]:
        assert all(torch.equal(a, b) for a, b in zip(step, steps[0], strict=True))


@needs_compiler
@pytest.mark.slow
def test_the_compiled_attention_equals_sdpa_and_keeps_what_is_masked_out_to_the_bit():
    rng = torch.Generator().manual_seed(0)
    q, k, v = (rms_norm(torch.randn(2, 2, 48, 16, generator=rng)).bfloat16() for _ in range(3))
    # Documents of 20 tokens.
    document = torch.arange(48) // 20
    visible = torch.ones(48, 48).tril().bool() & (document[:, None] == document)
    attn_mask = torch.zeros(48, 48).masked_fill(~visible, -math.inf).bfloat16().expand(2, 1, 48, 48)
    compiled = torch.compile(common.attend, dynamic=False)
    for mask in None, attn_mask:
        torch.testing.assert_close(compiled(q, k, v, mask), common.attend(q, k, v, mask),
                                   rtol=0.02, atol=0.02)
    before = compiled(q, k, v, attn_mask)
    k[:, :, 20:40] *= -1
    v[:, :, 20:40] *= 7
    after = compiled(q, k, v, attn_mask)
    rest = [*range(20), *range(40, 48)]
    assert torch.equal(after[:, :, rest], before[:, :, rest]) and not torch.equal(after, before)


def test_cudnn_attends_in_causal_training_alone(monkeypatch):
    """With a mask its gradients can be NaN, and for every length of a prompt it makes a plan."""
    allowed = []

    def sdpa(q, k, v, attn_mask=None, is_causal=False):
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return q
    monkeypatch.setattr(common.F, "scaled_dot_product_attention", sdpa)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        set_up_gpu(torch.device("cuda", 0))
        with FakeTensorMode():
            q = torch.empty(1, 2, 64, 16, device="cuda")
            mask = torch.empty(1, 1, 64, 64, device="cuda")
            common.attend(q, q, q, None)
            common.attend(q, q, q, mask)
            with torch.no_grad():
                common.attend(q, q, q, None)
        # What decoding calls comes next.
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
    assert allowed == [True, False, False, False]


# ---- the loss ----

def loss_inputs(n, share, seed=0, C=16, V=50):
    rng = torch.Generator().manual_seed(seed)
    x, head = (torch.randn(size, C, generator=rng).requires_grad_() for size in (n, V))
    targets = torch.randint(0, V, (n,), generator=rng)
    return x, head, targets.masked_fill(torch.rand(n, generator=rng) >= share, -1)


@pytest.mark.parametrize("n", [1, 100, CHUNK, CHUNK + 1, 2 * CHUNK + 77])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_both_losses_equal_pytorchs_on_the_full_logits(n, share):
    x, head, targets = loss_inputs(n, share)
    weights = torch.rand(n, generator=torch.Generator().manual_seed(1))

    def gradients(loss):
        return torch.autograd.grad(loss, [x, head])

    reference = F.cross_entropy(x @ head.T, targets, ignore_index=-1, reduction="sum")
    loss = LinearCrossEntropy.apply(x, head, targets)
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients(0.37 * loss), gradients(0.37 * reference)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    reference = F.cross_entropy(x @ head.T, targets, ignore_index=-1, reduction="none")
    losses = token_losses(x, head, targets)
    torch.testing.assert_close(losses, reference, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients((losses * weights).sum()),
                            gradients((reference * weights).sum())):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_batch_without_any_target_has_loss_0_and_gradient_0():
    x, head, targets = loss_inputs(CHUNK + 5, 0.0)
    assert (targets == -1).all()
    for loss in LinearCrossEntropy.apply(x, head, targets), token_losses(x, head, targets).sum():
        gradients = torch.autograd.grad(loss, [x, head])
        assert loss.item() == 0 and all(g.abs().max() == 0 for g in gradients)
    model = tiny_model()
    ids = random_ids(2, 32)
    model(ids, torch.full_like(ids, -1), isolate=True).backward()
    assert all(p.grad.abs().max() == 0 for p in model.parameters())


def test_the_losses_stay_finite_at_extreme_logits_and_near_float32_in_bfloat16():
    x, head, targets = loss_inputs(300, 0.7)
    for factor in 1e3, 1e-3:
        loss = LinearCrossEntropy.apply(x * factor, head, targets)
        gradients = torch.autograd.grad(loss, [x, head])
        assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in gradients)
        assert torch.isfinite(token_losses(x * factor, head, targets)).all()
    exact = LinearCrossEntropy.apply(x, head, targets)
    coarse = LinearCrossEntropy.apply(x.bfloat16(), head, targets)
    assert coarse.dtype == torch.float32 and coarse.item() == pytest.approx(exact.item(), rel=5e-3)
    dx, dhead = torch.autograd.grad(coarse, [x, head])
    exact_dx, exact_dhead = torch.autograd.grad(exact, [x, head])
    assert dhead.dtype == torch.float32
    assert (dx - exact_dx).norm() < 0.01 * exact_dx.norm()
    assert (dhead - exact_dhead).norm() < 0.01 * exact_dhead.norm()


# ---- generation, plainly ----

def test_generate_takes_the_likeliest_id_each_time_and_ends_after_a_stop_id():
    model = tiny_model()
    ids = [1, 2, 3]
    for _ in range(8):
        ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    assert generate(model, [1, 2, 3], 8) == ids[3:] and generate(model, [1, 2, 3], 0) == []
    first = ids[3:].index(ids[5])
    assert generate(model, [1, 2, 3], 8, stop={ids[5]}) == ids[3:4 + first]


def test_generate_draws_by_the_probabilities_at_a_temperature():
    model = tiny_model()
    logits = model(torch.tensor([[1, 2, 3]]))[0, -1]
    drawn = torch.tensor([generate(model, [1, 2, 3], 1, temperature=2.0, seed=seed)[0]
                          for seed in range(2000)])
    shares = drawn.bincount(minlength=265) / 2000
    assert (shares - (logits / 2).softmax(-1)).abs().max() < 0.04
    assert (generate(model, [1, 2], 9, temperature=1.0, seed=5)
            == generate(model, [1, 2], 9, temperature=1.0, seed=5))


# ---- checkpoints ----

@pytest.fixture
def out(tmp_path):
    """A folder with a tokenizer; save(step) writes a checkpoint in which all weights are `step`."""
    tok = write_tokenizer(tmp_path)
    model = tiny_model(n_layer=1)
    optimizer = Optimizer(model, ENV, 0.05, 0.3, 0.01, 0.1)

    def save(step, name="sft"):
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(step)
        meta = dict(stage=name, step=step, settings={}, tokenizer=tok.fingerprint)
        save_checkpoint(tmp_path / name, model, meta, [dict(step=step)], optimizer, ENV)
    return SimpleNamespace(path=tmp_path, save=save)


def test_a_checkpoint_is_plain_float32_tensors_json_and_nothing_else(out):
    out.save(3)
    files = sorted(read_folder(out.path / "sft"))
    assert files == ["meta.json", "metrics.jsonl", "model.pt", "optim.pt"]
    weights = torch.load(out.path / "sft/model.pt", weights_only=True)
    assert list(weights) == [name for name, _ in tiny_model(n_layer=1).named_parameters()]
    assert {w.dtype for w in weights.values()} == {torch.float32}
    model, tok, meta = load_checkpoint(out.path / "sft")
    assert not model.training and meta["step"] == 3 and meta["format"] == 1
    assert all((p == 3).all() for p in model.parameters())


class Killed(BaseException):
    """Not an Exception, so that no handler tidies up: the files stay as kill -9 leaves them."""


@pytest.mark.slow
def test_killed_at_any_moment_of_a_save_the_old_or_the_new_checkpoint_is_whole(out, monkeypatch):
    """Every call that changes the disk is a moment; the process is killed at each of them once."""
    moment = itertools.count()

    def watch(owner, name, leave=lambda path: None):
        """Kill the process at the call that is moment number kill_at; leave what is half done."""
        original = getattr(owner, name)

        def watched(path, *args, **kwargs):
            if next(moment) == kill_at:
                leave(path)
                raise Killed
            return original(path, *args, **kwargs)
        monkeypatch.setattr(owner, name, watched)

    def torn_file(path):
        path.write_bytes(b"torn")

    def torn_folder(path):
        for f in sorted(Path(path).glob("*"))[:2]:
            f.unlink()

    for kill_at in range(100):
        for name in list(out.path.glob("sft*")):
            shutil.rmtree(name)
        out.save(1)
        moment = itertools.count()
        watch(common, "write_synced", torn_file)
        watch(Path, "rename")
        watch(Path, "mkdir")
        watch(shutil, "rmtree", torn_folder)
        try:
            out.save(2)
            finished = True
        except Killed:
            finished = False
        monkeypatch.undo()
        model, _, meta = load_checkpoint(out.path / "sft")
        assert meta["step"] in ((2,) if finished else (1, 2))
        assert all((p == meta["step"]).all() for p in model.parameters())
        # Whatever was left behind, the next save works and cleans up.
        out.save(3)
        _, _, meta = load_checkpoint(out.path / "sft")
        assert meta["step"] == 3 and [f.name for f in out.path.glob("sft*")] == ["sft"]
        if finished:
            break
    assert 8 < kill_at < 99


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"),
                                   RuntimeError("PytorchStreamWriter failed writing file")])
@pytest.mark.parametrize("nth", [0, 1, 3])
def test_a_full_disk_is_one_clear_error_and_the_old_checkpoint_stays(out, monkeypatch, error, nth):
    out.save(1)
    before = read_folder(out.path / "sft")
    write_synced = common.write_synced
    calls = itertools.count()

    def failing(path, write):
        if next(calls) == nth:
            raise error
        write_synced(path, write)

    monkeypatch.setattr(common, "write_synced", failing)
    with pytest.raises(OSError,
                       match="sft: the checkpoint could not be written .*untouched.*disk space"):
        out.save(2)
    assert read_folder(out.path / "sft") == before
    assert [f.name for f in out.path.glob("sft*")] == ["sft"]


def test_a_machine_without_git_saves_as_well(out, monkeypatch):
    monkeypatch.setenv("PATH", "")
    out.save(1)
    assert load_checkpoint(out.path / "sft")[2]["versions"]["commit"] is None
