"""
What the protocol tells about single tokens: OpenAI's log-probabilities, and more for those who want
to look inside the model, as the page does.

"logprobs": true and "top_logprobs": 0..20 in chat completions, "logprobs": 0..20 in completions,
give OpenAI's objects. A log-probability is in nats and belongs to the model's own distribution: at
temperature 1, before top_k, top_p, min_p and penalties change it. The special tokens that may not
come at a place count as impossible there, so that all that may come adds up to 1. Objects have the
tokens that the model said in its content: neither tool calls, nor their results, nor the end.

Two fields are our own. With "include_tokens": true, the first object of each choice has "prompt",
the tokens that the model sees, with the mask that training gives them, and "answer", those of
answer_ids; all have "tokens", with ids, special tokens, tool calls and their results as well.
"answer_ids": [...] makes the answer go on behind these ids. A text would not do: its tokens need
not be those that the model said.
"""
import math
from dataclasses import dataclass

from talk.engine import PartStream
from talk.tool import run_python

# OpenAI's number for what is all but impossible. JSON has no infinity.
IMPOSSIBLE = -9999.0


@dataclass
class Token:
    """One token of an answer."""
    id: int
    # Of what the model sampled; None in a tool's output.
    logp: float
    # Pairs (id, its log-probability), the likeliest first.
    top: list
    # What kind of part it stands in: "text", "python" or "python_output".
    part_type: str
    # How many characters of the answer stand before it, and how many once it has come.
    start: int
    end: int


def describe(tok, id):
    """{"token": its text, "bytes": [...]}. A special token has its name, and no bytes.

    The text of a part of a UTF-8 character is U+FFFD, so only the bytes are exact.
    """
    first_special = min(tok.specials.values())
    if id >= first_special:
        return {"token": list(tok.specials)[id - first_special], "bytes": None}
    data = tok.enc.decode_single_token_bytes(id)
    return {"token": data.decode(errors="replace"), "bytes": list(data)}


def number(logp):
    """A log-probability as JSON can say it. What is no number counts as impossible."""
    return logp if math.isfinite(logp) else IMPOSSIBLE


def in_content(tok, tokens):
    """The tokens that the model said in its text."""
    first_special = min(tok.specials.values())
    return [token for token in tokens
            if token.logp is not None and token.part_type == "text" and token.id < first_special]


def chat_logprobs(tok, tokens):
    """Tokens -> "logprobs" of a choice of chat completions."""
    content = [describe(tok, token.id) | {
        "logprob": number(token.logp),
        "top_logprobs": [describe(tok, id) | {"logprob": number(logp)} for id, logp in token.top]}
        for token in in_content(tok, tokens)]
    return {"content": content, "refusal": None}


def text_logprobs(tok, tokens, n_top):
    """Tokens -> "logprobs" of a choice of completions, OpenAI's older form.

    It has no bytes, so a part of a UTF-8 character is written as bytes:\\xe2. As OpenAI has it, the
    sampled token stands among the likeliest even where it is none of them.
    """
    tokens = in_content(tok, tokens)
    tops = [{name(tok, id): number(logp) for id, logp in [*token.top, (token.id, token.logp)]}
            for token in tokens]
    return {"tokens": [name(tok, token.id) for token in tokens],
            "token_logprobs": [number(token.logp) for token in tokens],
            "top_logprobs": tops if n_top else None,
            "text_offset": [token.start for token in tokens]}


def name(tok, id):
    """A token as a text that no other token has."""
    fields = describe(tok, id)
    if fields["bytes"] is None or bytes(fields["bytes"]) == fields["token"].encode():
        return fields["token"]
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in fields["bytes"])


def all_tokens(tok, tokens):
    """Tokens -> "tokens" of a choice: the same as chat_logprobs for every one, with ids."""
    out = []
    for token in tokens:
        fields = {"id": token.id} | describe(tok, token.id) | {"logprob": None, "top_logprobs": []}
        if token.logp is not None:
            fields["logprob"] = number(token.logp)
            fields["top_logprobs"] = [{"id": id} | describe(tok, id) | {"logprob": number(logp)}
                                      for id, logp in token.top]
        out.append(fields)
    return out


def seen_tokens(tok, ids):
    """The ids that a model sees -> objects with "mask": 1 where training would have it speak."""
    return [{"id": id} | describe(tok, id) | {"mask": mask}
            for id, mask in zip(ids, spoken(tok, ids))]


def spoken(tok, ids):
    """The mask of Tokenizer.render_conversation, read back from the ids of a conversation."""
    special = tok.special
    mask = []
    speaks = 0
    for id in ids:
        if id == special("<|output_start|>"):
            speaks = 0
        mask.append(speaks)
        if id in (special("<|assistant_start|>"), special("<|output_end|>")):
            speaks = 1
        elif id == special("<|assistant_end|>"):
            speaks = 0
    return mask


def complete_answer(tok, ids, is_call=None):
    """The ids of an answer so far -> the same, with a tool's whole output where one is due.

    Returns the ids, and the type of the part that the answer goes on in. ValueError for what no
    answer can be.
    """
    start, end = tok.special("<|python_start|>"), tok.special("<|python_end|>")
    opening, closing = tok.special("<|output_start|>"), tok.special("<|output_end|>")
    # Which special tokens may come in which part, and the part that they lead to. Behind code
    # stands its output.
    follows = {("text", start): "python", ("python", end): "due", ("due", opening): "python_output",
               ("python_output", closing): "text"}
    first_special = min(tok.specials.values())
    part_type = "text"
    begins = 0
    for i, id in enumerate(ids):
        if id < first_special and part_type != "due":
            continue
        if (part_type, id) not in follows:
            raise ValueError(f"token {id} can't stand at place {i} of an answer")
        part_type = follows[part_type, id]
        if part_type == "python":
            begins = i + 1
    if part_type in ("text", "python"):
        return ids, part_type
    length = ids[begins:].index(end)
    code = tok.decode(ids[begins:begins + length])
    if is_call and is_call(code):
        raise ValueError("they end with the call of a tool; its result is missing")
    output = [opening, *tok.encode(run_python(code)), closing]
    return [*ids[:begins + length + 1], *output], "text"


def answer_tokens(tok, ids):
    """The ids of an answer -> Tokens without log-probabilities."""
    stream = PartStream(tok)
    tokens = []
    n = 0
    for id in ids:
        part_type = stream.type
        start = n
        n += sum(len(text) for _, text in stream.feed(id))
        tokens.append(Token(id, None, [], part_type, start, n))
    return tokens
