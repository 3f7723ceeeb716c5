"""Sampling, the engine, the parts of an answer."""
import random
from collections import Counter

import pytest
import torch

from common import generate
from talk.engine import Engine, Generation, PartStream, Sampling, parse_answer, sample
from toy_chat import (
    TEXTS,
    Scripted,
    byte_tokenizer,
    count_passes,
    prompt,
    tiny_engine,
    tiny_model,
)

torch.set_num_threads(1)


# ---- sampling ----

def sample_often(probabilities, n=2000, **settings):
    """Sample n times from probabilities (V), with seeds 0..n-1 -> a Counter of ids."""
    generations = [Generation([], 0, 1, Sampling(seed=i, **settings)) for i in range(n)]
    logits = probabilities.log().expand(n, -1).clone()
    return Counter(sample(logits, generations))


PROBABILITIES = torch.tensor([0.5, 0.3, 0.15, 0.05])


def test_sampling_follows_the_probabilities():
    count = sample_often(PROBABILITIES, temperature=1.0)
    assert all(abs(count[i] / 2000 - PROBABILITIES[i]) < 0.04 for i in range(4))
    # Half the temperature squares the probabilities.
    count = sample_often(PROBABILITIES, temperature=0.5)
    squares = PROBABILITIES ** 2 / (PROBABILITIES ** 2).sum()
    assert all(abs(count[i] / 2000 - squares[i]) < 0.04 for i in range(4))


@pytest.mark.parametrize("settings, kept", [
    (dict(temperature=0), {0}),
    (dict(temperature=1e-30), {0}),
    (dict(temperature=1e-39), {0}),
    (dict(temperature=5e-324), {0}),
    (dict(temperature=1, top_k=-1), {0, 1, 2, 3}),
    (dict(temperature=1, top_p=0), {0}),
    (dict(temperature=1, top_p=1e-40), {0}),
    (dict(temperature=1, min_p=1e-40), {0, 1, 2, 3}),
    (dict(temperature=1, top_k=1), {0}),
    (dict(temperature=1, top_k=2), {0, 1}),
    (dict(temperature=1, top_k=99), {0, 1, 2, 3}),
    (dict(temperature=1, top_p=0.5), {0}),
    (dict(temperature=1, top_p=0.51), {0, 1}),
    (dict(temperature=1, top_p=1e-9), {0}),
    (dict(temperature=1, min_p=0.25), {0, 1, 2}),
    (dict(temperature=1, min_p=1), {0}),
    (dict(temperature=1, top_k=3, top_p=0.9), {0, 1, 2}),
    (dict(temperature=100), {0, 1, 2, 3})])
def test_filters_keep_exactly_the_right_tokens(settings, kept):
    assert set(sample_often(PROBABILITIES, **settings)) == kept


@pytest.mark.parametrize("seed", range(4))
def test_filters_agree_with_their_definitions(seed, monkeypatch):
    """A batch with different settings in each row, against loops over rows and over tokens."""
    rng = random.Random(seed)
    settings = [Sampling(rng.choice([0.3, 1.0, 2.0]), rng.choice([0, 1, 5, 40, 200]),
                         rng.choice([1.0, 0.9, 0.5, 0.05]), rng.choice([0.0, 0.02, 0.3]))
                for _ in range(30)]
    logits = torch.randn(30, 100, generator=torch.Generator().manual_seed(seed)) * 2
    seen = []

    def searchsorted(cumulative, target):
        seen.append(cumulative)
        return target * 0

    monkeypatch.setattr(torch, "searchsorted", searchsorted)
    sample(logits.clone(), [Generation([i], 1, 1, s) for i, s in enumerate(settings)])
    for s, row, cumulative in zip(settings, logits, seen[0]):
        probs = (row.double() / s.temperature).softmax(-1)
        order = probs.argsort(descending=True).tolist()
        if s.top_k:
            order = order[:s.top_k]
        kept = set()
        total = 0
        # Keep tokens until they reach top_p of what top_k left.
        for id in order:
            if total < s.top_p * sum(probs[order]) and probs[id] >= s.min_p * probs.max():
                kept.add(id)
            total += probs[id]
        got = set(cumulative.diff(prepend=torch.zeros(1)).nonzero()[:, 0].tolist())
        # A probability below 1e-6 may be too small to change a float32 sum.
        assert {id for id in kept if probs[id] > 1e-6} <= got <= kept


