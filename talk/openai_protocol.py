"""
What requests and answers of the OpenAI protocol look like: JSON objects in, JSON objects out.

server.py carries them over HTTP and asks the engine. Nothing here knows of connections or threads.

Two things go beyond OpenAI. Requests may set top_k, min_p and repetition_penalty. Messages and
deltas have "parts", which keep text, tool calls and tool results apart; "content" is the same
answer as one text, without the calls and with each result where the model put it.
"""
import json
import random
import time
import uuid
from dataclasses import dataclass

from common import merge_system
from talk.engine import PartStream, Sampling, add_text


class ApiError(Exception):
    """An error that the client gets as its answer, in OpenAI's shape."""

    def __init__(self, status, message, code=None, param=None):
        super().__init__(message)
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def expect(ok, message, param, code=None):
    """ApiError 400 if not ok. param: the field of the request that is wrong."""
    if not ok:
        raise ApiError(400, message, code, param)

# --------------------------------------------------------------------------------------------------
# Requests

UNSUPPORTED = ("tools", "functions", "tool_choice", "logprobs", "top_logprobs", "logit_bias",
               "presence_penalty", "frequency_penalty", "suffix", "echo", "audio")


@dataclass
class Request:
    chat: bool                    # answer messages; False: continue raw text
    prompts: list                 # lists of token ids
    n: int                        # choices per prompt: choice i belongs to prompt i // n
    max_tokens: int               # of each choice
    sampling: Sampling
    stop: list                    # strings: a choice ends before the first of them
    stream: bool
    include_usage: bool           # a stream ends with a count of its tokens

    @property
    def size(self):
        return self.n * len(self.prompts)


def read_request(body, chat, tok, max_len, max_tokens, settings):
    """The JSON object of a request -> a Request. ApiError 400 says what is wrong with it.

    max_len: the model's context, in tokens. max_tokens and settings ({field of Sampling: value})
    hold where the request says nothing.
    """
    for name in UNSUPPORTED:
        # Some clients always send these fields. They do no harm as long as they ask for nothing.
        expect(body.get(name) in (None, False, 0, {}, [], "none", "auto"),
               f"{name} is not supported by this server", name, "unsupported_parameter")
    expect((body.get("response_format") or {"type": "text"}) == {"type": "text"},
           "response_format: only text is supported", "response_format", "unsupported_parameter")

    n = read_number(body, "n", 1)
    expect(1 <= n <= 16, f"n is {n}, expected 1 to 16", "n")
    max_tokens = read_number(body, "max_completion_tokens",
                             read_number(body, "max_tokens", max_tokens))
    expect(max_tokens >= 1, f"max_tokens is {max_tokens}, expected 1 or more", "max_tokens")
    options = body.get("stream_options") or {}
    expect(isinstance(options, dict), "stream_options: expected an object", "stream_options")
    sampling = read_sampling(body, settings)
    stop = read_stop(body)

    if chat:
        param = "messages"
        prompts = [chat_prompt(body.get(param), tok, max_len)]
    else:
        param = "prompt"
        prompts = text_prompts(body.get(param), tok, max_len)
    for ids in prompts:
        check_length(ids, tok, max_len, param)
    return Request(chat, prompts, n, max_tokens, sampling, stop, bool(body.get("stream")),
                   bool(options.get("include_usage")))


def read_number(body, name, default, whole=True):
    """A number of the request, or the default where it is missing or null."""
    value = body.get(name)
    if value is None:
        value = default
    # isinstance() would take true and false for numbers.
    ok = type(value) is int or (type(value) is float and not whole)
    kind = "a whole number" if whole else "a number"
    expect(ok, f"{name} is {json.dumps(value)[:50]}, expected {kind}", name)
    return value


def read_sampling(body, settings):
    """The Sampling of a request. settings: {field of Sampling: value}, for missing fields."""
    # Answers differ from request to request unless the client asks for a seed.
    settings = settings | {"seed": random.getrandbits(32)}
    values = {}
    for name, default in settings.items():
        values[name] = read_number(body, name, default, whole=type(default) is int)
    try:
        return Sampling(**values)
    except ValueError as e:
        # The message begins with the name of the field.
        raise ApiError(400, str(e), param=str(e).split()[0]) from None


def read_stop(body):
    """The stop strings of a request: one text or a list of them."""
    stop = body.get("stop")
    if isinstance(stop, str):
        stop = [stop]
    stop = stop or []
    expect(isinstance(stop, list) and len(stop) <= 4
           and all(isinstance(s, str) and 0 < len(s) <= 200 for s in stop),
           "stop: expected up to 4 texts of 1 to 200 characters", "stop")
    return stop


