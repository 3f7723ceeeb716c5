"""
Look at your own data before you train on it.

    python data/check.py chats.jsonl pairs.jsonl
    python data/check.py chats.jsonl --samples 10 | less -R

Says what it recognised; counts rows, tokens and supervised tokens (those that the model learns to
say); measures how long the rows are and how many would be cut or skipped, for the model in out/ or
for --seq_len; shows samples as the model will see them; lists the bad rows with the reason.
Exit status: 0 if all rows are good, 1 if some are bad or a file has none, 2 for wrong usage.
"""
import argparse
import array
import base64
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

# So that it runs as `python data/check.py`.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import ctrl_c

from common import Tokenizer, read_meta, render_pair
from data.conversations import plain_file, read_row, say_ignored, scan
from data.documents import cut_runs, text_of
from data.files import ROW_SUFFIXES, describe, find_files
from data.formats import (
    PROMPTS,
    answer_field,
    is_spoken,
    pair_fields,
    to_conversation,
    to_preference,
    unwrap,
)
from data.messages import first_of
from machine import fail, run

# A field that only this kind of record has -> what the record is, and which scripts it is for.
STAGES = {
    "messages": "conversations, for midtrain.py and sft.py",
    "chosen": "preference pairs, for dpo.py",
    "prompt": "prompts, for distill.py",
    "text": "documents, for tokenizer.py and pretrain.py",
}
GREEN, GREY, PLAIN = "\033[32m", "\033[90m", "\033[0m"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def recognise(row, purpose=None, reasoning=False):
    """A parsed row -> (name of its format, record); ValueError with the reason.

    The record is a conversation, a preference pair, a prompt or a document.
    purpose: the key in STAGES of the file's first good row. In a file of prompts a conversation is
    one, too.
    """
    fields = unwrap(row) if isinstance(row, dict) else {}
    if pair_fields(row):
        return to_preference(row, reasoning)
    spoken = is_spoken(row)
    if isinstance(row, dict) and "text" in row and "prompt" not in fields and not spoken:
        text = text_of(row)
        if not text.strip():
            raise ValueError("the text is empty")
        return "text", {"text": text}
    asks_only = first_of(PROMPTS, fields) and not answer_field(fields)
    if purpose == "prompt" or (asks_only and not spoken):
        kind, record = to_conversation(row, need_answer=False, reasoning=reasoning)
        return kind, {"prompt": record["messages"]}
    return to_conversation(row, reasoning=reasoning)


def stage_of(record):
    return next(key for key in STAGES if key in record)


def render(record, tok, row_len):
    """Any record as its stage sees it -> ids, mask, cut, skipped.

    ids and mask are whole, however long. cut: it does not fit in a row of row_len ids. skipped:
    nothing to learn from is left of it then.
    """
    if "text" in record:
        ids = []
        for piece in cut_runs(record["text"]):
            ids += [tok.special("<|bos|>")] + tok.encode(piece)
        # Documents are never cut: they go on in the next row.
        return ids, [1] * len(ids), False, False
    if "prompt" in record:
        ids = tok.render_for_completion({"messages": record["prompt"]})
        # distill.py gives the prompt half of the row, to leave room for the answer.
        return ids, [0] * len(ids), len(ids) > (row_len - 1) // 2, False
    if "chosen" in record:
        ids, mask, _ = render_pair(record, tok, 1 << 60)
        _, left, cropped = render_pair(record, tok, row_len)
        return ids, mask, cropped > 0, not any(left)
    ids, mask = tok.render_conversation(record)
    return ids, mask, len(ids) > row_len, not any(mask[:row_len])


