"""rl.py, its method and its runs.

The method: the gradient against an exact one, the engine against the trainer, the mask, how a step
is cut, attacks on the reward. Mutants of rl.py hold the bugs that others shipped, and the usual
slips; one of these checks must notice each.
"""
import functools
import importlib.util
import json
import random
import re
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import talk.engine
from common import (
    GPT,
    GPTConfig,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    trained_anew,
)
from data.grading import same_final_number
from machine import Env
from talk.engine import Engine, parse_answer
from test_ranks import torchrun
from test_stages import interrupt, metrics, same
from toy import (
    ROOT,
    WORDS,
    chat,
    fails_with_one_line,
    read_folder,
    run_script,
    write_jsonl,
    write_tokenizer,
)
from train.optimizer import Optimizer

torch.set_num_threads(1)
G = 4
ENV = Env(torch.device("cpu"), torch.float32)


def module_of(source):
    """rl.py, or a mutant of it, as a module of its own."""
    spec = importlib.util.spec_from_loader("rl_under_test", loader=None)
    module = importlib.util.module_from_spec(spec)
    sys.modules["rl_under_test"] = module
    exec(compile(source, "rl.py", "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def rl():
    return module_of((ROOT / "rl.py").read_text())


def tiny_policy(tmp_path, seed=0, tokens=(b"a", b"b"), seq_len=32):
    """A model of two ordinary tokens: in text it may say a, b, open a tool call or end."""
    tok = write_tokenizer(tmp_path, pattern=r"[\s\S]", tokens=list(tokens))
    model = GPT(GPTConfig(len(tokens) + 9, seq_len, 1, 1, 1, 16, 24))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * p.size(1) ** -0.5)
    return model, tok


def problem(grade, question="ab"):
    return {"messages": [{"role": "user", "content": question}]}, grade


def sample_groups(rl, model, tok, problems, n_tokens, group_size=G, seed=0):
    engine = Engine(model, tok, max_rows=64, compile=False)
    prompts = [tok.render_for_completion(conversation) for conversation, _ in problems]
    groups = rl.roll_out(engine, prompts, range(len(prompts)), group_size, n_tokens, seed)
    rl.reward_answers(groups, problems, tok)
    return groups


def gradient(rl, model, tok, answers, n_answers, n_tokens, batch_size=64, row_len=33):
    """Gradient of the loss over some answers, flat."""
    packed = rl.pack_answers(answers, row_len, tok)
    specials = Engine(model, tok, compile=False).specials[:2]
    for piece in rl.micro_batches(packed, batch_size):
        logps = rl.sampled_logps(model, piece["ids"], piece["in_code"], piece["sampled"], specials)
        rl.rl_loss(logps, piece["advantage"][:, 1:], n_answers, n_tokens).backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad(set_to_none=True)
    return flat


# ---- 1. the sampled gradient is the exact one ----

def reward_of(text):
    """A reward in which every position counts: answers that say a, or a tool call and then b."""
    return {"": 0.0, "a": 1.0, "ab": 0.5, "ba": 0.25}.get(text, 0.0)


def exact_gradient(model, tok, prompt, n_tokens, output):
    """The gradient of the expected reward by going through every answer there can be."""
    special = tok.special
    first_special = min(tok.specials.values())

    def expected(ids, n_left, text, in_code):
        logits = model(torch.tensor([ids]))[0, -1]
        names = ["<|python_end|>"] if in_code else ["<|python_start|>", "<|assistant_end|>"]
        allowed = [*range(first_special), *(special(name) for name in names)]
        total = 0.0
        for id, p in zip(allowed, logits[allowed].softmax(-1)):
            if id == special("<|assistant_end|>"):
                total = total + p * reward_of(text)
                continue
            new = [id]
            if id == special("<|python_end|>"):
                new += [special("<|output_start|>"), *tok.encode(output), special("<|output_end|>")]
            if len(new) < n_left:
                ordinary = id < first_special
                said = text + tok.decode([id]) if ordinary and not in_code else text
                now_in_code = id == special("<|python_start|>") or (in_code and ordinary)
                total = total + p * expected(ids + new, n_left - len(new), said, now_in_code)
        return total

    expected(prompt, n_tokens, "", False).backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad(set_to_none=True)
    return flat


def check_enumeration(rl, tmp_path, monkeypatch, n_groups=4000):
    monkeypatch.setattr(talk.engine, "run_python", lambda code: "b")
    model, tok = tiny_policy(tmp_path)
    with torch.no_grad():
        model.head *= 2
    grade = lambda conversation, answer: reward_of(
        "".join(part["text"] for part in answer if part["type"] == "text"))
    problems = [problem(grade)] * n_groups
    n_tokens = 6
    groups = sample_groups(rl, model, tok, problems, n_tokens)
    answers = [answer for group in groups for answer in group]
    sampled = gradient(rl, model, tok, answers, len(answers), n_tokens)
    prompt = tok.render_for_completion(problems[0][0])
    exact = -exact_gradient(model, tok, prompt, n_tokens, "b") / n_tokens * (G - 1) / G
    assert (sampled - exact).norm() < 0.1 * exact.norm()


# ---- 2. the engine's log-probabilities are the trainer's ----

def check_gap(rl, tmp_path, monkeypatch):
    monkeypatch.setattr(talk.engine, "run_python", lambda code: "ba")
    model, tok = tiny_policy(tmp_path, seed=1)
    questions = ["a" * 20 + "b", "a" * 20 + "bb", "ab"]
    problems = [problem(lambda c, answer: 1.0, q) for q in questions]
    engine = Engine(model, tok, max_rows=8, compile=False)
    optimizer = Optimizer(model, ENV, 0.05, 0.05, 0.05, 0.0)
    n_calls = 0
    for step in range(3):
        # The two long ones lose the beginning of the question.
        prompts = [rl.prompt_ids(conversation, tok, 32, 8) for conversation, _ in problems]
        assert [len(prompt) for prompt in prompts] == [24, 24, 6]
        assert {prompt[0] for prompt in prompts} == {tok.special("<|bos|>")}
        groups = rl.roll_out(engine, prompts, range(3), 6, 8, seed=step)
        answers = [answer for group in groups for answer in group]
        n_calls += sum(tok.special("<|python_end|>") in answer.ids for answer in answers)
        packed = rl.pack_answers(answers, 33, tok)
        logps = rl.sampled_logps(model, packed["ids"], packed["in_code"], packed["sampled"],
                                 engine.specials[:2])
        sampled = packed["sampled"][:, 1:]
        assert sampled.sum() == sum(sum(answer.sampled) for answer in answers)
        gap = (logps - packed["engine_logps"][:, 1:])[sampled].abs().max()
        assert gap < 1e-4
        (-logps.sum()).backward()
        optimizer.step(1.0, 0.9)
        engine.update(model)
    assert n_calls > 3


# ---- 3. the mask ----

def check_mask(rl, tmp_path, monkeypatch):
    model, tok = tiny_policy(tmp_path, seed=1)
    for output in "b", "a":
        monkeypatch.setattr(talk.engine, "run_python", lambda code: output)
        groups = sample_groups(rl, model, tok, [problem(lambda c, answer: 1.0)] * 30, 12)
        called = 0
        answers = [answer for group in groups for answer in group]
        for answer in answers:
            forced = {tok.special("<|output_start|>"), tok.special("<|output_end|>")}
            expected = []
            in_output = False
            for position, id in enumerate(answer.ids):
                if id == tok.special("<|output_start|>"):
                    in_output = True
                expected.append(int(position >= answer.n_prompt and not in_output))
                called += in_output
                if id == tok.special("<|output_end|>"):
                    in_output = False
            assert answer.sampled == expected
            learned = [id for id, learn in zip(answer.ids, answer.sampled) if learn]
            assert forced.isdisjoint(learned)
            # The end of an answer is sampled, and so it is learned.
            if answer.ended:
                assert learned[-1] == answer.ids[-1] == tok.special("<|assistant_end|>")
        assert called
        packed = rl.pack_answers(answers, 33, tok)
        assert int(packed["sampled"].sum()) == sum(sum(answer.sampled) for answer in answers)


# ---- 4. however a step is cut ----

def check_invariance(rl, tmp_path, monkeypatch):
    monkeypatch.setattr(talk.engine, "run_python", lambda code: "b")
    model, tok = tiny_policy(tmp_path, seed=2)
    rewards = random.Random(0)
    coin = lambda conversation, answer: rewards.choice([0.0, 1.0])
    problems = [problem(coin, "ab" * n) for n in range(1, 7)]
    groups = sample_groups(rl, model, tok, problems, 8)
    answers = [answer for group in groups for answer in group]
    assert any(answer.advantage for answer in answers)
    n = len(answers)
    n_tokens = 8
    whole = gradient(rl, model, tok, answers, n, n_tokens)
    close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-7)
    for batch_size in 1, 2, 3, 4:
        close(gradient(rl, model, tok, answers, n, n_tokens, batch_size), whole)
    shuffled = answers[:]
    random.Random(1).shuffle(shuffled)
    close(gradient(rl, model, tok, shuffled, n, n_tokens), whole)
    # Two ranks: each has half of the groups, both divide by the answers of the whole step.
    halves = [gradient(rl, model, tok, [a for group in half for a in group], n, n_tokens)
              for half in (groups[:3], groups[3:])]
    close(halves[0] + halves[1], whole)
    # Groups of equal rewards have no gradient of their own, but they stay in the denominator.
    equal = sample_groups(rl, model, tok, [problem(lambda c, answer: 0.0)] * 6, 8, seed=5)
    more = answers + [answer for group in equal for answer in group]
    close(gradient(rl, model, tok, more, len(more), n_tokens), whole * n / len(more))


