"""train/bpe.py, by way of train_bpe, beside the definition of BPE, rustbpe and plain regex."""
import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import regex
import tiktoken

from tokenizer import CUT_RULES, PATTERNS, SPLIT_PATTERN, train_bpe, train_bpe_by_definition
from toy import ROOT
from toy_texts import KINDS, WHITE_SPACE, fuzz
from train import bpe
from train.bpe import END, ByteStrings, find_segments

# --------------------------------------------------------------------------------------------------
# The fast trainer returns the tokens of the definition

@pytest.mark.parametrize("kind", KINDS)
def test_equals_definition(kind):
    rng = random.Random(kind)
    for pattern in list(PATTERNS) * 8:
        texts = fuzz(rng, kind)
        vocab_size = 256 + rng.randint(0, 60)
        expected = train_bpe_by_definition(texts, vocab_size, PATTERNS[pattern])
        assert train_bpe(texts, vocab_size, pattern) == expected, texts


def test_equals_definition_when_counts_are_large():
    """Rare pairs are not followed at first, so the text is indexed again when it holds tokens."""
    rng = random.Random(1)
    for _ in range(10):
        texts = fuzz(rng, "all", 3) * rng.choice([50, 700]) + fuzz(rng, "code")
        assert train_bpe(texts, 400) == train_bpe_by_definition(texts, 400)


def test_equals_definition_on_real_text():
    texts = [Path(os.__file__).read_text(), Path(json.__file__).read_text()]
    assert train_bpe(texts, 700) == train_bpe_by_definition(texts, 700)


def test_pattern_without_known_cuts():
    for pattern in (r"\S+|\s+", r".", r"(?s).+", r"[a-z]+|[^a-z]"):
        texts = fuzz(random.Random(2), "all")
        assert train_bpe(texts, 300, pattern) == train_bpe_by_definition(texts, 300, pattern)


@pytest.mark.parametrize("text", ["x" * 100_000, "ab" * 50_000, " " * 100_000, "\n" * 100_000,
                                  "字" * 30_000, "'" * 100_000, "a " * 500_000,
                                  "一 a\u3000" * 200_000], ids=lambda text: text[:3])
def test_long_texts_without_structure(text):
    """A text of several blocks is cut only where the pattern cuts; if it never does, not at all."""
    assert train_bpe([text], 262) == train_bpe_by_definition([text], 262)


@pytest.mark.parametrize("texts", [[], [""], ["a"], ["", "", "b", ""], ["\0"], ["a.", "5"]],
                         ids=repr)
def test_nothing_to_merge(texts):
    assert train_bpe(texts, 300) == [bytes([byte]) for byte in range(256)]


def test_lone_surrogates_count_as_tiktoken_encodes_them():
    # A pair of surrogates, which is a character, and three lone ones.
    texts = ["\ud83d\ude42 \ud800x", "\udc00\udc00"]
    assert train_bpe(texts, 300) == train_bpe_by_definition(["🙂 \ufffdx", "\ufffd\ufffd"], 300)
    encoding = tiktoken.Encoding("bytes", pat_str=SPLIT_PATTERN, special_tokens={},
                                 mergeable_ranks={bytes([byte]): byte for byte in range(256)})
    assert bytes(encoding.encode_ordinary(texts[0])) == "🙂 \ufffdx".encode()


def test_equals_rustbpe():
    rustbpe = pytest.importorskip("rustbpe")
    rng = random.Random(3)
    for kind in list(KINDS) * 4:
        texts = fuzz(rng, kind) + fuzz(rng, "code") * 20
        vocab_size = 256 + rng.randint(0, 80)
        other = rustbpe.Tokenizer()
        other.train_from_iterator(iter(texts), vocab_size, pattern=SPLIT_PATTERN)
        ranks = sorted(other.get_mergeable_ranks(), key=lambda item: item[1])
        assert train_bpe(texts, vocab_size) == [bytes(token) for token, _ in ranks], texts


