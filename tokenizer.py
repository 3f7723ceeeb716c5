"""
Stage 1 of 7: the tokenizer. Reads text, writes out/tokenizer.

laptop    python tokenizer.py           # reads the documentation and source code of your Python
own text  python tokenizer.py --data books/ wiki.jsonl --vocab_size 65536
library   from tokenizer import train_bpe; tokens = train_bpe(iterator_of_str, 32768)

Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019) in three
sentences. Cut the text into chunks: a word with the space before it, a number, some punctuation.
Write each chunk as its bytes; the 256 bytes are the first tokens. Then, until the vocabulary is
full, take the most frequent pair of neighbouring tokens and make it a new token, in every chunk.

train_bpe_by_definition is these three sentences in twenty lines of Python. train_bpe returns the
same tokens, on a large text a thousand times faster; train/bpe.py explains how. Encoding text is
the work of tiktoken, which loads the file that we save.
"""
import ctrl_c

import base64
import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import regex

from train.bpe import MAX_TOKENS, count_chunks, merge_chunks

# --------------------------------------------------------------------------------------------------
# What BPE is

# GPT-4's pattern, except that digits come in groups of one or two, not three: numbers then take
# less of a small vocabulary. And marks, such as the vowel signs of Hindi, Tamil and Thai, go on
# with a word as letters do; where they end it, no token can be longer than from sign to sign.
SPLIT_PATTERN = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{M}\p{N}]?+[\p{L}\p{M}]+|\p{N}{1,2}"
                 r"| ?[^\s\p{L}\p{M}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
# The others have names because llama.cpp reads only patterns it knows. Only qwen35 counts marks as
# letters.
LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")
QWEN35_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
                  r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PATTERNS = {"default": SPLIT_PATTERN, "llama3": LLAMA3_PATTERN, "qwen2": QWEN2_PATTERN,
            "qwen35": QWEN35_PATTERN, "gpt2": GPT2_PATTERN}


def train_bpe_by_definition(texts, vocab_size, pattern=SPLIT_PATTERN):
    """What train_bpe returns, as plainly as it can be said; the tests compare the two."""
    chunks = Counter(chunk for text in texts for chunk in regex.findall(pattern, text))
    # A word is a list of token ids, which gets shorter with every merge in it, and its count.
    words = [(list(chunk.encode()), count) for chunk, count in chunks.items()]
    tokens = [bytes([byte]) for byte in range(256)]

    while len(tokens) < vocab_size:
        counts = Counter()
        for ids, count in words:
            for pair in zip(ids, ids[1:]):
                counts[pair] += count
        # No pairs are left when every word is a single token.
        if not counts:
            break

        # The most frequent pair; of equally frequent ones, the pair of smaller ids.
        left, right = min(counts, key=lambda pair: (-counts[pair], pair))
        # Merge from left to right, so that a a a becomes (aa) a.
        for ids, _ in words:
            for i in range(len(ids)):
                if ids[i:i + 2] == [left, right]:
                    ids[i:i + 2] = [len(tokens)]
        tokens.append(tokens[left] + tokens[right])
    return tokens


# Which of the CERTAIN_CUTS in train/bpe.py hold for a pattern: bit k stands for rule k. Of a
# pattern of your own none is known to hold.
CUT_RULES = {SPLIT_PATTERN: 0b11111, LLAMA3_PATTERN: 0b11111, QWEN2_PATTERN: 0b11111,
             QWEN35_PATTERN: 0b11111, GPT2_PATTERN: 0b01111}


def train_bpe(texts, vocab_size, pattern=SPLIT_PATTERN, processes=None, progress=None,
              total_mb=0):
    """Train byte-level BPE -> list of bytes, the tokens in rank order; 0 to 255 are the bytes.

    texts: an iterable of str; their order makes no difference.
    vocab_size: tokens to return, 256 to 65535; fewer come back when no pairs are left to merge.
    pattern: a name in PATTERNS or a regular expression.
    processes: how many processes count chunks, by default one a core; it makes no difference to
    the tokens either.
    progress: called as progress(what, done, total, unit) now and then. total_mb: about how much
    text there is, 0 if nobody knows.
    A lone surrogate counts as U+FFFD, since that is how tiktoken encodes it.
    ValueError for an impossible size, pattern or amount of text; OSError if a process dies.
    """
    if not 256 <= vocab_size <= MAX_TOKENS:
        raise ValueError(f"cannot train {vocab_size} BPE tokens: ask for 256 (the bytes) to "
                         f"{MAX_TOKENS} (16-bit ids)")
    pattern = PATTERNS.get(pattern, pattern)
    check_pattern(pattern)
    progress = progress or (lambda what, done, total, unit: None)
    read = lambda done: progress("reading   ", done, total_mb, "MB")
    try:
        symbols, weights = count_chunks(texts, pattern, CUT_RULES.get(pattern),
                                        processes or os.cpu_count(), read)
    except BrokenProcessPool:
        raise OSError("a counting process died: it was killed, it ran out of memory, or a script "
                      "without `if __name__ == '__main__':` started it. Do without such "
                      "processes: --processes 1") from None

    tokens = [bytes([byte]) for byte in range(256)]
    merged = lambda done: progress("merging   ", done, vocab_size - 256, "pairs")
    for left, right in merge_chunks(symbols, weights, vocab_size - 256, merged):
        tokens.append(tokens[left] + tokens[right])
    assert len(set(tokens)) == len(tokens), "greedy BPE never makes a token in two ways"
    return tokens


