"""tokenizer.py and train/bpe.py beside the definition of BPE, rustbpe, regex and tiktoken."""
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
import tiktoken.load

import tokenizer
from common import SPECIAL_TOKENS, Tokenizer
from data.documents import read_documents
from tokenizer import CUT_RULES, PATTERNS, SPLIT_PATTERN, train_bpe, train_bpe_by_definition
from train import bpe
from train.bpe import END, ByteStrings, find_segments

ROOT = Path(tokenizer.__file__).parent
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000"
# Kinds of text, each as the pieces that random documents are made of.
CLASSES = {
    "overlaps": ["a", "aa", "ab", "b", " "],
    "apostrophes": ["'", "'S", "'ſ", "'ll", "'RE", "it", " ", "’s", "s"],
    "white space": [*WHITE_SPACE, "\r\n", "  ", "a", ".", "1"],
    "control": ["\0", "\x01", "\x1c", "\x1f", "\x7f", "\x80", "a", " "],
    "digits": [*"0123456789", "٣", "५", "²", "Ⅷ", "½", "一", " ", ".", "a"],
    "marks": ["é", "e\u0301", "\u200d", "\u0300", "n", " "],
    "emoji": ["🙂", "👩\u200d🚀", "🇩🇪", "a", " ", "!"],
    "scripts": ["中文", "字", "السلام", "привет", "नमस्ते", "สวัสดี", "한국", " ", "，", "。", "a"],
    "code": ["def ", "x", "(", ")", "_", "    ", "\n", "\n\n", "\t", "==", "->", "\"", "'", "#",
             "0", "12"],
}
CLASSES["all"] = sorted(set(itertools.chain.from_iterable(CLASSES.values())))


def fuzz(rng, kind, n_docs=6, length=120):
    """A few random documents of one kind, some of them empty.

    Each call uses only some pieces of the kind, so that repeated pairs and ties are likely.
    """
    pieces = rng.sample(CLASSES[kind], rng.randint(1, len(CLASSES[kind])))
    return ["".join(rng.choices(pieces, k=rng.choice([0, 1, 2, length])))
            for _ in range(rng.randint(0, n_docs))]


# --------------------------------------------------------------------------------------------------
# The definition, and the fast trainer beside it

def test_definition_by_hand():
    """The most frequent pair is merged, and of equally frequent ones the pair of smaller ids."""
    # First (a, b), which occurs three times. Then (ab, c) and (c, ab) occur twice each: c is 99 and
    # ab 256, so (c, ab) is the smaller pair.
    assert train_bpe_by_definition(["abcabcab"], 300)[256:] == [b"ab", b"cab", b"abcab",
                                                                b"abcabcab"]
    # After aa, the pairs (aa, aa) and (aa, a) occur once each: a is the smaller id.
    assert train_bpe_by_definition(["aaaaa"], 258)[256:] == [b"aa", b"aaa"]
    assert train_bpe_by_definition([], 300) == [bytes([i]) for i in range(256)]


@pytest.mark.parametrize("kind", CLASSES)
def test_equals_definition(kind):
    rng = random.Random(kind)
    for pattern in list(PATTERNS) * 8:
        texts, vocab_size = fuzz(rng, kind), 256 + rng.randint(0, 60)
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
    for kind in list(CLASSES) * 4:
        texts, vocab_size = fuzz(rng, kind) + fuzz(rng, "code") * 20, 256 + rng.randint(0, 80)
        other = rustbpe.Tokenizer()
        other.train_from_iterator(iter(texts), vocab_size, pattern=SPLIT_PATTERN)
        theirs = [bytes(token) for token, _ in sorted(other.get_mergeable_ranks(),
                                                      key=lambda item: item[1])]
        assert train_bpe(texts, vocab_size) == theirs, texts


