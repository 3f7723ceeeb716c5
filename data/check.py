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
from pathlib import Path

import numpy as np

# So that it runs as `python data/check.py`.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import Tokenizer, read_meta, render_pair
from data.conversations import read_row, scan
from data.documents import check_text, list_files
from data.formats import is_spoken, to_conversation, to_preference
from machine import fail, run

# A field that only this kind of record has -> what the record is, and which scripts it is for.
STAGES = {
    "messages": "conversations, for midtrain.py and sft.py",
    "chosen": "preference pairs, for dpo.py",
    "prompt": "prompts, for distill.py",
    "text": "documents, for tokenizer.py and pretrain.py",
}
GREEN, GREY, PLAIN = "\033[32m", "\033[90m", "\033[0m"


def recognise(row, purpose=None):
    """A parsed row -> (name of its format, record); ValueError with the reason.

    The record is a conversation, a preference pair, a prompt or a document.
    purpose: the key in STAGES of the file's first good row. In a file of prompts a conversation is
    one, too.
    """
    if isinstance(row, dict) and "chosen" in row and "rejected" in row:
        return to_preference(row)
    if isinstance(row, dict) and isinstance(row.get("text"), str) \
            and not is_spoken(row) and "prompt" not in row:
        if not row["text"].strip():
            raise ValueError("the text is empty")
        return "text", {"text": check_text(row["text"])}
    if purpose == "prompt" or isinstance(row, dict) and "prompt" in row and not is_spoken(row):
        kind, record = to_conversation(row, need_answer=False)
        return kind, {"prompt": record["messages"]}
    return to_conversation(row)


def stage_of(record):
    return next(key for key in STAGES if key in record)


def render(record, tok, row_len):
    """Any record as its stage sees it -> ids, mask, cut, skipped.

    ids and mask are whole, however long. cut: it does not fit in a row of row_len ids. skipped:
    nothing to learn from is left of it then.
    """
    if "text" in record:
        ids = [tok.special("<|bos|>")] + tok.encode(record["text"])
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
    pieces, start = [], 0
    for end in range(1, min(len(ids), limit) + 1):
        if end == min(len(ids), limit) or mask[end] != mask[start]:
            # Control characters of the data would steer the terminal: show them as escapes.
            said = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda m: repr(m[0])[1:-1],
                          tok.decode(ids[start:end]))
            if color:
                said = (GREEN if mask[start] else GREY) + said + PLAIN
            pieces.append(f"[[{said}]]" if mask[start] and not color else said)
            start = end
    return "".join(pieces) + (f" ... {len(ids) - limit:,} more tokens" if len(ids) > limit
                              else "")


