"""
How many examples does evaluate.py score per second? Measured beside scoring them one at a time.

python tests/bench/evaluate.py                     random weights, depth 4, vocabulary 1,536
python tests/bench/evaluate.py --stage out/sft     a checkpoint, for realistic answers
python tests/bench/evaluate.py --depth 20 --seq_len 2048 --device cuda

Three kinds of questions:
letters        multiple choice as in MMLU, about Python's docstrings: some 130 tokens, 4 options
few-shot       the same as in CORE: five solved examples, four endings whose losses are compared
answers        letter counting: a generated answer with a tool call

Three ways to answer them, with the same weights on the same machine:
one option     model(ids) for each option, and for each generated token: the textbook loop
one example    evaluate.py with batches of one: shared beginnings, a cache for generation
batched        evaluate.py as it is

The three take turns, and the best of --repeats runs counts, since other work on the machine only
slows runs down. On a machine that is never quiet, --threads 1 --processor_time leaves out what
other programs took.
"""
import base64
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
import torch
import torch.nn.functional as F

from common import GPT, SPECIAL_TOKENS, Tokenizer, load_checkpoint
from data.demo import python_corpus
from data.demo.python_questions import PythonQuestions
from data.demo.spelling import SpellingBee
from data.published.core_tasks import Task, build_prompts
from data.published.source import multiple_choice_record
from evaluate import core_question, letter_question
from machine import can_compile, parse_config, run, setup, versions
from pretrain import init_weights, model_config
from talk.engine import Engine
from talk.options import batches_by_length, block_states, choose, tree_row
from tokenizer import PATTERNS, train_bpe


@dataclass
class Config:
    stage: str = ""               # path of a checkpoint; empty: random weights of --depth
    depth: int = 4                # layers; width is 64 times that
    vocab_size: int = 1536        # of the random model
    seq_len: int = 512            # of the random model
    examples: int = 512           # of each kind, for the batched side
    alone: int = 12               # of each kind, for those that go one by one
    max_tokens: int = 80          # of a generated answer
    repeats: int = 3              # timed runs of each
    compile: bool = True          # torch.compile the batched side, as for 2,000 questions
    threads: int = 0              # of torch; 0: all cores
    processor_time: bool = False  # count the processor's seconds, not those that passed
    device: str = "auto"          # auto, cpu, cuda or mps
    dtype: str = "auto"           # compute dtype of all sides


class Letters:
    """n multiple-choice questions about this Python."""

    def __init__(self, n):
        self.rows = PythonQuestions("train", n)
        draw = random.Random(0)
        # The first option is the right one; the others are answers to other questions.
        self.options = []
        for i in range(n):
            numbers = [i, *draw.sample(range(n), 3)]
            self.options.append([self.rows[k]["messages"][1]["content"] for k in numbers])

    def __len__(self):
        return len(self.rows)

    def asked(self, i):
        return self.rows[i]["messages"][0]["content"]

    def __getitem__(self, i):
        return multiple_choice_record(self.asked(i), list("ABCD"), self.options[i], "A", "Python")


class FewShot(Letters):
    """The same with solved examples, as data/published/core_tasks.py asks them."""
    info = Task("", "multiple_choice", 5, 0.25, "\nAnswer: ")

    def prompts(self, i):
        row = lambda k: dict(query=self.asked(k), choices=self.options[k], gold=0)
        solved = [row((i + k) % len(self)) for k in range(1, 6)]
        return build_prompts(self.info, row(i), solved)


@torch.inference_mode()
def one_option_at_a_time(model, question, n):
    for i in range(n):
        losses = []
        options, _ = question(i)
        for ids, start in options:
            ids = torch.tensor([ids], device=model.embed.device)
            losses.append(F.cross_entropy(model(ids)[0, start - 1:-1], ids[0, start:]).item())


@torch.inference_mode()
def one_token_at_a_time(model, prompts, answers):
    """Generate greedily without a cache.

    There are as many tokens as in the engine's answers, tool outputs included.
    """
    for prompt, answer in zip(prompts, answers):
        ids = torch.tensor([prompt], device=model.embed.device)
        for _ in answer:
            ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], 1)