def show(ids, mask, tok, color, limit=400):
    """The text of the first `limit` ids; supervised text is green, or without colour in [[ ]]."""
    pieces = []
    start = 0
    n_shown = min(len(ids), limit)
    for end in range(1, n_shown + 1):
        if end < n_shown and mask[end] == mask[start]:
            continue
        text = CONTROL.sub(escaped, tok.decode(ids[start:end]))
        if color:
            pieces.append((GREEN if mask[start] else GREY) + text + PLAIN)
        elif mask[start]:
            pieces.append(f"[[{text}]]")
        else:
            pieces.append(text)
        start = end
    if len(ids) > limit:
        pieces.append(f" ... {len(ids) - limit:,} more tokens")
    return "".join(pieces)


def escaped(match):
    """A control character, which would steer the terminal, as Python writes it: \\x1b."""
    return repr(match[0])[1:-1]


def check(path, tok, unit, seq_len, n_samples, n_bad_shown, color, reasoning=False):
    """Print the report of one file; return the number of its good rows and of its bad ones.

    unit: "tokens", or "bytes" where no tokenizer is trained yet.
    """
    # 1) Read all rows and count. The first good one says what the file is for.
    purpose = None
    kinds = Counter()
    places, lengths, supervised = (array.array("q") for _ in range(3))
    n_cut = n_skipped = n_bad = n_unwanted = n_ignoring = 0
    ignored = Counter()
    bad = []
    plain = plain_file(path)
    # A token is about four bytes.
    row_len = (seq_len if unit == "tokens" else 4 * seq_len) + 1
    shown_at = time.time()

    def convert(row):
        return recognise(row, purpose, reasoning)

    for line, place, kind, record, reason, unwanted, not_read in scan(plain, convert):
        n_unwanted += unwanted
        if unwanted:
            continue
        ignored.update(not_read)
        n_ignoring += bool(not_read)
        if record:
            purpose = purpose or stage_of(record)
            if stage_of(record) != purpose:
                reason = f"{STAGES[stage_of(record)]}, in a file that begins with {STAGES[purpose]}"
        if reason:
            n_bad += 1
            if len(bad) < n_bad_shown:
                bad.append(f"  {path}:{line}: {reason}")
            continue
        ids, mask, cut, skipped = render(record, tok, row_len)
        kinds[kind] += 1
        places.extend(place)
        lengths.append(len(ids))
        supervised.append(sum(mask))
        n_cut += cut
        n_skipped += skipped
        if sys.stderr.isatty() and time.time() - shown_at > 0.5:
            shown_at = time.time()
            print(f"\r{path}: {len(lengths) + n_bad:,} rows", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)

    # 2) What was found, and how it fits.
    n_good = len(lengths)
    print(path)
    if n_unwanted:
        print(f"  left out    {n_unwanted:,} rows with an answer that nobody wants (KTO)")
    if ignored:
        print(f"  {say_ignored(ignored, n_ignoring)}")
    if not n_good and not n_bad:
        print("  rows        no rows: there is nothing to train on")
    else:
        print(f"  rows        {n_good + n_bad:,}: {n_good:,} good, {n_bad:,} bad")
    if n_good:
        found = ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common())
        n_ids = sum(lengths)
        n_supervised = sum(supervised)
        percentiles = ", ".join(
            f"{name} {int(np.percentile(lengths, percent, method='higher')):,}" for name, percent in
            [("shortest", 0), ("median", 50), ("90 %", 90), ("99 %", 99), ("longest", 100)])
        print(f"  recognised  {STAGES[purpose]}: {found}")
        print(f"  {unit:11} {n_ids:,}, {n_supervised:,} of them supervised "
              f"({100 * n_supervised / n_ids:.1f} %)")
        print(f"  length      {percentiles} {unit} a row")
        about = "" if unit == "tokens" else " (about)"
        share = f"{100 * n_cut / n_good:.1f} %"
        if purpose == "text":
            print(f"  fit         documents are packed one behind another: none is cut at "
                  f"--seq_len {seq_len}")
        elif purpose == "prompt":
            print(f"  fit         at --seq_len {seq_len}{about}: {n_cut:,} take more than half a "
                  f"row and lose their beginning ({share})")
        else:
            print(f"  fit         at --seq_len {seq_len}{about}: {n_cut:,} do not fit in a row and "
                  f"lose their end ({share}); in {n_skipped:,} of these no answer is left: skipped")

    # 3) Samples from all over the file, then the bad rows.
    n_samples = min(n_samples, n_good)
    for i in np.unique(np.linspace(0, n_good - 1, n_samples).astype(int)):
        _, record = recognise(read_row(plain, places[2 * i:2 * i + 2]), purpose, reasoning)
        ids, mask, _, _ = render(record, tok, row_len)
        mark = "green" if color else "in [[ ]]"
        print(f"\n  ---- good row {i + 1}: {len(ids):,} {unit}, "
              f"{sum(mask):,} supervised ({mark}) ----")
        print(show(ids, mask, tok, color))
    if bad:
        print("\n" + "\n".join(bad))
        if n_bad > len(bad):
            print(f"  ... and {n_bad - len(bad):,} more")
    print()
    return n_good, n_bad