def check_length(prompt, tok, max_len, param):
    """ApiError if a prompt can't fit into the context. prompt: token ids, or a str.

    A text can be refused before it is tokenized: n tokens hold at most n times as many bytes as the
    longest token, and a character takes at least one byte.
    """
    unit = "tokens"
    limit = max_len - 1
    if isinstance(prompt, str):
        unit = "characters"
        limit *= int(tok.token_bytes.max())
    expect(len(prompt) <= limit,
           f"the prompt has {len(prompt)} {unit}; this model's context is {max_len} tokens, prompt "
           f"and answer together", param, "context_length_exceeded")


def text_prompts(texts, tok, max_len):
    """The prompt of /v1/completions, one text or a list of them -> the ids of each."""
    if isinstance(texts, str):
        texts = [texts]
    expect(isinstance(texts, list) and 1 <= len(texts) <= 16
           and all(isinstance(t, str) for t in texts),
           "prompt: expected a text or a list of up to 16 texts", "prompt")
    for text in texts:
        check_length(text, tok, max_len, "prompt")
    return [[tok.special("<|bos|>")] + tok.encode(text) for text in texts]


def chat_prompt(messages, tok, max_len):
    """OpenAI messages -> ids up to <|assistant_start|>."""
    expect(isinstance(messages, list) and messages,
           "messages: expected a list of at least one message", "messages")
    read = []
    all_text = ""
    for i, message in enumerate(messages):
        role, parts = read_message(message, f"messages[{i}]")
        text = "".join(part["text"] for part in parts)
        all_text += text
        read.append({"role": role, "content": parts if role == "assistant" else text})
    check_length(all_text, tok, max_len, "messages")
    try:
        if merge_system(read)[-1]["role"] != "user":
            raise ValueError("the last message must be the user's")
        return tok.render_for_completion({"messages": read})
    except ValueError as e:
        raise ApiError(400, str(e), param="messages") from None


def read_message(message, where):
    """One OpenAI message -> (role, parts). where: its name in error messages.

    Content may be a text or a list of parts {"type": "text", "text": ...}. An assistant message may
    also hold python and python_output parts, as this server sends them. A user message is plain
    text only.
    """
    role = message.get("role") if isinstance(message, dict) else None
    if role == "developer":
        # OpenAI's newer name for the system message.
        role = "system"
    expect(role in ("system", "user", "assistant"),
           f"{where}: expected the role system, user or assistant", where)
    parts = message.get("content")
    types = ["text"]
    if role == "assistant":
        # An answer of this server has parts, from which its content was made.
        parts = message.get("parts") or parts
        types = ["text", "python", "python_output"]
    if isinstance(parts, str):
        parts = [{"type": "text", "text": parts}]
    expect(isinstance(parts, list) and all(is_part(part, types) for part in parts),
           f"{where}: expected content that is a text or a list of parts of type "
           f"{' or '.join(types)}", where)
    return role, parts


def is_part(part, types):
    """Whether it is {"type": one of types, "text": a str}."""
    return (isinstance(part, dict) and part.get("type") in types
            and isinstance(part.get("text"), str))

# --------------------------------------------------------------------------------------------------
# Answers

class Choice:
    """One answer on its way out: ids in, (part type, text) pairs out, cut at a stop string."""

    def __init__(self, tok, stop):
        self.stream = PartStream(tok)
        self.stop = stop
        # The type of the part that grows now, and the tail of its text that is held back because it
        # may yet become a stop string.
        self.part_type = "text"
        self.held = ""
        # What has been passed on: all parts and their tokens. finish is "" until the answer ends.
        self.parts = []
        self.n_tokens = 0
        self.finish = ""

    def feed(self, ids, finish):
        """New ids -> the (part type, text) pairs that they add. The text "" begins a part.

        finish: why the engine ends here, "" while it goes on.
        """
        out = []
        for id in ids:
            if not self.finish:
                self.n_tokens += 1
                for part_type, text in self.stream.feed(id):
                    self.add(out, part_type, text)
        if finish and not self.finish:
            for part_type, text in self.stream.flush():
                self.add(out, part_type, text)
            self.release(out)
            # What flush() returned may have completed a stop string.
            self.finish = self.finish or finish
        for part_type, text in out:
            add_text(self.parts, part_type, text)
        return out

    def add(self, out, part_type, text):
        """Append to `out` what may be passed on once this text has come."""
        if self.finish:
            return
        begins_part = part_type != self.part_type or text == ""
        if begins_part:
            self.release(out)
            self.part_type = part_type
            if text == "":
                out.append((part_type, ""))
        self.held += text

        # Code is not in the content, so no stop string ends it.
        stop = [] if part_type == "python" else self.stop
        found = [self.held.find(s) for s in stop if s in self.held]
        if found:
            self.finish = "stop"
            self.held = self.held[:min(found)]
            self.release(out)
        else:
            self.release(out, keep=longest_beginning(stop, self.held))

    def release(self, out, keep=0):
        """Pass on the held text, except for its last `keep` characters."""
        end = len(self.held) - keep
        if end:
            out.append((self.part_type, self.held[:end]))
            self.held = self.held[end:]