def best_rates(sides, repeats, clock):
    """Examples per second, {name: rate}, of each side's best run; the first round warms up.

    sides: {name: (function, number of examples it scores)}.
    """
    seconds = {name: float("inf") for name in sides}
    for round in range(repeats + 1):
        for name, (function, _) in sides.items():
            start = clock()
            function()
            if round:
                seconds[name] = min(seconds[name], clock() - start)
    return {name: n / seconds[name] for name, (_, n) in sides.items()}


def padding(trees, batch_tokens):
    """Share of the batches' tokens that is padding.

    Rows are padded to the longest of the batch, rounded up to a multiple of 16.
    """
    n_tokens = 0
    n_places = 0
    for batch in batches_by_length(trees, batch_tokens):
        lengths = [trees[i][0].shape[1] for i in batch]
        n_tokens += sum(lengths)
        n_places += len(batch) * -(-max(lengths) // 16) * 16
    return 1 - n_tokens / n_places


def random_model(cfg, device):
    """A model of --depth with new weights, and a tokenizer trained on Python's docstrings."""
    texts = (text[:2000] for text in python_corpus.documents("val"))
    tokens = train_bpe(texts, cfg.vocab_size - len(SPECIAL_TOKENS))
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    tok = Tokenizer(b"".join(lines), PATTERNS["default"])
    model = GPT(model_config(cfg.depth, tok.vocab_size, cfg.seq_len))
    init_weights(model, 0)
    return model.to(device).eval(), tok


def show(name, rates, note):
    option = rates["option"]
    example = rates["example"]
    batched = rates["batched"]
    print(f"| {name} | {option:.1f}/s | {example:.1f}/s | {batched:.1f}/s | "
          f"{batched / option:.1f} x | {batched / example:.1f} x | {note} |", flush=True)


def main():
    cfg = parse_config(Config, __doc__)
    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    env = setup(cfg.device, cfg.dtype)
    if cfg.stage:
        model, tok, _ = load_checkpoint(cfg.stage, env.device)
    else:
        model, tok = random_model(cfg, env.device)
    model.compute_dtype = env.dtype
    seq_len = model.config.seq_len
    clock = time.process_time if cfg.processor_time else time.perf_counter
    print(f"{env.device}, {torch.get_num_threads()} threads, {env.dtype}, "
          f"{model.config.n_layer} layers, {model.num_params():,} parameters, {versions()}\n\n"
          f"| | one option at a time | one example at a time | batched | times | times | "
          f"padding |\n{'|---' * 7}|")
    forward = block_states
    if cfg.compile and can_compile(env.device):
        forward = torch.compile(forward, dynamic=True)

    def compare(name, question):
        """question(i) -> the options of example i, and the index of the right one."""
        def choices(n, batch_tokens, forward):
            return choose(model, [question(i) for i in range(n)], batch_tokens, forward)

        rates = best_rates({
            "option": (lambda: one_option_at_a_time(model, question, cfg.alone), cfg.alone),
            "example": (lambda: choices(cfg.alone, 1, block_states), cfg.alone),
            "batched": (lambda: choices(cfg.examples, 0, forward), cfg.examples),
        }, cfg.repeats, clock)
        trees = [tree_row(question(i)[0]) for i in range(cfg.examples)]
        show(name, rates, f"{100 * padding(trees, 2048):.1f} %")

    letters = Letters(cfg.examples)
    compare("letters", lambda i: letter_question(tok, letters[i], seq_len))
    few_shot = FewShot(cfg.examples)
    compare("few-shot", lambda i: core_question(tok, few_shot, i, seq_len))

    task = SpellingBee("test", cfg.examples)
    prompts = [tok.render_for_completion(task[i]) for i in range(cfg.examples)]
    one_row = Engine(model, tok, 1)
    many_rows = Engine(model, tok, 64 if env.device.type == "cpu" else 128)
    answer = lambda engine, n: engine.generate(prompts[:n], cfg.max_tokens)
    answers = answer(one_row, cfg.alone)
    rates = best_rates({
        "option": (lambda: one_token_at_a_time(model, prompts[:2], answers[:2]), 2),
        "example": (lambda: answer(one_row, cfg.alone), cfg.alone),
        "batched": (lambda: answer(many_rows, cfg.examples), cfg.examples),
    }, cfg.repeats, clock)
    show("answers", rates, "")


if __name__ == "__main__":
    run(main)