def check_pattern(pattern):
    """ValueError unless it is a regular expression without groups."""
    try:
        groups = regex.compile(pattern).groups
    except regex.error as e:
        raise ValueError(f"split pattern {pattern!r} is neither one of {', '.join(PATTERNS)} nor a "
                         f"regular expression: {e}")
    # With a group in the pattern, findall returns what the group matched in place of the chunk.
    if groups:
        raise ValueError(f"split pattern {pattern!r} has capturing groups; write (?:...) for (...)")



def check_every_character(pattern):
    """ValueError if the chunks of a pattern do not hold every character of a text."""
    check_pattern(pattern)
    # A character alone, and behind and before others of its kind. Every seventh one is enough.
    characters = [chr(i) for i in [*range(0x300), *range(0x300, 0x20000, 7)]
                  if not 0xD800 <= i < 0xE000]
    text = "".join(f"{x}{x} {x}" for x in characters) + "\n" + OTHER_SCRIPTS
    if "".join(regex.findall(pattern, text)) != text:
        raise ValueError(f"split pattern {pattern!r} does not match every character: what it does "
                         f"not match would be lost. End it with |[\\s\\S]")

# --------------------------------------------------------------------------------------------------
# Files

def save_tokenizer(path, merges, tok, trained_on, bytes_per_token=None):
    """Write a folder of merges.tiktoken and tokenizer.json, which replaces the old one as a whole.

    merges: the bytes of merges.tiktoken, from which the Tokenizer `tok` was made.
    trained_on, and bytes_per_token by kind of text: dicts, for the record.
    """
    from machine import new_folder, write_synced
    info = {"pattern": tok.pattern, "special_tokens": list(tok.specials),
            "vocab_size": tok.vocab_size, "trained_on": trained_on,
            "bytes_per_token": bytes_per_token or {}, "fingerprint": tok.fingerprint}
    with new_folder(path) as new:
        write_synced(new / "merges.tiktoken", lambda f: f.write(merges))
        write_synced(new / "tokenizer.json",
                     lambda f: f.write(json.dumps(info, indent=1).encode()))

# --------------------------------------------------------------------------------------------------
# Main: train, save, report. Nothing is printed before what was computed is saved.

# The conversations that the later stages learn from have to be cheap in tokens, too.
DEMO_MIXTURE = ("spelling_bee:3000,letters:1000,arithmetic:3000,word_problems:2000,choices:1000,"
                "python_questions,identity")


@dataclass
class Config:
    data: tuple = ()             # files or folders; none: downloads on a GPU, else Python's texts
    field: str = "text"          # field or column of --data that holds the text
    skip_bad_rows: bool = False  # leave out and count bad rows of --data; else they are errors
    mixture: str = DEMO_MIXTURE  # conversations to train on as well when --data is not given
    out: str = "out"             # the tokenizer goes to the folder OUT/tokenizer
    vocab_size: int = 0          # tokens, special ones too; 0: 1536 for the demo, else by size
    pattern: str = ""            # a regex or default, llama3, qwen2, qwen35, gpt2; demo: qwen2
    max_chars: int = 0           # stop after so many characters; 0 reads everything
    doc_cap: int = 0             # take only so many characters of each document; 0 takes all
    processes: int = 0           # how many processes count chunks; 0: one a core