# How many tokens come out, and a hash of them, for a shuffled text, in small blocks and jobs.
COUNT_SCRIPT = """
import hashlib, random, sys, tokenizer
from train import bpe

def main(shuffle, processes, start):
    if start == "spawn":
        sys.platform = "other"              # what macOS and Windows do
    bpe.BLOCK_BYTES = 2000
    bpe.JOB_BLOCKS = 2
    rng = random.Random(4)
    texts = ["".join(rng.choices("abcdefgh    .\\n5é", k=rng.randint(0, 400))) for _ in range(300)]
    random.Random(int(shuffle)).shuffle(texts)
    tokens = tokenizer.train_bpe(iter(texts), 500, processes=int(processes))
    print(len(tokens), hashlib.sha256(repr(tokens).encode()).hexdigest())

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def test_order_of_documents_hash_seed_and_processes_change_nothing(tmp_path):
    """The tokens are the same for shuffled documents, any hash seed, and one to three processes.

    It does not matter either whether the processes are forked or spawned.
    """
    script = tmp_path / "count.py"
    script.write_text(COUNT_SCRIPT)
    outputs = set()
    for seed, shuffle, processes, start in [(0, 1, 1, "fork"), (1, 2, 2, "fork"),
                                            (2, 3, 3, "fork"), (3, 4, 2, "spawn")]:
        env = dict(os.environ, PYTHONHASHSEED=str(seed), PYTHONPATH=str(ROOT))
        run = subprocess.run([sys.executable, script, str(shuffle), str(processes), start],
                             env=env, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        outputs.add(run.stdout)
    assert len(outputs) == 1 and outputs.pop().startswith("500 ")


def test_torch_is_not_imported_by_the_trainer():
    """Nor by train/bpe.py, which is all that a counting process imports when it is spawned."""
    code = "import sys; from tokenizer import train_bpe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

# --------------------------------------------------------------------------------------------------
# Counting chunks

def test_texts_are_streamed():
    """The first block comes out before the second text is read."""
    taken = []

    def texts():
        for i in range(10):
            taken.append(i)
            yield "word " * 60_000

    next(bpe.read_blocks(texts(), CUT_RULES[SPLIT_PATTERN], lambda done: None))
    assert taken == [0]


def assert_cuts_are_certain(texts, pattern):
    """Split segment by segment, texts give the same chunks as when they are split as a whole."""
    texts = [text for text in texts if text]
    block = b"".join(text.encode() + END for text in texts)
    starts, ends = find_segments(block, CUT_RULES[pattern])
    # Which text each segment is of.
    document = np.cumsum(np.frombuffer(block, np.uint8) == END[0])[starts]
    split = regex.compile(pattern).findall
    chunks = [[] for _ in texts]
    for i, start, end in zip(document.tolist(), starts.tolist(), ends.tolist()):
        chunks[i] += split(block[start:end].decode())
    for text, found in zip(texts, chunks):
        assert found == split(text), (pattern, text)


@pytest.mark.parametrize("name", PATTERNS)
def test_certain_cuts_on_all_short_texts(name):
    """Every text of up to four characters.

    The alphabet has one or two of each kind that the patterns or the rules tell apart.
    """
    alphabet = ["a", "s", "L", "5", "'", ".", " ", "\t", "\n", "\r", "\0", "é", "\u0301", "٣",
                "\xa0", "\u3000", "、"]
    texts = itertools.chain.from_iterable(itertools.product(alphabet, repeat=n) for n in range(5))
    assert_cuts_are_certain(map("".join, texts), PATTERNS[name])


def all_characters(first=0):
    return [chr(c) for c in range(first, 0x110000) if not 0xD800 <= c < 0xE000]


@pytest.mark.parametrize("name", PATTERNS)
def test_certain_cuts_on_random_texts(name):
    rng = random.Random(name)
    everything = all_characters()

    def any_text():
        return "".join(rng.choice([rng.choice(everything), chr(rng.randrange(128)), " "])
                       for _ in range(40))

    texts = [text for kind in KINDS for _ in range(60) for text in fuzz(rng, kind, length=60)]
    texts += ["".join(rng.choices(WHITE_SPACE + "a.5'", k=12)) for _ in range(4000)]
    texts += [any_text() for _ in range(2000)]
    assert_cuts_are_certain(texts, PATTERNS[name])


def test_no_white_space_hides_behind_the_lead_bytes_that_rules_trust():
    spaces = regex.findall(r"\s", "".join(all_characters(first=128)))
    assert spaces and not {c.encode()[0] for c in spaces} & bpe.NONSPACE


@pytest.mark.parametrize("collide", [False, True])
def test_byte_strings_count_like_a_counter(collide, monkeypatch):
    """Even if all hashes are equal: a collision may cost time, but no count goes wrong."""
    if collide:
        monkeypatch.setattr(ByteStrings, "first_slot",
                            lambda self, key1, key2: np.zeros(len(key1), np.int64))
    rng = random.Random(5)
    table = ByteStrings(bits=4)
    expected = Counter()
    for _ in range(10 if collide else 200):
        lengths = [1, 2, 3, 7, 8, 9, 14, 15, 16, 40]
        strings = [bytes(rng.choices(b"\0a\xff", k=rng.choice(lengths))) for _ in range(50)]
        counts = [rng.randint(1, 9) for _ in strings]
        ends = np.cumsum([0] + [len(string) for string in strings])
        table.add_slices(b"".join(strings), ends[:-1], ends[1:], np.array(counts))
        for string, n in zip(strings, counts):
            expected[string] += n

    key1, key2, count = table.items()
    keys = np.stack((key1, key2), 1).tobytes()
    short = {keys[16 * i:16 * i + keys[16 * i + 15]]: n for i, n in enumerate(count.tolist())}
    assert short | table.long == expected