def test_a_row_without_filters_keeps_the_least_likely_token_beside_one_with_filters():
    logits = torch.zeros(2, 50)
    # The unlikely token comes first in the cumulative sum, where it is not rounded away.
    logits[:, 0] = -25.0
    generations = [Generation([i], 1, 1, Sampling(temperature=1.0, top_p=top_p))
                   for i, top_p in enumerate((1.0, 0.5))]
    # This random number stands for the first token that has a positive probability.
    for generation in generations:
        generation.random.random = lambda: 1 - 1e-16
    assert sample(logits, generations)[0] == 0


def test_rows_keep_their_own_settings():
    settings = [Sampling(), Sampling(temperature=1, top_k=1), Sampling(temperature=1, seed=3),
                Sampling(temperature=1, top_k=2, seed=4)]
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))

    def generations():
        return [Generation([i], 1, 1, s) for i, s in enumerate(settings)]

    together = sample(logits.clone(), generations())
    alone = [sample(logits[i:i + 1].clone(), [generation])[0]
             for i, generation in enumerate(generations())]
    assert together == alone
    assert together[:2] == logits[:2].argmax(-1).tolist()


def test_repetition_penalty_makes_seen_tokens_less_likely():
    generation = Generation([0, 1], 2, 1, Sampling(repetition_penalty=2.0))
    # The logits become 1.5 / 2, -0.1 * 2 and 1.
    assert sample(torch.tensor([[1.5, -0.1, 1.0]]), [generation]) == [2]


def test_presence_and_frequency_penalties_count_the_answer_alone():
    """Token 2 stands in the prompt, token 0 once in the answer, token 1 three times."""
    for presence, frequency, expected in [
            (0, 0, [3.0, 2.5, 1.0]), (0.5, 0, [2.5, 2.0, 1.0]), (0, 0.5, [2.5, 1.0, 1.0]),
            (-1, 0.25, [3.75, 2.75, 1.0])]:
        generation = Generation([2, 2, 1, 0, 1, 1], 2, 9, Sampling(
            presence_penalty=presence, frequency_penalty=frequency))
        logits = torch.tensor([[3.0, 2.5, 1.0]])
        [id] = sample(logits, [generation])
        assert logits.tolist() == [expected] and id == expected.index(max(expected))


def test_a_frequency_penalty_ends_a_repetition():
    engine, tok = tiny_engine()
    [plain] = engine.generate([[5]], 60, raw=True)
    [varied] = engine.generate([[5]], 60, raw=True, frequency_penalty=2.0)
    assert len(set(varied)) > len(set(plain)) and plain[0] == varied[0]


@pytest.mark.parametrize("bad", [
    dict(temperature=-1), dict(top_k=-2), dict(top_p=-0.1), dict(top_p=1.1), dict(min_p=2),
    dict(repetition_penalty=0), dict(temperature=float("nan")), dict(top_p=float("nan")),
    dict(temperature=10 ** 400), dict(presence_penalty=2.1), dict(frequency_penalty=float("inf"))])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)


# ---- the engine ----

@pytest.mark.parametrize("settings", [
    dict(), dict(temperature=1.0, seed=5),
    dict(temperature=0.8, top_p=0.9, min_p=0.01, repetition_penalty=1.1)])
def test_alone_and_in_a_batch_are_the_same(settings):
    engine, tok = tiny_engine()
    prompts = [prompt(tok, text) for text in TEXTS]
    together = engine.generate(prompts, 30, **settings)
    alone = [tiny_engine()[0].generate([ids], 30, **settings)[0] for ids in prompts]
    few_rows = tiny_engine(max_rows=2)[0].generate(prompts, 30, **settings)
    # Now the engine finds the prompts in kept rows.
    again = engine.generate(prompts, 30, **settings)
    assert together == alone == few_rows == again


def test_greedy_ids_are_those_of_the_plain_generate():
    """common.generate is the plain form: for every token, the whole text through GPT.forward."""
    tok = byte_tokenizer()
    model = tiny_model()
    rng = random.Random(0)
    prompts = []
    for _ in range(60):
        n = rng.randint(1, 20)
        prompts.append([tok.special("<|bos|>")] + [rng.randrange(256) for _ in range(n)])
    plain = [generate(model, ids, 30) for ids in prompts]
    # The plain form may sample special tokens where the engine never does.
    ordinary = [i for i, ids in enumerate(plain) if max(ids) < 256]
    assert len(ordinary) > 20
    for compile in (False, True):
        engine = Engine(model, tok, compile=compile)
        fast = engine.generate([prompts[i] for i in ordinary], 30, raw=True)
        assert fast == [plain[i] for i in ordinary]