# ---- 5. attacks ----

def hostile_answers(rng):
    """Answers by which a model could try to be right without saying the right number last."""
    wrong = rng.choice(["7", "41", "420", "-42", "4.2"])
    text = lambda s: {"type": "text", "text": s}
    return rng.choice([
        [text(f"#### 42\n#### {wrong}")],
        [text(f"#### {wrong} #### ")],
        [text("42")],
        [text("The answer is 42.")],
        [text("#### "), {"type": "python", "text": "42"}, {"type": "python_output", "text": "42"}],
        [{"type": "python", "text": "'#### 42'"}, {"type": "python_output", "text": "#### 42"}],
        [text(f"#### {wrong} or 42")],
        [text("#### 42/1")],
        [text("#### 6*7=42")],
        [text("What is 6*7? #### ")],
        [text("#### forty-two")],
        [text(f"####{wrong}42")],
        [],
    ])


def check_attacks(rl, tmp_path, monkeypatch):
    model, tok = tiny_policy(tmp_path, tokens=[bytes([i]) for i in range(256)], seq_len=128)
    rng = random.Random(0)
    grade = lambda conversation, answer: same_final_number(answer, "#### 42")
    honest = [{"type": "text", "text": "6*7 = "}, {"type": "python", "text": "6*7"},
              {"type": "python_output", "text": "42"}, {"type": "text", "text": "\n#### 42"}]

    def as_answer(parts, ended=True):
        conversation = {"messages": [{"role": "user", "content": "What is 6*7?"},
                                     {"role": "assistant", "content": parts}]}
        ids, mask = tok.render_conversation(conversation)
        n_prompt = len(tok.render_for_completion(conversation))
        if not ended:
            ids = ids[:-1]
            mask = mask[:-1]
        return rl.Answer(ids, mask, [-1.0] * sum(mask), ended, n_prompt)

    for _ in range(200):
        group = [as_answer(honest), as_answer(hostile_answers(rng)), as_answer(honest, ended=False)]
        rl.reward_answers([group], [problem(grade)], tok)
        assert [answer.reward for answer in group] == [1, 0, 0]
        advantages = [answer.advantage for answer in group]
        assert advantages == pytest.approx([2 / 3, -1 / 3, -1 / 3])
        group = [as_answer(honest), as_answer(honest, ended=False)]
        rl.reward_answers([group], [problem(grade)], tok)
        assert [answer.reward for answer in group] == [1, 0]
        # Where wrong answers cost something, not to end is no way out.
        group = [as_answer(honest), as_answer(hostile_answers(rng)), as_answer(honest, ended=False)]
        costly = lambda conversation, answer: 1.0 if grade(conversation, answer) else -2.0
        rl.reward_answers([group], [problem(costly)], tok)
        assert [answer.reward for answer in group] == [1, -2, -2]
    failed = [as_answer(hostile_answers(rng)) for _ in range(8)]
    rl.reward_answers([failed], [problem(grade)], tok)
    assert not gradient(rl, model, tok, failed, 8, 10, row_len=129).any()


