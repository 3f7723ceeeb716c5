"""Random texts that are hard for tokenizers, for the tests of training, encoding and export."""
import itertools

WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000"
# Kinds of text, each as the pieces that random documents are made of.
KINDS = {
    "overlaps": ["a", "aa", "ab", "b", " "],
    "apostrophes": ["'", "'S", "'ſ", "'ll", "'RE", "it", " ", "’s", "s"],
    "white space": [*WHITE_SPACE, "\r\n", "  ", "a", ".", "1"],
    "control": ["\0", "\x01", "\x1c", "\x1f", "\x7f", "\x80", "a", " "],
    "digits": [*"0123456789", "٣", "५", "²", "Ⅷ", "½", "一", " ", ".", "a"],
    "marks": ["é", "e\u0301", "\u200d", "\u0300", "n", " ", ".", "5", "\n", "'s"],
    "vowel signs": [*"हिन्दीกำลังตั้தமிழ்ა", "\u20dd", "a", "5", " ", "(", "\n"],
    "emoji": ["🙂", "👩\u200d🚀", "🇩🇪", "a", " ", "!"],
    "scripts": ["中文", "字", "السلام", "привет", "नमस्ते", "สวัสดี", "한국", " ", "，", "。", "a"],
    "code": ["def ", "x", "(", ")", "_", "    ", "\n", "\n\n", "\t", "==", "->", "\"", "'", "#",
             "0", "12"],
}
KINDS["all"] = sorted(set(itertools.chain.from_iterable(KINDS.values())))


def fuzz(rng, kind, n_docs=6, length=120):
    """Up to n_docs random documents of one kind, some of them empty.

    Each call uses only some pieces of the kind, so that repeated pairs and ties are likely.
    """
    pieces = rng.sample(KINDS[kind], rng.randint(1, len(KINDS[kind])))
    return ["".join(rng.choices(pieces, k=rng.choice([0, 1, 2, length])))
            for _ in range(rng.randint(0, n_docs))]
