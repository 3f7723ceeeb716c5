"""What the tests share: small tokenizers, a tiny model, toy data, and scripts run as processes."""
import base64
import json
import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
WORDS = "red green blue one two three sun moon star cat dog bird".split()

# A server that has torch in memory and forks: a stage then starts in a fraction of a second.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["numpy", "torch", "tiktoken", "regex"])


def write_tokenizer(out, pattern=r"[\s\S]", tokens=[bytes([i]) for i in range(256)]):
    """Write out/tokenizer -> Tokenizer; by default 256 bytes and the special tokens, no merges."""
    from common import SPECIAL_TOKENS, Tokenizer
    folder = Path(out, "tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    merges = b"".join(base64.b64encode(token) + b" %d\n" % rank
                      for rank, token in enumerate(tokens))
    (folder / "merges.tiktoken").write_bytes(merges)
    info = dict(pattern=pattern, special_tokens=SPECIAL_TOKENS, vocab_size=len(tokens) + 9,
                fingerprint=Tokenizer(merges, pattern).fingerprint)
    (folder / "tokenizer.json").write_text(json.dumps(info))
    tok = Tokenizer.load(folder)
    tok.folder = folder
    return tok


def merged_tokenizer(out):
    """One with "é", and with tokens that could join two parts or turns: "?\\n", " = 12", "\\n#"."""
    merges = [b" =", b" = ", b"12", b" = 12", b"\n#", b"##", b"50", b"?\n", b"<|", b"|>",
              b"\xc3\xa9"]
    return write_tokenizer(out, pattern=r"[\s\S]+",
                           tokens=[bytes([i]) for i in range(256)] + merges)


def tiny_model(seed=0, vocab_size=265, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, n_ff=48,
               seq_len=32):
    """Random weights everywhere: the zeros of init_weights would hide half of the model."""
    import torch

    from common import GPT, GPTConfig
    model = GPT(GPTConfig(vocab_size, seq_len, n_layer, n_head, n_kv_head, n_embd, n_ff))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * 1.5 * p.size(1) ** -0.5)
    return model


def random_ids(*shape, seed=0, high=256):
    import torch
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def chat(user, answer):
    return {"messages": [{"role": "user", "content": user},
                         {"role": "assistant", "content": answer}]}


def write_jsonl(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path(path)


def write_data(folder):
    """Documents, conversations, pairs and prompts that one layer learns in twenty steps."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    documents = [{"text": f"{a} and {b} and {a} again. " * 3} for a in WORDS for b in WORDS]
    questions = [(f"{a} {b}?", f"{b} {a}.") for a in WORDS for b in WORDS]
    return SimpleNamespace(
        documents=write_jsonl(folder / "documents.jsonl", documents),
        conversations=write_jsonl(folder / "conversations.jsonl",
                                  [chat(q, a) for q, a in questions]),
        pairs=write_jsonl(folder / "pairs.jsonl",
                          [dict(prompt=q, chosen=a, rejected="well") for q, a in questions]),
        prompts=write_jsonl(folder / "prompts.jsonl",
                            [{"prompt": "say " + q} for q, a in questions]))


def in_child(script, argv, log, before):
    """What the child process does: send all that it prints to files, then run `script argv...`."""
    for number, name in (1, "stdout"), (2, "stderr"):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    import torch
    torch.set_num_threads(1)
    sys.argv = [script, *map(str, argv)]
    sys.path[:0] = [str(ROOT)]
    if before:
        before()
    runpy.run_path(str(ROOT / script), run_name="__main__")


def run_script(script, *argv, log, before=None):
    """Run one script to its end -> exit status (-9 if killed), stdout, stderr.

    log: the path of the files of its output. before: a function that the child calls first.
    """
    process = FORKSERVER.Process(target=in_child, args=(script, argv, log, before))
    process.start()
    process.join(300)
    assert process.exitcode is not None, f"{script} hangs"
    return SimpleNamespace(status=process.exitcode,
                           stdout=Path(f"{log}.stdout").read_text(),
                           stderr=Path(f"{log}.stderr").read_text())


def succeed(*args, **kwargs):
    result = run_script(*args, **kwargs)
    assert result.status == 0, result.stderr
    return result


def fails_with_one_line(result, *words):
    """A user's mistake ends in one line on stderr with these words, status 2 and no traceback."""
    lines = result.stderr.splitlines()
    assert result.status == 2, result.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert str(word) in lines[0], f"{word!r} is not in {lines[0]!r}"


def read_folder(path):
    """The files of a checkpoint or any other folder, byte for byte."""
    return {f.name: f.read_bytes() for f in sorted(Path(path).iterdir())}