# ---- mutants: the bugs that others shipped, and the usual slips ----

LOSS = "(advantage * logps).sum() / (n_answers * max_tokens)"
# What is wrong -> what stands in rl.py, and in the mutant.
MUTANTS = {
    "sign": ("return -(advantage * logps)", "return (advantage * logps)"),
    "mask shifted by one": ("masked_fill(~sampled[:, 1:]", "masked_fill(~sampled[:, :-1]"),
    "targets not shifted": ("targets = ids[:, 1:]", "targets = ids[:, :-1]"),
    "tool outputs trained": ("[0] * g.n_prompt + g.sampled",
                             "[0] * g.n_prompt + [1] * len(g.sampled)"),
    "prompts trained": ("[0] * g.n_prompt + g.sampled", "[1] * g.n_prompt + g.sampled"),
    "end not trained": ("sampled = torch.tensor(answer.sampled, dtype=torch.bool)",
                        "sampled = torch.tensor(answer.sampled[:-1] + [0], dtype=torch.bool)"),
    "sampled at another temperature": ("Sampling(temperature=1.0", "Sampling(temperature=0.7"),
    "sampled with top-k": ("Sampling(temperature=1.0", "Sampling(temperature=1.0, top_k=2"),
    "divided by a micro-batch's rows": (LOSS, LOSS.replace("n_answers", "len(logps)")),
    "divided by the sampled tokens": (LOSS, "(advantage * logps).sum() / (advantage != 0).sum()"),
    "no baseline": ("answer.advantage = answer.reward - mean", "answer.advantage = answer.reward"),
    "mean of the others": ("for answer in group) / len(group)",
                           "for answer in group) / (len(group) - 1)"),
    "mean over all groups": ("mean = sum(answer.reward for answer in group)",
                             "mean = sum(answer.reward for group in groups for answer in group)"),
    "answers that did not end are graded": ("            if answer.ended:", "            if True:"),
    "not to end is a way out": ("answer.reward = least", "answer.reward = 0.0"),
    "a long prompt loses <|bos|>": ("ids[:1] + ids[1 - room:]", "ids[-room:]"),
    "a long prompt leaves no space": ("ids[1 - room:]", "ids[1:]"),
    "special tokens not masked": ("+ specials[in_code[:, :-1]]", ""),
    "the mask of text in tool calls": ("state = int(id == opens)", "state = 0"),
    "state of the call one id late": ("specials[in_code[:, :-1]]", "specials[in_code[:, 1:]]"),
    "answers see each other": ("isolate=isolation(ids)", "isolate=False"),
    "filling rows trained": ("copies[key] = torch.zeros_like(copies[key])", "pass"),
    "one draw for the whole group": ("copy=copy", "copy=0"),
    "every step draws the same": ("seed=seed)", "seed=0)"),
    "answers encoded anew": (
        "[Answer(g.ids,",
        "[Answer(g.ids[:g.n_prompt] + engine.tok.encode(engine.tok.decode(g.answer)),"),
}