def longest_beginning(stop, text):
    """How many characters at the end of text may begin a stop string: ["STOP"], "abST" -> 2."""
    longest = 0
    for s in stop:
        for k in range(1, len(s)):
            if text.endswith(s[:k]):
                longest = max(longest, k)
    return longest


class Answer:
    """All choices of one request, and the JSON objects that tell a client about them."""

    def __init__(self, request, tok, model):
        """model: the name of the model."""
        self.request = request
        self.choices = [Choice(tok, request.stop) for _ in range(request.size)]
        if request.chat:
            id_prefix = "chatcmpl-"
            kind = "chat.completion.chunk" if request.stream else "chat.completion"
        else:
            id_prefix = "cmpl-"
            kind = "text_completion"
        # These fields stand in every object.
        self.head = {"id": id_prefix + uuid.uuid4().hex, "created": int(time.time()),
                     "object": kind, "model": model}
        if request.stream and request.include_usage:
            # All chunks say null here except for the last one, which counts the tokens.
            self.head["usage"] = None

    @property
    def finished(self):
        return all(choice.finish for choice in self.choices)

    def feed(self, events):
        """Events (index of a choice, its new ids, finish) -> {index: new parts}.

        A choice that ends without a new part stands there with an empty list.
        """
        news = {}
        for index, ids, finish in events:
            choice = self.choices[index]
            if choice.finish:
                # A stop string has ended the choice, and the engine has not noticed yet.
                continue
            for part_type, text in choice.feed(ids, finish):
                add_text(news.setdefault(index, []), part_type, text)
            if choice.finish:
                news.setdefault(index, [])
        return news

    def whole(self):
        """The whole answer, for a request that does not stream."""
        entries = []
        for index, choice in enumerate(self.choices):
            content = content_of(choice.parts)
            if self.request.chat:
                piece = {"message": {"role": "assistant", "content": content, "refusal": None,
                                     "parts": choice.parts}}
            else:
                piece = {"text": content}
            entries.append(entry(index, piece, choice.finish))
        return self.head | {"choices": entries, "usage": self.usage()}

    def first_chunks(self):
        """The chunks that open a stream."""
        if not self.request.chat:
            return []
        opening = {"delta": {"role": "assistant", "content": ""}}
        return [self.chunk(index, opening) for index in range(len(self.choices))]

    def chunks(self, news):
        """What feed() returned -> the chunks that tell it to the client."""
        chat = self.request.chat
        out = []
        for index, parts in news.items():
            if parts:
                text = content_of(parts)
                piece = {"delta": {"content": text, "parts": parts}} if chat else {"text": text}
                out.append(self.chunk(index, piece))
            finish = self.choices[index].finish
            if finish:
                piece = {"delta": {}} if chat else {"text": ""}
                out.append(self.chunk(index, piece, finish))
        return out

    def last_chunks(self):
        """The chunk that counts the tokens, if the request asks for it."""
        if not self.request.include_usage:
            return []
        return [self.head | {"choices": [], "usage": self.usage()}]

    def chunk(self, index, piece, finish=None):
        return self.head | {"choices": [entry(index, piece, finish)]}

    def usage(self):
        n_prompt = sum(len(ids) for ids in self.request.prompts)
        n_answer = sum(choice.n_tokens for choice in self.choices)
        return {"prompt_tokens": n_prompt, "completion_tokens": n_answer,
                "total_tokens": n_prompt + n_answer}


def entry(index, piece, finish):
    """One item of "choices" in OpenAI's objects. piece: the text of this choice, or what is new."""
    return {"index": index, **piece, "logprobs": None, "finish_reason": finish}


def content_of(parts):
    """The parts as one text: tool calls are left out, results stay where the model put them."""
    return "".join(part["text"] for part in parts if part["type"] != "python")