def test_order_of_documents_hash_seed_and_processes_change_nothing(tmp_path):
    """The tokens are the same for shuffled documents, any hash seed, and one to three processes.

    It does not matter either whether the processes are forked or spawned.
    """
    script = tmp_path / "count.py"
    script.write_text("""import hashlib, random, sys, tokenizer
from train import bpe
def main(shuffle, processes, start):
    if start == "spawn":
        sys.platform = "other"                           # what macOS and Windows do
    bpe.BLOCK_BYTES, bpe.JOB_BLOCKS = 2000, 2
    rng = random.Random(4)
    texts = ["".join(rng.choices("abcdefgh    .\\n5é", k=rng.randint(0, 400))) for _ in range(300)]
    random.Random(int(shuffle)).shuffle(texts)
    tokens = tokenizer.train_bpe(iter(texts), 500, processes=int(processes))
    print(len(tokens), hashlib.sha256(repr(tokens).encode()).hexdigest())
if __name__ == "__main__":
    main(*sys.argv[1:])
""")
    outputs = set()
    for seed, *args in ["0 1 1 fork".split(), "1 2 2 fork".split(), "2 3 3 fork".split(),
                        "3 4 2 spawn".split()]:
        env = dict(os.environ, PYTHONHASHSEED=seed, PYTHONPATH=str(ROOT))
        run = subprocess.run([sys.executable, script, *args], env=env, capture_output=True,
                             text=True)
        assert run.returncode == 0, run.stderr
        outputs.add(run.stdout)
    assert len(outputs) == 1 and outputs.pop().startswith("500 ")


def test_torch_is_not_imported_by_the_trainer():
    """Nor by train/bpe.py, which is all that a counting process imports when it is spawned."""
    code = "import sys; from tokenizer import train_bpe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_texts_are_streamed():
    """The first block comes out before the second text is read."""
    taken = []
    texts = (taken.append(i) or "word " * 60_000 for i in range(10))
    next(bpe.read_blocks(texts, CUT_RULES[SPLIT_PATTERN], lambda done: None))
    assert taken == [0]


@pytest.mark.parametrize("vocab_size", [255, 65536])
def test_impossible_sizes(vocab_size):
    with pytest.raises(ValueError, match=str(vocab_size)):
        train_bpe(["text"], vocab_size)

# --------------------------------------------------------------------------------------------------
# Counting

def assert_cuts_are_certain(texts, pattern):
    """Split segment by segment, texts give the same chunks as when they are split as a whole."""
    texts = [text for text in texts if text]
    block = b"".join(text.encode() + END for text in texts)
    starts, ends = find_segments(block, CUT_RULES[pattern])
    split, cut = regex.compile(pattern).findall, [[] for _ in texts]
    document = np.cumsum(np.frombuffer(block, np.uint8) == END[0])[starts]
    for i, a, b in zip(document.tolist(), starts.tolist(), ends.tolist()):
        cut[i] += split(block[a:b].decode())
    for text, chunks in zip(texts, cut):
        assert chunks == split(text), (pattern, text)


@pytest.mark.parametrize("name", PATTERNS)
def test_certain_cuts_on_all_short_texts(name):
    """Every text of up to four characters.

    The alphabet has one or two of each kind that the patterns or the rules tell apart.
    """
    alphabet = ["a", "s", "L", "5", "'", ".", " ", "\t", "\n", "\r", "\0", "é", "\u0301", "٣",
                "\xa0", "\u3000", "、"]
    texts = itertools.chain.from_iterable(itertools.product(alphabet, repeat=n) for n in range(5))
    assert_cuts_are_certain(map("".join, texts), PATTERNS[name])


@pytest.mark.parametrize("name", PATTERNS)
def test_certain_cuts_on_random_texts(name):
    rng, everything = (random.Random(name),
                       [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000])
    texts = [text for kind in CLASSES for _ in range(60) for text in fuzz(rng, kind, length=60)]
    texts += ["".join(rng.choices(WHITE_SPACE + "a.5'", k=12)) for _ in range(4000)]
    texts += ["".join(rng.choice([rng.choice(everything), chr(rng.randrange(128)), " "])
                      for _ in range(40))
              for _ in range(2000)]
    assert_cuts_are_certain(texts, PATTERNS[name])