def check_draws(rl, tmp_path, monkeypatch):
    """Answers differ within a group and from step to step, and depend on no other prompt."""
    monkeypatch.setattr(talk.engine, "run_python", lambda code: "b")
    model, tok = tiny_policy(tmp_path, seed=0)
    problems = [problem(lambda c, answer: 0.0, q) for q in ("a", "b", "a")]

    def said(some, places, seed):
        engine = Engine(model, tok, max_rows=3, compile=False)
        prompts = [tok.render_for_completion(conversation) for conversation, _ in some]
        groups = rl.roll_out(engine, prompts, places, 8, 8, seed)
        return [[answer.ids for answer in group] for group in groups]

    whole = said(problems, [0, 1, 2], seed=0)
    assert all(len({tuple(ids) for ids in group}) > 2 for group in whole)
    assert whole[0] != whole[2]
    assert said(problems[1:], [1, 2], seed=0) == whole[1:]
    assert said(problems, [0, 1, 2], seed=1) != whole


CHECKS = [check_mask, check_draws, check_attacks, check_invariance, check_gap, check_enumeration]


# The last one takes seconds.
@pytest.mark.parametrize("check", [*CHECKS[:-1], pytest.param(CHECKS[-1], marks=pytest.mark.slow)],
                         ids=lambda check: check.__name__)
