"""tokenizer.py: the definition of BPE, our tokens in tiktoken, the script.

The fast trainer is tested in test_bpe.py.
"""
import json
import os
import random
import shlex
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import regex
import tiktoken
import tiktoken.load

import tokenizer
from common import SPECIAL_TOKENS, Tokenizer
from data.documents import read_documents
from tokenizer import PATTERNS, train_bpe, train_bpe_by_definition
from toy import ROOT
from toy_texts import KINDS, fuzz

# --------------------------------------------------------------------------------------------------
# What BPE is

def test_definition_by_hand():
    """The most frequent pair is merged, and of equally frequent ones the pair of smaller ids."""
    # First (a, b), which occurs three times. Then (ab, c) and (c, ab) occur twice each: c is 99 and
    # ab 256, so (c, ab) is the smaller pair.
    tokens = train_bpe_by_definition(["abcabcab"], 300)
    assert tokens[256:] == [b"ab", b"cab", b"abcab", b"abcabcab"]
    # After aa, the pairs (aa, aa) and (aa, a) occur once each: a is the smaller id.
    assert train_bpe_by_definition(["aaaaa"], 258)[256:] == [b"aa", b"aaa"]
    assert train_bpe_by_definition([], 300) == [bytes([i]) for i in range(256)]


@pytest.mark.parametrize("vocab_size", [255, 65536])
def test_impossible_sizes(vocab_size):
    with pytest.raises(ValueError, match=str(vocab_size)):
        train_bpe(["text"], vocab_size)

# --------------------------------------------------------------------------------------------------
# Encoding