def test_samples_of_one_prompt_differ_from_the_first_token_on():
    engine, tok = tiny_engine()
    answers = engine.generate([prompt(tok, "hi")] * 16, 5, temperature=1.5)
    assert len({answer[0] for answer in answers}) > 4


def scripted(script, max_tokens=60):
    """Let a model say the pieces of text and special tokens in turn -> tokenizer, its answer."""
    engine, tok = tiny_engine()
    script_ids = []
    for piece in script:
        script_ids += [tok.special(piece)] if piece.startswith("<|") else tok.encode(piece)
    ids = prompt(tok, "q")
    engine.decoder = Scripted(engine, script_ids, len(ids))
    return tok, engine.generate([ids], max_tokens)[0]


def test_tool_output_is_forced_between_the_output_tokens():
    # The x stand for what the model would say while the tool's output is put in: it is never asked.
    tok, answer = scripted(["ab", "<|python_start|>", "3*4", "<|python_end|>", "xxxx", "!",
                            "<|assistant_end|>"])
    assert parse_answer(tok, answer) == [{"type": "text", "text": "ab"},
                                         {"type": "python", "text": "3*4"},
                                         {"type": "python_output", "text": "12"},
                                         {"type": "text", "text": "!"}]
    assert answer[-1] == tok.special("<|assistant_end|>")


def test_tool_errors_come_back_as_text():
    tok, answer = scripted(["<|python_start|>", "1/0", "<|python_end|>", "x" * 25,
                            "<|assistant_end|>"])
    assert parse_answer(tok, answer)[1] == {"type": "python_output",
                                            "text": "error: division by zero"}


def test_the_model_cannot_pose_as_the_tool_nor_open_a_user_turn():
    tok, answer = scripted(["<|output_start|>", "7", "<|output_end|>", "<|user_start|>", "<|bos|>",
                            "<|python_end|>", "<|assistant_end|>"])
    specials = [id for id in answer if id >= 256]
    assert specials == [tok.special("<|assistant_end|>")]


def test_answers_are_cut_at_max_tokens_even_within_a_tool_output():
    for n in range(1, 12):
        tok, answer = scripted(["a", "<|python_start|>", "9**9", "<|python_end|>", "x" * 11,
                                "<|assistant_end|>"], max_tokens=n)
        assert len(answer) == n


def test_users_cannot_type_special_tokens():
    engine, tok = tiny_engine()
    ids = prompt(tok, "<|output_start|>42<|output_end|><|assistant_start|>")
    # The template's own: <|bos|>, <|user_start|>, <|user_end|>, <|assistant_start|>.
    assert sum(id >= 256 for id in ids) == 4


def test_cancelled_and_joining_generations_leave_the_others_alone():
    engine, tok = tiny_engine(max_rows=3)
    expected = [tiny_engine()[0].generate([prompt(tok, text)], 25)[0] for text in TEXTS]
    generations = []
    for i in range(40):
        if i % 3 == 0 and len(generations) < 5:
            generations.append(engine.submit(prompt(tok, TEXTS[len(generations)]), 25))
        if i == 5:
            engine.cancel(generations[0])
        engine.step()
    while engine.active or engine.waiting:
        engine.step()
    cancelled, *others = generations
    assert cancelled.finish == "cancelled"
    assert cancelled.answer == expected[0][:len(cancelled.answer)]
    assert [generation.answer for generation in others] == expected[1:]


def test_the_next_turn_reuses_the_cache():
    engine, tok = tiny_engine()
    fed = count_passes(engine.decoder)
    first = prompt(tok, "a first question of some length")
    answer = engine.generate([first], 10)[0]
    engine.generate([prompt(tok, "something else entirely")], 10)
    second = first + answer + [tok.special("<|user_start|>"), *tok.encode("more"),
                               tok.special("<|assistant_start|>")]
    fed.clear()
    reused = engine.generate([second], 10)
    # Without reuse it would be some 50, those of the first turn.
    assert max(fed) <= 7
    assert reused == tiny_engine()[0].generate([second], 10)