OTHER_SCRIPTS = (
    "Привет, как дела? Сегодня мы пойдём в библиотеку, чтобы вернуть книги. "
    "Καλημέρα, τι κάνεις σήμερα;\n"
    "今天天气很好，我们去公园散步吧。東京は日本の首都であり、"
    "人口の多い都市の一つです。안녕하세요, 만나서 반갑습니다. Crème brûlée,\n"
    "السلام عليكم، كيف حالك اليوم؟ שלום, מה שלומך היום? नमस्ते, आप कैसे हैं? "
    "สวัสดีครับ วันนี้อากาศดีมาก naïve Ωmega 🙂🚀\n")


def training_texts(cfg, seen):
    """Yield the documents to train on, within max_chars and doc_cap, and count them in `seen`.

    seen: dict with the keys "documents" and "characters".
    """
    from data import documents, mixtures
    from data.demo import python_corpus
    if cfg.data:
        texts = documents.read_documents(cfg.data, "train", field=cfg.field,
                                         skip_bad_rows=cfg.skip_bad_rows)
    else:
        # Open the conversations now, so that a wrong --mixture fails before any work.
        conversations = mixtures.conversations(cfg.mixture, "train") if cfg.mixture else ()
        texts = chain(python_corpus.documents("train"), texts_of(conversations))
    for text in texts:
        if cfg.doc_cap:
            text = text[:cfg.doc_cap]
        if cfg.max_chars:
            text = text[:cfg.max_chars - seen["characters"]]
        seen["documents"] += 1
        seen["characters"] += len(text)
        yield text
        if seen["characters"] == cfg.max_chars:
            break


def texts_of(conversations):
    """Yield all texts in conversations: what users, the assistant and the Python tool say."""
    for conversation in conversations:
        for message in conversation["messages"]:
            content = message["content"]
            if isinstance(content, str):
                yield content
            else:
                for part in content:
                    yield part["text"]


def text_size(paths, max_chars):
    """About how many bytes of text the files hold, and not more than max_chars if that is set."""
    from data.documents import list_files
    # How much a file grows when it is unpacked (a guess).
    growth = {".parquet": 2.5, ".gz": 2.5, ".xz": 3.5}
    size = sum(file.stat().st_size * growth.get(file.suffix, 1) for file in list_files(paths))
    return min(size, max_chars or size)


def cached_encodings():
    """GPT-2's and GPT-4's encodings, if tiktoken has their files already; downloads nothing."""
    import tiktoken
    url = "https://openaipublic.blob.core.windows.net/"
    files = {"gpt2": ("gpt-2/encodings/main/vocab.bpe", "gpt-2/encodings/main/encoder.json"),
             "cl100k_base": ("encodings/cl100k_base.tiktoken",)}
    # tiktoken looks into these folders, and names a file by the hash of its address.
    folder = Path(os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
                  or tempfile.gettempdir() + "/data-gym-cache")
    encodings = {}
    for name, needed in files.items():
        cached = [folder / hashlib.sha1((url + file).encode()).hexdigest() for file in needed]
        if all(path.exists() for path in cached):
            encodings[name] = tiktoken.get_encoding(name)
    return encodings


def report_samples(cfg):
    """-> {kind of text: documents that were not trained on, an iterable of str}."""
    from data import documents
    from data.demo import python_corpus
    if cfg.data:
        from pydoc_data.topics import topics
        modules = (os, json, shutil, tempfile)
        held_out = documents.read_documents(cfg.data, "val", field=cfg.field,
                                            skip_bad_rows=cfg.skip_bad_rows)
        samples = {"your held-out text": held_out,
                   "English prose": topics.values(),
                   "Python code": (Path(module.__file__).read_text("utf-8") for module in modules)}
    else:
        samples = {"held-out prose": python_corpus.documents("val", code=0),
                   "held-out code": python_corpus.documents("val", prose=0)}
    samples["other scripts"] = [OTHER_SCRIPTS]
    samples["numbers"] = [" ".join(str(7 ** i % 10 ** (i % 9 + 1)) for i in range(500))]
    return samples


def measure(encodings, cfg):
    """-> {kind of text that was not trained on: {name of an encoding: bytes per token}}."""
    measured = {}
    for kind, texts in report_samples(cfg).items():
        sample = "\n\n".join(islice(texts, 500))[:1_000_000]
        size = len(sample.encode())
        measured[kind] = {name: size / max(1, len(encoding.encode_ordinary(sample)))
                          for name, encoding in encodings.items()}
    return measured


def report(tokens, measured):
    """Print what measure() found, and a look at the vocabulary."""
    names = next(iter(measured.values()))
    print("\nbytes per token     " + "".join(f"{name:>14}" for name in names))
    for kind, found in measured.items():
        print(f"{kind:<20}" + "".join(f"{number:14.2f}" for number in found.values()))
    merged = tokens[256:]
    for what, some in [("first merges", merged[:14]), ("last merges", merged[-14:]),
                       ("longest", sorted(tokens, key=len)[-6:])]:
        print(f"{what:<16}" + " ".join(repr(token.decode(errors="replace")) for token in some))