def naive_encode(text, tokens, pattern):
    """Merge in each chunk the pair with the lowest rank, again and again -> ids."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    ids = []
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
    """Tokens for each pattern."""
    texts = [Path(os.__file__).read_text(), "".join(fuzz(random.Random(6), "all", length=500))]
    return {name: train_bpe(texts, 600, name) for name in PATTERNS}


@pytest.mark.parametrize("name", PATTERNS)
def test_no_pattern_loses_a_character(name):
    """Whatever stands around it: one in 97 of the first planes, and every third mark."""
    pattern = regex.compile(PATTERNS[name])
    letters = [chr(i) for i in range(0x20000) if not 0xD800 <= i < 0xE000]
    marks = [letter for letter in letters if unicodedata.category(letter)[0] == "M"]
    for x in letters[::97] + marks[::3]:
        text = f"{x} {x}5{x}a{x}({x}\n{x}{x}'s{x}  "
        assert "".join(pattern.findall(text)) == text


@pytest.mark.parametrize("name", PATTERNS)
def test_marks_are_parts_of_words_where_the_pattern_says_so(name):
    words = ["हिन्दी", "தமிழ்", "กำลัง", "تُفَّاح", "e\u0301te\u0301"]
    whole = regex.findall(PATTERNS[name], " ".join(words))
    assert (whole == [words[0], *(" " + word for word in words[1:])]) == (
        name in ("default", "qwen35"))


@pytest.mark.parametrize("name", PATTERNS)
def test_tiktoken_encodes_by_our_tokens(name, trained):
    ranks = {token: rank for rank, token in enumerate(trained[name])}
    encoding = tiktoken.Encoding("test", pat_str=PATTERNS[name], mergeable_ranks=ranks,
                                 special_tokens={})
    rng = random.Random(name)
    for kind in list(KINDS) * 4:
        for text in fuzz(rng, kind):
            ids = encoding.encode_ordinary(text)
            assert ids == naive_encode(text, trained[name], PATTERNS[name]), text
            assert encoding.decode(ids) == text

# --------------------------------------------------------------------------------------------------
# The script and its files

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


@pytest.mark.slow
def test_script_saves_what_train_bpe_returns(tmp_path):
    data = write_documents(tmp_path / "text.jsonl")
    folder = tmp_path / "out/tokenizer"
    run = run_script("--data", data, "--out", tmp_path / "out", "--vocab_size", 300,
                     "--pattern", "llama3")
    assert run.returncode == 0, run.stderr

    documents = list(read_documents([data], "train"))
    expected = train_bpe_by_definition(documents, 291, PATTERNS["llama3"])
    ranks = {token: rank for rank, token in enumerate(expected)}
    assert tiktoken.load.load_tiktoken_bpe(str(folder / "merges.tiktoken")) == ranks

    tok = Tokenizer.load(folder)
    info = json.loads((folder / "tokenizer.json").read_text())
    assert info["fingerprint"] == tok.fingerprint and tok.pattern == PATTERNS["llama3"]
    assert tok.vocab_size == 300 and tok.special("<|bos|>") == 291
    assert info["special_tokens"] == SPECIAL_TOKENS and info["vocab_size"] == 300
    assert info["trained_on"]["documents"] == len(documents) > 200


def test_script_limits_and_too_little_text(tmp_path, monkeypatch, capsys):
    """--max_chars and --doc_cap keep the beginning of the text and of each document.

    When the text has fewer pairs to merge than asked for, the script saves what there is.
    """
    data = write_documents(tmp_path / "a.jsonl")
    run_main(monkeypatch, "--data", data, "--out", tmp_path, "--vocab_size", 5000, "--doc_cap", 5,
             "--max_chars", 18)
    documents = list(read_documents([data], "train"))
    texts = [documents[0][:5], documents[1][:5], documents[2][:5], documents[3][:3]]
    expected = train_bpe_by_definition(texts, 5000)
    tok = Tokenizer.load(tmp_path / "tokenizer")
    assert [tok.enc.decode_single_token_bytes(i) for i in range(tok.vocab_size - 9)] == expected
    assert "fewer than --vocab_size 5000" in capsys.readouterr().out


def test_the_next_command_reads_the_same_text_from_the_same_folder(tmp_path, monkeypatch, capsys):
    data = write_documents(tmp_path / "my text.jsonl")
    run_main(monkeypatch, "--data", data, "--out", tmp_path, "--vocab_size", 300)
    *_, last = capsys.readouterr().out.splitlines()
    command = last.partition("Next: ")[2]
    assert shlex.split(command) == ["python", "pretrain.py", "--out", str(tmp_path),
                                    "--data", str(data)]


@pytest.mark.slow
def test_an_output_of_few_characters_loses_no_tokenizer(tmp_path):
    """As `python tokenizer.py > log` on Windows: the vocabulary shown has letters that it lacks."""
    data = tmp_path / "text.txt"
    data.write_text("Привет, как дела? 中文 " * 500, "utf-8")
    result = subprocess.run([sys.executable, "tokenizer.py", "--data", data, "--out", tmp_path,
                             "--vocab_size", "280"], cwd=ROOT, capture_output=True,
                            env=dict(os.environ, PYTHONIOENCODING="cp1252"))
    assert result.returncode == 0, result.stderr
    assert b"?" in result.stdout and Tokenizer.load(tmp_path / "tokenizer").vocab_size == 280


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
    assert (tmp_path / "tokenizer/tokenizer.json").read_bytes() == old
    assert not (tmp_path / "tokenizer.tmp").exists()


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
    for pattern in "[a-z]+", r"\S+| +", r"\p{L}+|\p{N}+|\s+|\p{P}+|\p{S}+", r" ?\S\S+|\s+":
        with pytest.raises(ValueError, match="does not match every character"):
            run_main(monkeypatch, "--data", data, "--out", tmp_path, "--vocab_size", 300,
                     "--pattern", pattern)
    assert not (tmp_path / "tokenizer").exists()


def test_nothing_is_printed_before_the_tokenizer_is_saved(tmp_path, monkeypatch):
    """Neither an output that fails nor a held-out text that can't be read loses it."""
    data = write_documents(tmp_path / "a.jsonl")
    run = lambda out: run_main(monkeypatch, "--data", data, "--out", out, "--vocab_size", 300)
    real_print = print

    def fail(*args, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.print", fail)
    with pytest.raises(OSError, match="No space"):
        run(tmp_path / "a")
    monkeypatch.setattr("builtins.print", real_print)
    monkeypatch.setattr(tokenizer, "report_samples", lambda cfg: {}["bad row"])
    with pytest.raises(KeyError):
        run(tmp_path / "b")
    assert Tokenizer.load(tmp_path / "a/tokenizer").fingerprint \
        == Tokenizer.load(tmp_path / "b/tokenizer").fingerprint


@pytest.mark.slow
def test_script_errors_are_one_line_and_help_names_every_flag(tmp_path):
    (tmp_path / "out").write_text("a file where a folder should be")
    for args, message in [(["--vocab_size", 264], "264"), (["--max_chars", "-1"], "-1"),
                          (["--out", tmp_path / "out"], "out")]:
        run = run_script(*args)
        assert run.returncode == 2 and message in run.stderr, run.stderr
        assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    run = run_script("--help")
    assert run.returncode == 0
    for name in tokenizer.Config.__dataclass_fields__:
        assert f"--{name} " in run.stdout