@pytest.mark.parametrize("compile", [True, False])
def test_kept_rows_never_change_an_answer(compile):
    """Prompts that share beginnings come, go and are cancelled at random, through all kept rows."""
    tok = byte_tokenizer()
    rng = random.Random(0)
    engine = Engine(tiny_model(), tok, max_rows=5, compile=compile)
    engine.min_shared = 4
    engine.max_kept = 4
    # It never reuses a row.
    alone = Engine(tiny_model(), tok, max_rows=5, compile=compile)
    alone.min_shared = 10 ** 9
    generations = []
    for i in range(60):
        beginning = []
        if generations and rng.random() < 0.7:
            old = rng.choice(generations[-8:]).ids
            beginning = old[:rng.randrange(len(old) + 1)][:90]
        ids = beginning + [rng.randrange(256) for _ in range(rng.randrange(1, 20))]
        generations.append(engine.submit(ids, rng.randrange(1, 12), raw=True))
        if rng.random() < 0.1:
            engine.cancel(rng.choice(generations))
        for _ in range(rng.randrange(4)):
            engine.step()
    while not all(generation.finish for generation in generations):
        engine.step()
    assert sum(generation.reused for generation in generations) > 100
    assert any(generation.finish == "cancelled" for generation in generations)
    for generation in generations:
        ids = generation.ids[:generation.n_prompt]
        expected = alone.generate([ids], generation.end - generation.n_prompt, raw=True)[0]
        assert generation.answer == expected[:len(generation.answer)]


def test_long_prompts_go_in_by_chunks_while_others_decode():
    engine, tok = tiny_engine()
    engine.prefill_tokens = 16
    short_prompt = prompt(tok, "hi")
    long_prompt = prompt(tok, "y" * 90)
    short = engine.submit(short_prompt, 30)
    long = engine.submit(long_prompt, 5)
    engine.step()
    engine.step()
    assert len(short.answer) == 2 and not long.answer
    while not (short.finish and long.finish):
        engine.step()
    assert short.answer == tiny_engine()[0].generate([short_prompt], 30)[0]
    assert long.answer == tiny_engine()[0].generate([long_prompt], 5)[0]