def find_tokenizer(out):
    """The tokenizer of `out` and "tokens"; if none is trained, one of single bytes and "bytes"."""
    if (out / "tokenizer").exists():
        return Tokenizer.load(out / "tokenizer"), "tokens"
    print(f"{out / 'tokenizer'} is not trained yet (python tokenizer.py): counting bytes in place "
          f"of tokens, about 4 a token\n")
    merges = b"".join(b"%s %d\n" % (base64.b64encode(bytes([i])), i) for i in range(256))
    return Tokenizer(merges, r"[\s\S]"), "bytes"


def main():
    cli = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.error = lambda message: fail(f"{message} (see python data/check.py --help)")
    cli.add_argument("files", nargs="+", metavar="FILE",
                     help="files of rows (.jsonl, .json, .csv, .tsv, .parquet), or folders")
    cli.add_argument("--out", default="out",
                     help="folder with the tokenizer and the models (default: out)")
    cli.add_argument("--seq_len", type=int, default=0,
                     help="tokens a row; 0: as in out/pretrain, or 1024 (default: 0)")
    cli.add_argument("--samples", type=int, default=3, help="rows to show (default: 3)")
    cli.add_argument("--bad", type=int, default=20, help="bad rows to list (default: 20)")
    cli.add_argument(
        "--color", action=argparse.BooleanOptionalAction, default=sys.stdout.isatty(),
        help="colour, or [[ ]] around what is supervised (default: colour on a terminal)")
    cli.add_argument("--reasoning", action="store_true",
                     help="learn reasoning_content in front of the answers, as the stages do with "
                          "the same flag")
    args = cli.parse_args()
    # Behind `... | head` end quietly.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if args.seq_len < 0 or args.samples < 0 or args.bad < 0:
        raise ValueError(f"--seq_len, --samples and --bad must be at least 0, not "
                         f"{args.seq_len}, {args.samples} and {args.bad}")
    found = find_files(args.files, ROW_SUFFIXES)
    if found.left_out:
        print(describe(found) + "\n")
    out = Path(args.out)
    tok, unit = find_tokenizer(out)
    if args.seq_len:
        seq_len = args.seq_len
    elif (out / "pretrain" / "meta.json").exists():
        seq_len = read_meta(out / "pretrain")["model"]["seq_len"]
    else:
        seq_len = 1024

    good = []
    bad = []
    for path in found.files:
        n_good, n_bad = check(path, tok, unit, seq_len, args.samples, args.bad, args.color,
                              args.reasoning)
        good.append(n_good)
        bad.append(n_bad)
    if any(bad):
        or_else = ", or train without them: --skip_bad_rows" if any(good) else ": no row is good"
        print(f"{sum(bad):,} bad rows in {sum(map(bool, bad))} of {len(found.files)} files. "
              f"Repair them{or_else}")
    if any(bad) or not all(good):
        sys.exit(1)


if __name__ == "__main__":
    run(main)