def test_no_white_space_hides_behind_the_lead_bytes_that_rules_trust():
    spaces = regex.findall(r"\s", "".join(chr(c) for c in range(128, 0x110000)
                                          if not 0xD800 <= c < 0xE000))
    assert spaces and not {c.encode()[0] for c in spaces} & bpe.NONSPACE


@pytest.mark.parametrize("collide", [False, True])
def test_byte_strings_count_like_a_counter(collide, monkeypatch):
    """Even if all hashes are equal: a collision may cost time, but no count goes wrong."""
    if collide:
        monkeypatch.setattr(ByteStrings, "first_slot",
                            lambda self, key1, key2: np.zeros(len(key1), np.int64))
    rng, table, expected = random.Random(5), ByteStrings(bits=4), Counter()
    for _ in range(10 if collide else 200):
        strings = [bytes(rng.choices(b"\0a\xff", k=rng.choice([1, 2, 3, 7, 8, 9, 14, 15, 16, 40])))
                   for _ in range(50)]
        counts = [rng.randint(1, 9) for _ in strings]
        ends = np.cumsum([0] + list(map(len, strings)))
        table.add_slices(b"".join(strings), ends[:-1], ends[1:], np.array(counts))
        for string, n in zip(strings, counts):
            expected[string] += n
    key1, key2, count = table.items()
    rows = [row.tobytes() for row in np.stack((key1, key2), 1).view(np.uint8)]
    assert {row[:row[15]]: n for row, n in zip(rows, count.tolist())} | table.long == expected

# --------------------------------------------------------------------------------------------------
# Files and script

def naive_encode(text, tokens, pattern):
    ranks, ids = {token: rank for rank, token in enumerate(tokens)}, []
    for chunk in regex.findall(pattern, text):
        parts = [bytes([byte]) for byte in chunk.encode()]
        while len(parts) > 1:
            rank, i = min((ranks.get(a + b, len(ranks)), i)
                          for i, (a, b) in enumerate(zip(parts, parts[1:])))
            if rank == len(ranks):
                break
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        ids += [ranks[part] for part in parts]
    return ids


@pytest.fixture(scope="module")
def trained():
    texts = [Path(os.__file__).read_text(), "".join(fuzz(random.Random(6), "all", length=500))]
    return {name: train_bpe(texts, 600, name) for name in PATTERNS}


@pytest.mark.parametrize("name", PATTERNS)
def test_tiktoken_encodes_by_our_tokens(name, trained):
    ranks = {token: rank for rank, token in enumerate(trained[name])}
    encoding = tiktoken.Encoding("test", pat_str=PATTERNS[name], mergeable_ranks=ranks,
                                 special_tokens={})
    rng = random.Random(name)
    for kind in list(CLASSES) * 4:
        for text in fuzz(rng, kind):
            assert encoding.encode_ordinary(text) == naive_encode(text, trained[name],
                                                                  PATTERNS[name]), text
            assert encoding.decode(encoding.encode_ordinary(text)) == text


def run_script(*args):
    return subprocess.run([sys.executable, "tokenizer.py", *map(str, args)], cwd=ROOT,
                          capture_output=True, text=True)


def run_main(monkeypatch, *args):
    """The same in this process, which saves the import of torch."""
    monkeypatch.setattr(sys, "argv", ["tokenizer.py", *map(str, args)])
    tokenizer.main()


