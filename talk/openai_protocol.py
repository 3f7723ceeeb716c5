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
        self.status, self.body = status, {
            "error": {"message": message, "type": kind, "param": param, "code": code}}


def expect(ok, message, param, code=None):
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
    sampling, stop = read_sampling(body, settings), read_stop(body)
    if chat:
        prompts = [chat_prompt(body.get("messages"), tok, max_len)]
    else:
        prompts = text_prompts(body.get("prompt"), tok, max_len)
    for ids in prompts:
        check_length(ids, tok, max_len, "messages" if chat else "prompt")
    return Request(chat, prompts, n, max_tokens, sampling, stop, bool(body.get("stream")),
                   bool(options.get("include_usage")))


def read_number(body, name, default, whole=True):
    """A number of the request, or the default where it is missing or null."""
    value = default if body.get(name) is None else body[name]
    expect(type(value) in ((int,) if whole else (int, float)),
           f"{name} is {json.dumps(value)[:50]}, expected a {'whole ' if whole else ''}number",
           name)
    return value


def read_sampling(body, settings):
    # Without a seed in the request, every answer is another one.
    settings = settings | {"seed": random.getrandbits(32)}
    try:
        return Sampling(**{name: read_number(body, name, default, whole=type(default) is int)
                           for name, default in settings.items()})
    except ValueError as e:
        raise ApiError(400, str(e), param=str(e).split()[0]) from None