def main():
    # Imported here, since train_bpe does without torch and starts faster for it.
    import torch

    from common import SPECIAL_TOKENS, Tokenizer
    from data.documents import choose_documents
    from machine import clear_line, lock, parse_config
    from train.progress import Line
    cfg = parse_config(Config, __doc__)

    # ---- what to read ----
    # The next stage reads the same text, and finds the tokenizer in the same folder.
    next_flags = []
    if cfg.out != Config.out:
        next_flags += ["--out", cfg.out]
    if cfg.data:
        next_flags += ["--data", *cfg.data]
    paths = choose_documents(cfg.data, torch.cuda.is_available())
    # Of a download a billion characters are enough: more would hardly change a token (a guess).
    if paths and not cfg.data:
        cfg.max_chars = cfg.max_chars or 10**9
    cfg.data = paths
    size = text_size(paths, cfg.max_chars) if paths else 0
    seen = {"documents": 0, "characters": 0}

    # ---- how to cut it, and into how many tokens ----
    if not cfg.vocab_size:
        # Little text makes a small model, and that learns to spell only few tokens (dev/LOG.md).
        if not paths:
            cfg.vocab_size = 1536
        elif size < 50e6:
            cfg.vocab_size = 4096
        elif size < 1e9:
            cfg.vocab_size = 16384
        else:
            cfg.vocab_size = 32768
        source = f"about {size / 1e6:,.1f} MB of text" if paths else "the embedded text"
        print(f"vocabulary {cfg.vocab_size} (--vocab_size), for {source}")
    n_tokens = cfg.vocab_size - len(SPECIAL_TOKENS)
    if not 256 <= n_tokens <= 65536 - len(SPECIAL_TOKENS):
        raise ValueError(f"--vocab_size {cfg.vocab_size}: choose from {256 + len(SPECIAL_TOKENS)}, "
                         f"the bytes and the special tokens, to 65536, for ids of 16 bits")
    # Numbers that are cut digit by digit are easier to copy, and llama.cpp knows this pattern.
    cfg.pattern = cfg.pattern or ("default" if paths else "qwen2")
    pattern = PATTERNS.get(cfg.pattern, cfg.pattern)
    check_every_character(pattern)
    if pattern not in CUT_RULES:
        print("note       no certain cuts are known for this pattern: the regex has to read all "
              "the text, which is several times slower")
    # Make the folder now: if that is impossible, it fails before the work and not after it.
    path = Path(cfg.out, "tokenizer")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock(path)

    # ---- train ----
    start = time.monotonic()
    lines = defaultdict(Line)
    show = lambda what, *counts: lines[what].count(what, *counts)
    tokens = train_bpe(training_texts(cfg, seen), n_tokens, pattern, cfg.processes,
                       progress=show, total_mb=size / 1e6)
    seconds = time.monotonic() - start
    if not seen["characters"]:
        raise ValueError(f"no text to train on in {' '.join(cfg.data)}")

    # ---- save and report ----
    merges = b"".join(base64.b64encode(token) + b" %d\n" % rank
                      for rank, token in enumerate(tokens))
    tok = Tokenizer(merges, pattern)
    if cfg.data:
        sources = list(cfg.data)
    else:
        python = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
        sources = [f"standard library of {python}", cfg.mixture]
    trained_on = {"sources": sources, **seen}
    save_tokenizer(path, merges, tok, trained_on)
    clear_line(sys.stdout)
    print(f"trained    {len(tokens):,} tokens on {seen['documents']:,} documents of "
          f"{seen['characters']:,} characters in {seconds:.1f} s; "
          f"{len(SPECIAL_TOKENS)} special tokens follow them")
    if len(tokens) < n_tokens:
        print(f"note       fewer than --vocab_size {cfg.vocab_size} asked for: the text has no "
              f"more pairs to merge")
    measured = measure({"ours": tok.enc} | cached_encodings(), cfg)
    ours = {kind: round(found["ours"], 3) for kind, found in measured.items()}
    save_tokenizer(path, merges, tok, trained_on, ours)
    report(tokens, measured)
    print(f"done       {path}. Next: {shlex.join(['python', 'pretrain.py', *next_flags])}")


if __name__ == "__main__":
    from machine import run
    run(main, less_memory="--max_chars or --processes")