def check(path, tok, unit, seq_len, n_samples, n_bad_shown, color):
    """Print the report of one file; return the number of its good rows and of its bad ones.

    unit: "tokens", or "bytes" where no tokenizer is trained yet.
    """
    kinds, bad, n_bad, purpose, shown_at = {}, [], 0, None, time.time()
    places, lengths, supervised, n_cut, n_skipped = \
        array.array("q"), array.array("q"), array.array("q"), 0, 0
    # A token is about four bytes.
    row_len = (seq_len if unit == "tokens" else 4 * seq_len) + 1
    for line, place, kind, record, reason in scan(path, lambda row: recognise(row, purpose)):
        if record and stage_of(record) != (purpose := purpose or stage_of(record)):
            reason = (f"{STAGES[stage_of(record)]}, in a file that begins with "
                      f"{STAGES[purpose]}")
        if reason:
            n_bad += 1
            if len(bad) < n_bad_shown:
                bad.append(f"  {path}:{line}: {reason}")
            continue
        ids, mask, cut, skipped = render(record, tok, row_len)
        kinds[kind] = kinds.get(kind, 0) + 1
        places.extend(place)
        lengths.append(len(ids))
        supervised.append(sum(mask))
        n_cut, n_skipped = n_cut + cut, n_skipped + skipped
        if sys.stderr.isatty() and time.time() - shown_at > 0.5:
            shown_at = time.time()
            print(f"\r{path}: {len(lengths) + n_bad:,} rows", end="", file=sys.stderr,
                  flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)

    print(f"{path}")
    print(f"  rows        {len(lengths) + n_bad:,}: {len(lengths):,} good, {n_bad:,} bad"
          if lengths or n_bad else "  rows        no rows: there is nothing to train on")
    if lengths:
        lengths, supervised = np.array(lengths), np.array(supervised)
        found = ", ".join(f"{n:,} {kind}"
                          for kind, n in sorted(kinds.items(), key=lambda item: -item[1]))
        print(f"  recognised  {STAGES[purpose]}: {found}")
        print(f"  {unit:11} {lengths.sum():,}, {supervised.sum():,} of them supervised "
              f"({100 * supervised.sum() / lengths.sum():.1f} %)")
        percentiles = ", ".join(
            f"{name} {int(np.percentile(lengths, p, method='higher')):,}" for name, p in
            [("shortest", 0), ("median", 50), ("90 %", 90), ("99 %", 99), ("longest", 100)])
        print(f"  length      {percentiles} {unit} a row")
        if purpose == "text":
            print(f"  fit         documents are packed one behind another: none is cut at "
                  f"--seq_len {seq_len}")
        else:
            about, share = "" if unit == "tokens" else " (about)", 100 * n_cut / len(lengths)
            lost = (f"take more than half a row and lose their beginning ({share:.1f} %)"
                    if purpose == "prompt" else
                    f"do not fit in a row and lose their end ({share:.1f} %); in {n_skipped:,} of "
                    f"these no answer is left: skipped")
            print(f"  fit         at --seq_len {seq_len}{about}: {n_cut:,} {lost}")
    n_samples = min(n_samples, len(lengths))
    for i in np.unique(np.linspace(0, len(lengths) - 1, n_samples).astype(int)):
        ids, mask, *_ = render(
            recognise(read_row(path, places[2 * i:2 * i + 2]), purpose)[1], tok, row_len)
        mark = "green" if color else "in [[ ]]"
        print(f"\n  ---- good row {i + 1}: {len(ids):,} {unit}, "
              f"{sum(mask):,} supervised ({mark}) ----")
        print(show(ids, mask, tok, color))
    if bad:
        print("\n" + "\n".join(bad)
              + (f"\n  ... and {n_bad - len(bad):,} more" if n_bad > len(bad) else ""))
    print()
    return len(lengths), n_bad


def find_tokenizer(out):
    """The tokenizer of `out` and "tokens"; if none is trained, one of single bytes and "bytes"."""
    if (out / "tokenizer").exists():
        return Tokenizer.load(out / "tokenizer"), "tokens"
    print(f"{out / 'tokenizer'} is not trained yet (python tokenizer.py): counting bytes in place "
          f"of tokens, about 4 a token\n")
    return Tokenizer(b"".join(b"%s %d\n" % (base64.b64encode(bytes([i])), i) for i in range(256)),
                     r"[\s\S]"), "bytes"


def main():
    cli = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.error = lambda message: fail(f"{message} (see python data/check.py --help)")
    cli.add_argument("files", nargs="+", metavar="FILE",
                     help=".jsonl or .json files, or folders of them")
    cli.add_argument("--out", default="out",
                     help="folder with the tokenizer and the models (default: out)")
    cli.add_argument("--seq_len", type=int, default=0,
                     help="tokens a row; 0: as in out/pretrain, or 1024 (default: 0)")
    cli.add_argument("--samples", type=int, default=3, help="rows to show (default: 3)")
    cli.add_argument("--bad", type=int, default=20, help="bad rows to list (default: 20)")
    cli.add_argument(
        "--color", action=argparse.BooleanOptionalAction, default=sys.stdout.isatty(),
        help="colour, or [[ ]] around what is supervised (default: colour on a terminal)")
    args = cli.parse_args()
    # Behind `... | head` end quietly.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if args.seq_len < 0 or args.samples < 0 or args.bad < 0:
        raise ValueError(f"--seq_len, --samples and --bad must be at least 0, not "
                         f"{args.seq_len}, {args.samples} and {args.bad}")
    files, out = list_files(args.files, (".jsonl", ".json")), Path(args.out)
    tok, unit = find_tokenizer(out)
    trained = (out / "pretrain" / "meta.json").exists()
    seq_len = args.seq_len or (read_meta(out / "pretrain")["model"]["seq_len"] if trained
                               else 1024)
    good, bad = zip(*(check(path, tok, unit, seq_len, args.samples, args.bad, args.color)
                      for path in files))
    if any(bad):
        print(f"{sum(bad):,} bad rows in {sum(map(bool, bad))} of {len(files)} files. Repair them"
              + (", or train without them: --skip_bad_rows" if any(good) else ": no row is good"))
    if any(bad) or not all(good):
        sys.exit(1)


if __name__ == "__main__":
    run(main)