def test_the_method(rl, check, tmp_path, monkeypatch):
    check(rl, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_noticed(name, tmp_path):
    """Each makes one of the checks fail."""
    before, after = MUTANTS[name]
    source = (ROOT / "rl.py").read_text()
    assert source.count(before) == 1, f"rl.py has no longer one {before!r}"
    mutant = module_of(source.replace(before, after))
    for check in CHECKS:
        with pytest.MonkeyPatch.context() as monkeypatch:
            try:
                check(mutant, tmp_path, monkeypatch)
            # A panic of tiktoken is no Exception.
            except BaseException:
                return
    raise AssertionError("no check noticed it")


# ---- runs of the script ----

DIGITS = range(1, 10)
FLAGS = ["--dtype", "float32", "--no-compile", "--steps", 30, "--eval_every", 10, "--save_every", 5,
         "--group_size", 8, "--prompts_per_step", 8, "--max_tokens", 12, "--eval_samples", 4,
         "--matrix_lr", 0.001, "--embed_lr", 0.01, "--head_lr", 0.001]


def learn(model, tok, conversations, steps=300):
    """Teach a tiny model some conversations by plain AdamW."""
    rows = [tok.render_conversation(conversation) for conversation in conversations]
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows])
    mask = torch.tensor([mask + [0] * (length - len(mask)) for _, mask in rows])
    targets = ids.masked_fill(mask == 0, -1)[:, 1:]
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    rng = torch.Generator().manual_seed(0)
    for step in range(steps):
        batch = torch.randint(0, len(rows), (64,), generator=rng)
        logits = model(ids[batch, :-1])
        loss = F.cross_entropy(logits.transpose(1, 2), targets[batch], ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A model in out/distill that answers "cat 3?" with "#### 3", or half of the time with another.

    out/sft holds the same model. toy(...) runs rl.py on such questions; toy.output is a whole run.
    """
    folder = tmp_path_factory.mktemp("rl")
    out = folder / "out"
    tok = write_tokenizer(out)
    model = GPT(GPTConfig(265, 32, 1, 4, 2, 32, 48))
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * p.size(1) ** -0.5)
    questions = [(f"{word} {digit}?", digit) for word in WORDS for digit in DIGITS]
    draw = random.Random(0)
    taught = []
    for question, digit in questions:
        others = [draw.choice(DIGITS) for _ in range(8)]
        taught += [chat(question, f"#### {said}") for said in [digit] * 8 + others]
    learn(model, tok, taught)
    no_optimizer = SimpleNamespace(state_dict=dict)
    for stage in "sft", "distill":
        meta = dict(stage=stage, step=0, tokenizer=tok.fingerprint)
        save_checkpoint(out / stage, model, meta, [], no_optimizer, ENV)

    def run(*more, out=out, before=None, data=None):
        return run_script("rl.py", "--out", out, "--data", data or run.data, *FLAGS, *more,
                          log=folder / "log", before=before)

    run.folder = folder
    run.out = out
    run.data = write_jsonl(folder / "problems.jsonl",
                           [chat(question, f"#### {digit}") for question, digit in questions])
    run.output = run()
    return run


@pytest.mark.slow
def test_the_reward_rises_and_a_whole_checkpoint_is_left(toy):
    assert toy.output.status == 0, toy.output.stderr
    assert f"done       {toy.out}/rl. Next: python chat.py --out {toy.out}\n" in toy.output.stdout
    assert sorted(read_folder(toy.out / "rl")) == [
        "meta.json", "metrics.jsonl", "model.pt", "optim.pt", "run.json"]
    assert not list(toy.out.glob("*.part*"))
    logged = metrics(toy.out / "rl", "step", "reward", "pass@1", "pass@8", "gap")
    assert [step for step, *_ in logged] == list(range(30))
    rewards = [reward for _, reward, *_ in logged]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.5
    for _, reward, right, solved, gap in logged:
        # These rewards are 0 or 1.
        assert reward == right <= solved
        # The engine has the new weights after every step, and nothing of the old ones.
        assert gap < 1e-5
    assert [step for step, _ in metrics(toy.out / "rl", "step", "val_pass@4")] == [0, 10, 20, 30]
    meta = json.loads((toy.out / "rl/meta.json").read_text())
    assert meta["stage"] == "rl" and meta["step"] == 30
    assert find_checkpoint(toy.out, "") == find_checkpoint(toy.out, "rl") == toy.out / "rl"


@pytest.mark.slow
def test_the_log_says_where_the_time_went(toy):
    lines = re.findall(r"^step +(\d+)/30 \| (.*)$", toy.output.stdout, re.M)
    assert {"0", "29"} <= {step for step, line in lines if "tok/s" in line}
    for _, line in lines:
        if " val " in line:
            continue
        for word in "reward", "pass@1", "pass@8", "length", "ended", "tool", "tok/s", "left":
            assert word in line
        assert re.search(r"generating [\d.]+ s, scoring [\d.]+ s, training [\d.]+ s", line)
    for whole, *parts in metrics(toy.out / "rl", "ms", "generating_ms", "scoring_ms",
                                 "training_ms"):
        assert sum(parts) == pytest.approx(whole)


@pytest.mark.slow
def test_resumed_after_any_interruption_it_ends_at_the_same_bits(toy, tmp_path):
    out = tmp_path / "out"
    for name in "tokenizer", "distill":
        shutil.copytree(toy.out / name, out / name)
    for number, status in (signal.SIGKILL, -9), (signal.SIGTERM, 128 + signal.SIGTERM):
        before = functools.partial(interrupt, "step", 8, number)
        result = toy("--resume", out=out, before=before)
        assert result.status == status, result.stderr
        assert (out / "rl.part").exists() and not (out / "rl").exists()
    # 7 steps and the kill, a save after 5 of them; then 8 more, and a save at the signal.
    assert json.loads((out / "rl.part/meta.json").read_text())["step"] == 13
    fails_with_one_line(toy("--resume", "--group_size", 4, out=out), "group_size = 8")
    result = toy("--resume", out=out)
    assert result.status == 0 and "resume " in result.stdout, result.stderr
    for name in "model.pt", "optim.pt":
        resumed = torch.load(out / "rl" / name, weights_only=True)
        uninterrupted = torch.load(toy.out / "rl" / name, weights_only=True)
        assert same(resumed, uninterrupted), f"{name} differs"
    for names in ("step", "reward", "loss", "gap", "grad_norm"), ("step", "val_reward"):
        assert metrics(out / "rl", *names) == metrics(toy.out / "rl", *names)


@pytest.mark.slow
def test_two_ranks_draw_the_same_answers_as_one(toy, tmp_path):
    results = []
    for n_ranks in 1, 2:
        out = tmp_path / str(n_ranks)
        for name in "tokenizer", "distill":
            shutil.copytree(toy.out / name, out / name)
        # Seven prompts: the ranks have shares of four and three.
        flags = [*FLAGS, "--steps", 2, "--prompts_per_step", 7]
        argv = ["--out", out, "--data", toy.data, *flags]
        if n_ranks == 1:
            result = run_script("rl.py", *argv, log=tmp_path / "log")
            assert result.status == 0, result.stderr
        else:
            process = torchrun(ROOT / "rl.py", *argv)
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output[-3000:]
        weights = torch.load(out / "rl/model.pt", weights_only=True)
        results.append((metrics(out / "rl", "reward", "ended", "length", "mixed"),
                        metrics(out / "rl", "val_reward"),
                        metrics(out / "rl", "grad_norm", "loss"), weights))
    (means, val, norms, weights), (other_means, other_val, other_norms, other_weights) = results
    assert other_means == means and other_val == val
    for numbers, other_numbers in zip(norms, other_norms):
        assert other_numbers == pytest.approx(numbers, rel=1e-3, abs=1e-6)
    start = torch.load(toy.out / "distill/model.pt", weights_only=True)
    for name in weights:
        moved = (weights[name] - start[name]).norm()
        assert 0 < moved and (other_weights[name] - weights[name]).norm() < 0.05 * moved


def accuracy(path, questions, n=8):
    """The share of right answers at temperature 1, n to each question; and its standard error."""
    model, tok, _ = load_checkpoint(path)
    prompts = [tok.render_for_completion(question) for question in questions] * n
    answers = Engine(model, tok).generate(prompts, 12, temperature=1.0)
    right = 0
    for answer, question in zip(answers, questions * n):
        ended = answer[-1] == tok.special("<|assistant_end|>")
        reference = question["messages"][-1]["content"]
        right += ended and same_final_number(parse_answer(tok, answer), reference)
    share = right / len(answers)
    return share, (share * (1 - share) / len(answers)) ** 0.5


@pytest.mark.slow
def test_a_coin_for_a_reward_teaches_nothing(toy, tmp_path):
    """Thirty steps with a coin leave the accuracy where it was; with the grader it rises.

    The default rates, and groups of 16. The optimizer makes steps of the same size however small
    the gradient is, so higher rates let the coin drive the model anywhere.
    """
    coin = tmp_path / "coin.py"
    coin.write_text("import random\ncoin = random.Random(0)\n\n\n"
                    "def grade(conversation, answer):\n    return coin.random() < 0.5\n")
    questions = [json.loads(line) for line in toy.data.read_text().splitlines()]
    before, error = accuracy(toy.out / "distill", questions)
    gains = {}
    for name, flags in ("grader", []), ("coin", ["--reward", f"{coin}:grade"]):
        out = tmp_path / name
        for stage in "tokenizer", "distill":
            shutil.copytree(toy.out / stage, out / stage)
        argv = ["--out", out, "--data", toy.data, "--dtype", "float32", "--no-compile",
                "--steps", 30, "--prompts_per_step", 24, "--max_tokens", 12, "--eval_prompts", 0]
        result = run_script("rl.py", *argv, *flags, log=tmp_path / "log")
        assert result.status == 0, result.stderr
        after, other_error = accuracy(out / "rl", questions)
        gains[name] = (after - before) / (error ** 2 + other_error ** 2) ** 0.5
    assert abs(gains["coin"]) < 2 < gains["grader"], gains


@pytest.mark.slow
def test_where_all_answers_are_equally_good_nothing_is_learned(toy, tmp_path):
    out = tmp_path / "out"
    for name in "tokenizer", "distill":
        shutil.copytree(toy.out / name, out / name)
    hopeless = tmp_path / "hopeless.py"
    hopeless.write_text("def grade(conversation, answer):\n    return False\n")
    assert toy("--reward", f"{hopeless}:grade", "--steps", 2, out=out).status == 0
    assert metrics(out / "rl", "grad_norm", "mixed") == [[0, 0], [0, 0]]
    assert same(torch.load(out / "rl/model.pt", weights_only=True),
                torch.load(out / "distill/model.pt", weights_only=True))


# ---- rewards of one's own ----

REWARDS = '''
import math
from dataclasses import dataclass


@dataclass
class Word:
    text: str


def said(answer):
    return Word("".join(part["text"] for part in answer if part["type"] == "text"))


def true(conversation, answer):
    return said(answer).text.endswith("7")


def number(conversation, answer):
    return 0.5 * said(answer).text.count("7")


def tensor(conversation, answer):
    import torch
    return torch.tensor(0.25)


def raises(conversation, answer):
    return 1 / 0


def none(conversation, answer):
    pass


def nan(conversation, answer):
    return math.nan


def text(conversation, answer):
    return "1"


not_a_function = 3
'''


@pytest.fixture
def rewards(tmp_path):
    path = tmp_path / "my_rewards.py"
    path.write_text(REWARDS)
    return path


def test_a_reward_is_a_bool_or_any_finite_number(rl, rewards):
    answer = [{"type": "text", "text": "#### 7"}]
    conversation = chat("cat 7?", "#### 7")
    for name, expected in ("true", 1), ("number", 0.5), ("tensor", 0.25):
        assert float(rl.load_reward(f"{rewards}:{name}")(conversation, answer)) == expected
    for name, reason in [("raises", "raised ZeroDivisionError: division by zero"),
                         ("none", "returned None"), ("nan", "returned nan"),
                         ("text", "returned '1'")]:
        grade = rl.load_reward(f"{rewards}:{name}")
        with pytest.raises(ValueError, match=f"my_rewards.py:{name} {reason}.*'cat 7\\?'"):
            grade(conversation, answer)


def test_a_reward_that_cannot_be_loaded_says_why(rl, rewards, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def grade(:\n")
    for spec, reason in [("grade", "expected FILE.py:FUNCTION"),
                         (f"{rewards}", "expected FILE.py:FUNCTION"),
                         (f"{rewards}:", "expected FILE.py:FUNCTION"),
                         (f"{tmp_path}/none.py:grade", "no file"),
                         (f"{rewards}:nothing", "no function nothing"),
                         (f"{rewards}:not_a_function", "no function not_a_function"),
                         (f"{broken}:grade", "SyntaxError")]:
        with pytest.raises((ValueError, OSError), match=reason):
            rl.load_reward(spec)


@pytest.mark.slow
def test_prompts_alone_are_enough_for_a_reward_of_ones_own(toy, rewards, tmp_path):
    """The model learns to say 7, whatever it is asked, and --base names where it starts."""
    out = tmp_path / "out"
    for name in "tokenizer", "sft", "distill":
        shutil.copytree(toy.out / name, out / name)
    prompts = write_jsonl(tmp_path / "prompts.jsonl",
                          [{"prompt": f"{word} {digit}?"} for word in WORDS for digit in DIGITS])
    flags = ["--reward", f"{rewards}:number", "--base", "sft"]
    result = toy(*flags, data=prompts, out=out)
    assert result.status == 0, result.stderr
    logged = [reward for reward, in metrics(out / "rl", "reward")]
    assert sum(logged[-5:]) > sum(logged[:5]) + 0.5
    # It is made from out/sft, so a new out/distill does not make it older, and a new out/sft does.
    meta = json.loads((out / "distill/meta.json").read_text())
    (out / "distill/meta.json").write_text(json.dumps(dict(meta, step=1)))
    assert trained_anew(out, "rl") == ""
    (out / "sft/meta.json").write_text(json.dumps(dict(meta, step=1)))
    assert trained_anew(out, "rl") == "sft"


@pytest.mark.slow
def test_another_reward_is_another_run(toy, rewards, tmp_path):
    out = tmp_path / "out"
    for name in "tokenizer", "distill":
        shutil.copytree(toy.out / name, out / name)
    flags = ["--reward", f"{rewards}:true", "--steps", 2]
    assert toy(*flags, out=out).status == 0
    assert toy(*flags, "--resume", out=out).status == 0
    rewards.write_text(REWARDS.replace("7", "8"))
    fails_with_one_line(toy(*flags, "--resume", out=out), "reward = ")


@pytest.mark.slow
def test_a_prompt_longer_than_the_row_loses_its_beginning(toy, tmp_path):
    out = tmp_path / "out"
    for name in "tokenizer", "distill":
        shutil.copytree(toy.out / name, out / name)
    rows = [chat("very " * 20 + f"long {digit}?", f"#### {digit}") for digit in DIGITS]
    path = write_jsonl(tmp_path / "long.jsonl", rows)
    for max_tokens in 12, 500:
        result = toy("--steps", 1, "--max_tokens", max_tokens, data=path, out=out)
        assert result.status == 0, result.stderr
        assert metrics(out / "rl", "length")[0][0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("more, words", [
    (["--group_size", 1], ["--group_size 1", "at least 2"]),
    (["--prompts_per_step", 0], ["--prompts_per_step 0"]),
    (["--max_tokens", 0], ["--max_tokens 0"]),
    (["--eval_samples", 0], ["--eval_samples 0"]),
    (["--base", "rl"], ["--base rl", "distill"]),
    (["--base", "dpo"], ["dpo holds no checkpoint", "python dpo.py --out"]),
    (["--mixture", "python_questions"], ["python_questions", "cannot be graded", "--reward"]),
    (["--mixture", "ultrafeedback"], ["ultrafeedback has nothing for this stage"]),
    (["--reward", "{rewards}:raises"], ["my_rewards.py:raises raised ZeroDivisionError"]),
    (["--reward", "{rewards}:none"], ["my_rewards.py:none returned None"]),
    (["--reward", "{rewards}:nan"], ["my_rewards.py:nan returned nan"]),
    (["--reward", "{rewards}:text"], ["my_rewards.py:text returned '1'"]),
    (["--reward", "nowhere.py:grade"], ["there is no file nowhere.py"]),
    (["--reward", "{rewards}:grade"], ["has no function grade"]),
    (["--data", "{prompts}"], ["prompts.jsonl:1: ", "#### 42", "--reward"])])
def test_what_cannot_work_ends_in_one_line(toy, rewards, tmp_path, more, words):
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "cat 1?"}])
    more = [str(flag).format(rewards=rewards, prompts=prompts) for flag in more]
    before = read_folder(toy.out / "rl")
    argv = ["rl.py", "--out", toy.out, *FLAGS]
    # --data would take the place of the mixture.
    if "--mixture" not in more:
        argv += ["--data", toy.data]
    fails_with_one_line(run_script(*argv, *more, log=tmp_path / "log"), *words)
    assert read_folder(toy.out / "rl") == before and not (toy.out / "rl.part").exists()