def read_stop(body):
    stop = [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []
    expect(isinstance(stop, list) and len(stop) <= 4
           and all(isinstance(s, str) and 0 < len(s) <= 200 for s in stop),
           "stop: expected up to 4 texts of 1 to 200 characters", "stop")
    return stop


def check_length(text, tok, max_len, param):
    """ApiError if a prompt can't fit into the context. text: token ids, or a str.

    A text can be refused before it is tokenized: n tokens hold at most n times as many bytes as the
    longest token, and a character takes at least one byte.
    """
    unit, limit = "tokens", max_len - 1
    if isinstance(text, str):
        unit, limit = "characters", limit * int(tok.token_bytes.max())
    expect(len(text) <= limit,
           f"the prompt has {len(text)} {unit}; this model's context is {max_len} tokens, prompt "
           f"and answer together", param, "context_length_exceeded")


def text_prompts(texts, tok, max_len):
    """The prompt of /v1/completions, one text or a list of them -> the ids of each."""
    texts = [texts] if isinstance(texts, str) else texts
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
    messages = [read_message(message, f"messages[{i}]") for i, message in enumerate(messages)]
    texts = ["".join(part["text"] for part in parts) for _, parts in messages]
    check_length("".join(texts), tok, max_len, "messages")
    record = [{"role": role, "content": parts if role == "assistant" else text}
              for (role, parts), text in zip(messages, texts)]
    try:
        if merge_system(record)[-1]["role"] != "user":
            raise ValueError("the last message must be the user's")
        return tok.render_for_completion({"messages": record})
    except ValueError as e:
        raise ApiError(400, str(e), param="messages") from None


def read_message(message, where):
    """One OpenAI message -> (role, parts). where: its name in error messages.

    Content may be a text or a list of parts {"type": "text", "text": ...}. An assistant message may
    also hold python and python_output parts, as this server sends them. A user message is plain
    text only.
    """
    role = message.get("role") if isinstance(message, dict) else None
    role = "system" if role == "developer" else role
    expect(role in ("system", "user", "assistant"),
           f"{where}: expected the role system, user or assistant", where)
    types = ("text", "python", "python_output") if role == "assistant" else ("text",)
    parts = (message.get("parts") if role == "assistant" and message.get("parts")
             else message.get("content"))
    parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
    expect(isinstance(parts, list)
           and all(isinstance(p, dict) and p.get("type") in types and isinstance(p.get("text"), str)
                   for p in parts),
           f"{where}: expected content that is a text or a list of parts of type "
           f"{' or '.join(types)}", where)
    return role, parts

# --------------------------------------------------------------------------------------------------
# Answers

class Choice:
    """One answer on its way out: ids in, (part type, text) pairs out, cut at a stop string."""

    def __init__(self, tok, stop):
        self.stream, self.stop = PartStream(tok), stop
        # held is a tail of the text that may yet become a stop string.
        self.type, self.held = "text", ""
        self.parts, self.n_tokens, self.finish = [], 0, ""

    def feed(self, ids, finish):
        """New ids -> the (part type, text) pairs that they add. The text "" begins a part.

        finish: why the engine ends here, "" while it goes on.
        """
        out = []
        for id in ids:
            if not self.finish:
                self.n_tokens += 1
                for type, text in self.stream.feed(id):
                    self.add(out, type, text)
        if finish and not self.finish:
            for type, text in self.stream.flush():
                self.add(out, type, text)
            self.release(out)
            self.finish = self.finish or finish
        for type, text in out:
            add_text(self.parts, type, text)
        return out

    def add(self, out, type, text):
        if self.finish:
            return
        # A part begins.
        if type != self.type or text == "":
            self.release(out)
            self.type = type
            if text == "":
                out.append((type, ""))
        self.held += text
        # Code is not in the content, so no stop string ends it.
        stop = [] if type == "python" else self.stop
        found = [self.held.find(s) for s in stop if s in self.held]
        if found:
            self.held, self.finish = self.held[:min(found)], "stop"
        self.release(out, keep=0 if found else longest_beginning(stop, self.held))

    def release(self, out, keep=0):
        """Pass on the held text, except for its last `keep` characters."""
        end = len(self.held) - keep
        if end:
            out.append((self.type, self.held[:end]))
            self.held = self.held[end:]


def longest_beginning(stop, text):
    """How many characters at the end of text may begin a stop string: ["STOP"], "abST" -> 2."""
    return max((k for s in stop for k in range(len(s)) if text.endswith(s[:k])), default=0)


class Answer:
    """All choices of one request, and the JSON objects that tell a client about them."""

    def __init__(self, request, tok, model):
        """model: the name of the model."""
        self.request, self.choices = request, [Choice(tok, request.stop)
                                               for _ in range(request.size)]
        kind = "chat.completion" if request.chat else "text_completion"
        self.head = {"id": ("chatcmpl-" if request.chat else "cmpl-") + uuid.uuid4().hex,
                     "created": int(time.time()),
                     "object": kind + (".chunk" if request.stream and request.chat else ""),
                     "model": model}
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
            # The engine may go on for a moment after a stop string has ended the choice.
            if not self.choices[index].finish:
                for type, text in self.choices[index].feed(ids, finish):
                    add_text(news.setdefault(index, []), type, text)
                if self.choices[index].finish:
                    news.setdefault(index, [])
        return news

    def whole(self):
        """The whole answer, for a request that does not stream."""
        entries = []
        for index, choice in enumerate(self.choices):
            content = content_of(choice.parts)
            message = {"role": "assistant", "content": content, "refusal": None,
                       "parts": choice.parts}
            entries.append(entry(index,
                                 {"message": message} if self.request.chat else {"text": content},
                                 choice.finish))
        return self.head | {"choices": entries, "usage": self.usage()}

    def first_chunks(self):
        if not self.request.chat:
            return []
        opening = {"delta": {"role": "assistant", "content": ""}}
        return [self.chunk(index, opening) for index in range(len(self.choices))]

    def chunks(self, news):
        """What feed() returned -> the chunks that tell it to the client."""
        out, chat = [], self.request.chat
        for index, parts in news.items():
            content, finish = content_of(parts), self.choices[index].finish
            if parts:
                out.append(self.chunk(
                    index, {"delta": {"content": content, "parts": parts}} if chat
                    else {"text": content}))
            if finish:
                out.append(self.chunk(index, {"delta": {}} if chat else {"text": ""}, finish))
        return out

    def last_chunks(self):
        return ([self.head | {"choices": [], "usage": self.usage()}]
                if self.request.include_usage else [])

    def chunk(self, index, answer, finish=None):
        return self.head | {"choices": [entry(index, answer, finish)]}

    def usage(self):
        prompt, answer = (sum(map(len, self.request.prompts)),
                          sum(choice.n_tokens for choice in self.choices))
        return {"prompt_tokens": prompt, "completion_tokens": answer,
                "total_tokens": prompt + answer}


def entry(index, answer, finish):
    """One item of "choices" in OpenAI's objects."""
    return {"index": index, **answer, "logprobs": None, "finish_reason": finish}


def content_of(parts):
    """The parts as one text: tool calls are left out, results stay where the model put them."""
    return "".join(part["text"] for part in parts if part["type"] != "python")