def write_documents(path):
    texts = [f"{i:03} document: {'text ' * (i % 7)}{i * 37} naïve 中文\r\n" for i in range(300)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_script_saves_what_train_bpe_returns(tmp_path):
    data, folder = write_documents(tmp_path / "text.jsonl"), tmp_path / "out/tokenizer"
    run = run_script("--data", data, "--out", tmp_path / "out", "--vocab_size", 300,
                     "--pattern", "llama3")
    assert run.returncode == 0, run.stderr
    expected = train_bpe_by_definition(list(read_documents([data], "train")), 291,
                                       PATTERNS["llama3"])
    ranks = {token: rank for rank, token in enumerate(expected)}
    assert tiktoken.load.load_tiktoken_bpe(str(folder / "merges.tiktoken")) == ranks
    tok, info = Tokenizer.load(folder), json.loads((folder / "tokenizer.json").read_text())
    assert info["fingerprint"] == tok.fingerprint and tok.pattern == PATTERNS["llama3"]
    assert tok.vocab_size == 300 and tok.special("<|bos|>") == 291
    assert info["special_tokens"] == SPECIAL_TOKENS and info["vocab_size"] == 300
    assert info["trained_on"]["documents"] == len(list(read_documents([data], "train"))) > 200


def test_script_limits_and_too_little_text(tmp_path, monkeypatch, capsys):
    """--max_chars and --doc_cap keep the beginning of the text and of each document.

    When the text has fewer pairs to merge than asked for, the script saves what there is.
    """
    data = write_documents(tmp_path / "a.jsonl")
    run_main(monkeypatch, "--data", data, "--out", tmp_path, "--vocab_size", 5000, "--doc_cap", 5,
             "--max_chars", 18)
    documents = list(read_documents([data], "train"))
    expected = train_bpe_by_definition([documents[0][:5], documents[1][:5], documents[2][:5],
                                        documents[3][:3]], 5000)
    tok = Tokenizer.load(tmp_path / "tokenizer")
    assert [tok.enc.decode_single_token_bytes(i) for i in range(tok.vocab_size - 9)] == expected
    assert "fewer than --vocab_size 5000" in capsys.readouterr().out


def test_script_replaces_the_old_tokenizer_only_by_a_whole_one(tmp_path, monkeypatch):
    """After an error while the files are written, such as a full disk, the old folder is intact."""
    data = write_documents(tmp_path / "a.jsonl")
    run_main(monkeypatch, "--data", data, "--out", tmp_path, "--vocab_size", 270)
    old = (tmp_path / "tokenizer/tokenizer.json").read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        run_main(monkeypatch, "--data", data, "--out", tmp_path, "--vocab_size", 266)
    assert ((tmp_path / "tokenizer/tokenizer.json").read_bytes() == old
            and not (tmp_path / "tokenizer.tmp").exists())


@pytest.mark.parametrize("args, message", [
    (["--vocab_size", "264"], "264"), (["--vocab_size", "65537"], "65537"),
    (["--data", "no/file.txt"], "no/file.txt"),
    (["--pattern", "(a"], "(a"), (["--pattern", "(a)|b"], "capturing")])
def test_impossible_settings(args, message, tmp_path, monkeypatch):
    with pytest.raises((ValueError, OSError), match=regex.escape(message)):
        run_main(monkeypatch, "--out", tmp_path / "out", *args)
    assert not (tmp_path / "out/tokenizer").exists()


def test_a_pattern_that_loses_text_is_refused(tmp_path, monkeypatch):
    data = write_documents(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="does not match every character"):
        run_main(monkeypatch, "--data", data, "--out", tmp_path, "--vocab_size", 300,
                 "--pattern", "[a-z]+")
    assert not (tmp_path / "tokenizer").exists()


def test_script_errors_are_one_line_and_help_names_every_flag(tmp_path):
    (tmp_path / "out").write_text("a file where a folder should be")
    for args, message in [(["--vocab_size", 264], "264"), (["--max_chars", "-1"], "-1"),
                          (["--out", tmp_path / "out"], "out")]:
        run = run_script(*args)
        assert (run.returncode == 2 and message in run.stderr
                and len(run.stderr.strip().splitlines()) == 1), run.stderr
    run = run_script("--help")
    assert run.returncode == 0 and all(f"--{name} " in run.stdout
                                       for name in tokenizer.Config.__dataclass_fields__)
