"""
Tokens a word of six scripts, with and without marks as parts of words, at equal vocabulary.

python tests/bench/six_scripts.py --vocab_size 8192

Trains on the translations that this machine has of its programs (/usr/share/locale), 250 KB of each
language, and counts in one paragraph of each, six_scripts.json, where "|" stands between the words
of Thai.
"""
import argparse
import base64
import gettext
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common import Tokenizer  # noqa: E402
from tokenizer import PATTERNS, train_bpe  # noqa: E402

LANGUAGES = {"Hindi": "hi", "Thai": "th", "Tamil": "ta", "Arabic": "ar", "Russian": "ru",
             "English": "en_GB"}
# The default of before: marks end a word.
CUT_AT_MARKS = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
                r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")


def translations(language, size):
    """Sentences in a language, in a random order, of `size` bytes or a little more."""
    texts = set()
    for path in Path("/usr/share/locale", language, "LC_MESSAGES").glob("*.mo"):
        # Those are lists of names.
        if path.name.startswith("iso_"):
            continue
        with open(path, "rb") as f:
            catalog = gettext.GNUTranslations(f)._catalog
        texts.update(text for key, text in catalog.items() if key and isinstance(text, str))
    texts = sorted(texts)
    random.Random(1).shuffle(texts)
    taken = 0
    for text in texts:
        if taken > size:
            return
        taken += len(text.encode())
        yield text
    print(f"note  {language}: only {taken / 1000:.0f} KB")


def main():
    cli = argparse.ArgumentParser(description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--vocab_size", type=int, default=8192)
    cli.add_argument("--kb", type=int, default=250, help="of each language")
    args = cli.parse_args()
    texts = [text for language in LANGUAGES.values()
             for text in translations(language, args.kb * 1000)]
    paragraphs = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
    counts = {}
    for pattern in CUT_AT_MARKS, PATTERNS["default"]:
        tokens = train_bpe(texts, args.vocab_size - 9, pattern)
        merges = b"".join(base64.b64encode(token) + b" %d\n" % rank
                          for rank, token in enumerate(tokens))
        tok = Tokenizer(merges, pattern)
        for name, text in paragraphs.items():
            counts.setdefault(name, []).append(len(tok.encode(text.replace("|", ""))))
    print(f"vocabulary {args.vocab_size}     words  tokens a word     bytes a token")
    print("                            before  after     before  after")
    for name, text in paragraphs.items():
        words = text.split("|") if "|" in text else text.split()
        n_words = sum(word.strip() != "" for word in words)
        size = len(text.replace("|", "").encode())
        line = f"{name:<18} {n_words:6}"
        line += "".join(f"{count / n_words:9.2f}" for count in counts[name])
        line += "  " + "".join(f"{size / count:9.2f}" for count in counts[name])
        print(line)


if __name__ == "__main__":
    main()