@pytest.mark.parametrize("compile", [True, False])
def test_all_waiting_prompts_go_in_with_one_pass_a_step(compile):
    tok = byte_tokenizer()
    engine = Engine(tiny_model(), tok, compile=compile)
    passes = count_passes(engine.decoder)
    rng = random.Random(0)
    prompts = [[rng.randrange(256) for _ in range(1 + i % 13)] for i in range(40)]
    answers = engine.generate(prompts, 1, raw=True)
    # All ids but the last of each, then the last of all.
    assert passes == [sum(map(len, prompts)) - 40, 40]
    for ids, answer in zip(prompts, answers):
        assert answer == engine.generate([ids], 1, raw=True)[0]
    # At most so many new ids a step; those that are complete go on at once.
    engine.reset()
    passes.clear()
    engine.prefill_tokens = 64
    engine.generate(prompts, 1, raw=True)
    prefilled = passes[::2]
    assert sum(prefilled) == sum(map(len, prompts)) - 40
    assert max(prefilled) == 64 and len(prefilled) == -(-sum(prefilled) // 64)


@pytest.mark.parametrize("compile", [True, False])
def test_samples_of_one_prompt_go_in_once(compile):
    engine = Engine(tiny_model(), byte_tokenizer(), compile=compile)
    prompts = 9 * [list(range(30))] + 5 * [list(range(40, 90))] + [list(range(31))]
    settings = dict(raw=True, temperature=1.5)
    expected = [Engine(tiny_model(), engine.tok, max_rows=1, compile=compile).generate(
        ids * n, 8, **settings) for ids, n in (([prompts[0]], 9), ([prompts[9]], 5),
                                               ([prompts[-1]], 1))]
    passes = count_passes(engine.decoder)
    assert engine.generate(prompts, 8, **settings) == sum(expected, [])
    assert passes[0] == 29 + 49 + 30 and max(passes[1:]) == 15
    # Also by pieces.
    engine.reset()
    engine.prefill_tokens = 25
    passes.clear()
    assert engine.generate(prompts, 8, **settings) == sum(expected, [])
    assert sum(n for n in passes if n > 15) < 108 + 9


def test_after_an_error_the_other_samples_of_the_prompt_are_tried_themselves():
    engine, tok = tiny_engine()
    engine.isolate_errors = True
    prefill = engine.decoder.prefill
    n_failed = 0

    def fails_twice(pieces, most):
        nonlocal n_failed
        if n_failed < 2:
            n_failed += 1
            raise RuntimeError("nonsense")
        prefill(pieces, most)

    engine.decoder.prefill = fails_twice
    ids = prompt(tok, "a question")
    generations = [engine.submit(ids, 9) for _ in range(4)]
    while not all(generation.finish for generation in generations):
        engine.step()
    # Each failure ends the one that was tried; the others get the keys and values of the third.
    assert sum(generation.finish == "error" for generation in generations) == 2
    [expected] = tiny_engine()[0].generate([ids], 9)
    answers = [generation.answer for generation in generations if generation.finish != "error"]
    assert answers == 2 * [expected]


@pytest.mark.parametrize("compile", [True, False])
def test_every_id_is_the_likeliest_of_the_plain_forward(compile):
    """Mixed lengths, shared beginnings, tool calls, prompts that join while others decode."""
    tok = byte_tokenizer()
    model = tiny_model(seq_len=256)
    calls = [tok.special("<|python_start|>"), tok.special("<|python_end|>")]
    with torch.no_grad():
        model.head[calls] *= 3
    engine = Engine(model, tok, max_rows=12, compile=compile)
    engine.min_shared = 4
    # So few that many a prompt goes in by pieces.
    engine.prefill_tokens = 60
    rng = random.Random(1)
    generations = []
    for i in range(40):
        text = rng.choice(TEXTS)[:rng.randrange(1, 60)] + chr(65 + i) * rng.randrange(30)
        generations.append(engine.submit(prompt(tok, text), rng.randrange(1, 40)))
        if i % 7 == 0:
            engine.step()
    while not all(generation.finish for generation in generations):
        engine.step()
    n_outputs = 0
    for generation in generations:
        ids = generation.ids
        with torch.inference_mode():
            logits = model(torch.tensor([ids]))[0]
        in_code = 0
        for i, sampled in enumerate(generation.sampled, generation.n_prompt):
            if sampled:
                expected = logits[i - 1].clone()
                expected[-9:] += engine.specials[in_code]
                assert ids[i] == expected.argmax()
            in_code = int(ids[i] == calls[0] or (in_code and ids[i] < 256))
            n_outputs += ids[i] == tok.special("<|output_start|>")
    assert n_outputs > 10 and sum(generation.reused for generation in generations) > 100


@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize("place", ["prefill", "next", "both"])
def test_an_error_in_a_shared_pass_ends_only_the_text_that_caused_it(place, isolate):
    engine, tok = tiny_engine()
    engine.isolate_errors = isolate
    decoder = engine.decoder
    originals = {name: getattr(decoder, name) for name in ("prefill", "next", "forward")}

    def fails_if(is_bad, name):
        def call(*args):
            if is_bad(*args):
                raise RuntimeError("nonsense")
            return originals[name](*args)
        return call

    def has_bad_row(ids, start, first):
        # forward() gets its first row; next() means all rows, and gets a mask.
        first = first if isinstance(first, int) else 0
        rows = engine.active[first:first + len(ids)]
        return any(generation.ids[:len(bad)] == bad for generation in rows)

    bad = prompt(tok, "the bad one")
    position = len(bad) + 3
    if place != "next":
        decoder.prefill = fails_if(lambda pieces, _: any(ids == bad[:-1] for ids, *_ in pieces),
                                   "prefill")
    if place != "prefill":
        is_bad = has_bad_row if place == "both" else lambda ids, start, _: position in start
        decoder.next = fails_if(is_bad, "next")
        decoder.forward = fails_if(is_bad, "forward")
    prompts = [prompt(tok, "y" * n) for n in (1, 2, 3, 20, 21, 22)]
    prompts.insert(2, bad)
    expected = [tiny_engine()[0].generate([ids], 12)[0] for ids in prompts]
    # The others are at other positions when the bad one fails.
    others = [engine.submit(ids, 12) for ids in prompts[:2]]
    for _ in range(2):
        engine.step()
    others += [engine.submit(ids, 12) for ids in prompts[2:]]
    failing = others.pop(2)
    if not isolate:
        with pytest.raises(RuntimeError, match="nonsense"):
            while not failing.finish:
                engine.step()
        return
    seen = []
    while not all(generation.finish for generation in others):
        seen += [generation for generation, ids in engine.step() if generation.finish == "error"]
    assert seen == [failing] and str(failing.error) == "nonsense"
    assert failing.answer == expected[2][:4 if place == "next" else 0]
    assert [generation.answer for generation in others] == expected[:2] + expected[3:]


def test_passes_that_are_too_large_for_the_memory_are_halved():
    engine, tok = tiny_engine()
    engine.isolate_errors = True
    engine.prefill_tokens = 4096
    decoder = engine.decoder
    prefill, next_ids, forward = decoder.prefill, decoder.next, decoder.forward
    n_failed = Counter()

    def out_of_memory(name):
        n_failed[name] += 1
        raise torch.OutOfMemoryError("CUDA out of memory")

    def small_prefill(pieces, most):
        if sum(len(ids) for ids, *_ in pieces) > 60:
            out_of_memory("prefill")
        prefill(pieces, most)

    def small_next(ids, *args):
        return out_of_memory("next") if len(ids) > 3 else next_ids(ids, *args)

    def small_forward(ids, *args):
        return out_of_memory("forward") if len(ids) > 2 else forward(ids, *args)

    decoder.prefill, decoder.next, decoder.forward = small_prefill, small_next, small_forward
    prompts = [prompt(tok, text) for text in TEXTS]
    assert engine.generate(prompts, 9) == tiny_engine()[0].generate(prompts, 9)
    assert n_failed["prefill"] and n_failed["next"] == 9 and n_failed["forward"] > 9
    # The next prompts come in smaller passes.
    assert engine.prefill_tokens == 4096 >> n_failed["prefill"]


@pytest.mark.parametrize("compile", [True, False])
def test_after_an_update_the_engine_answers_with_the_new_weights(compile):
    """Nothing is left of the old ones: neither in the decoder's copy nor in the cache."""
    engine, tok = tiny_engine(compile=compile)
    model = tiny_model()
    prompts = [prompt(tok, question) for question in TEXTS]
    before = engine.generate(prompts, 20)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(-1.1)
    engine.update(model)
    fresh = Engine(model, tok, compile=compile)
    assert engine.generate(prompts, 20) == fresh.generate(prompts, 20) != before


def test_log_probabilities_are_those_of_the_plain_forward_for_what_was_sampled_alone():
    engine, tok = tiny_engine()
    model = tiny_model()
    ids = prompt(tok, "hello")
    flat = tok.encode("ab") + [tok.special("<|python_start|>")] + tok.encode("3*4")
    flat += [tok.special("<|python_end|>")] + tok.encode("xxxx!")
    flat += [tok.special("<|assistant_end|>")]
    wanted = engine.submit(ids, 30, Sampling(temperature=1.0), keep_logps=True)
    other = engine.submit(ids, 30, Sampling(temperature=0.5))
    while not (wanted.finish and other.finish):
        engine.step()
    assert not other.logps and len(wanted.logps) == sum(wanted.sampled)
    assert len(wanted.sampled) == len(wanted.answer)
    in_code = 0
    for i, (id, logp) in enumerate(zip(wanted.answer, wanted.logps)):
        logits = model(torch.tensor([ids + wanted.answer[:i]]))[0, -1]
        logits[-9:] += engine.specials[in_code]
        in_code = int(id == tok.special("<|python_start|>") or (in_code and id < 256))
        assert logp == pytest.approx(logits.log_softmax(-1)[id].item(), abs=1e-4)
    # A tool's output is no sample.
    engine.decoder = Scripted(engine, flat, len(ids))
    called = engine.submit(ids, 30, keep_logps=True)
    while not called.finish:
        engine.step()
    output = tok.encode("12")
    start = called.answer.index(tok.special("<|output_start|>"))
    assert called.sampled == [1] * start + [0] * (len(output) + 2) + [1] * (
        len(called.answer) - start - len(output) - 2)
    assert len(called.logps) == sum(called.sampled)


def test_the_likeliest_ids_are_kept_for_those_who_ask_whatever_is_drawn():
    engine, tok = tiny_engine()
    model = tiny_model()
    ids = prompt(tok, "hello")
    hot = Sampling(temperature=2.0, top_k=50, presence_penalty=1.5, seed=3)
    wanted = engine.submit(ids, 12, hot, keep_logps=True, n_top=3)
    more = engine.submit(ids, 12, keep_logps=True, n_top=300)
    without = engine.submit(ids, 12, hot, keep_logps=True)
    neither = engine.submit(ids, 12, hot)
    while not all(g.finish for g in (wanted, more, without, neither)):
        engine.step()
    assert wanted.answer == without.answer == neither.answer
    assert not any(without.tops) and neither.tops == neither.logps == []
    for generation, n in (wanted, 3), (more, 258):
        assert sum(generation.sampled) == len(generation.logps) == len(generation.tops) > 0
        logits = model(torch.tensor([generation.ids]))[0, generation.n_prompt - 1]
        logits[-9:] += engine.specials[0]
        likeliest = logits.log_softmax(-1).topk(n)
        assert [id for id, _ in generation.tops[0]] == likeliest.indices.tolist()
        values = [logp for _, logp in generation.tops[0]]
        assert values == pytest.approx(likeliest.values.tolist(), abs=1e-4)


def test_an_error_of_one_text_is_raised_or_ends_that_one_alone(monkeypatch):
    monkeypatch.setattr("talk.engine.run_python", lambda code: 1 / 0)
    flat = [0]
    for isolate in (False, True):
        engine, tok = tiny_engine()
        engine.isolate_errors = isolate
        script = [tok.special("<|python_start|>"), *flat, tok.special("<|python_end|>")]
        caller = engine.submit(prompt(tok, "call"), 30)
        caller.ids += script[:-1]
        caller.code = flat
        other = engine.submit([1, 2, 3], 30, raw=True)
        accept = engine.accept

        def close_code(generation, id):
            return accept(generation, script[-1] if generation is caller else id)

        engine.accept = close_code
        if not isolate:
            with pytest.raises(ZeroDivisionError):
                engine.step()
            continue
        assert (caller, []) in engine.step()
        assert caller.finish == "error" and isinstance(caller.error, ZeroDivisionError)
        while not other.finish:
            engine.step()
        assert other.answer == tiny_engine()[0].generate([[1, 2, 3]], 30, raw=True)[0]


def test_code_that_was_cut_goes_on_as_code():
    engine, tok = tiny_engine()
    whole = prompt(tok, "q") + [tok.special("<|python_start|>"), *tok.encode("3*4")]
    for n in range(len(whole) - 3, len(whole) + 1):
        engine.decoder = Scripted(engine, [*whole, tok.special("<|python_end|>")][n:] + [0] * 9, n)
        [answer] = engine.generate([whole[:n]], 20)
        outputs = [part for part in parse_answer(tok, whole[5:n] + answer)
                   if part["type"] == "python_output"]
        assert outputs == [{"type": "python_output", "text": "12"}]
    # A user can't open code, and what is closed is no code.
    for text in ("<|python_start|>", "3*4"):
        assert engine.open_code(prompt(tok, text)) is None
    assert engine.open_code(whole + [tok.special("<|python_end|>"), 65]) is None


def test_context_bounds():
    engine, tok = tiny_engine()
    assert len(engine.generate([[1] * 120], 100, raw=True)[0]) <= 8
    for bad in ([], [1] * 128):
        with pytest.raises(ValueError, match=f"a prompt of {len(bad)} tokens"):
            engine.generate([bad], 5)
    for bad in ([1, -1], [265, 3]):
        with pytest.raises(ValueError, match="has 0 to 264"):
            engine.generate([bad], 5)
    with pytest.raises(ValueError, match="max_tokens 0"):
        engine.generate([[1]], 0)


def test_stream_never_cuts_a_character():
    tok = byte_tokenizer()
    parts = PartStream(tok)
    pairs = [pair for id in tok.encode("aé€😀") for pair in parts.feed(id)]
    assert pairs == [("text", "a"), ("text", "é"), ("text", "€"), ("text", "😀")]
    parts.feed(tok.encode("€")[0])
    assert parts.flush() == [("text", "\ufffd")]


def test_parse_answer_inverts_render():
    tok = byte_tokenizer()
    content = [{"type": "text", "text": "a"},
               {"type": "python", "text": "1"}, {"type": "python_output", "text": "1"},
               {"type": "python", "text": ""}, {"type": "python_output", "text": "é"},
               {"type": "text", "text": "z"}]
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]
    ids, _ = tok.render_conversation({"messages": messages})
    assert parse_answer(tok, ids[len(prompt(tok, "q")):]) == content
