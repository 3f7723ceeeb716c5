"""
What requests and answers of the OpenAI protocol look like: JSON objects in, JSON objects out.

server.py carries them over HTTP and asks the engine. Nothing here knows of connections or threads.

What is said of single tokens is in openai_logprobs.py.

Two things here go beyond OpenAI. Requests may set top_k, min_p and repetition_penalty. And a
request with "include_parts": true gets "parts" in messages and deltas, which keep text, tool calls
and tool results apart; "content" is the same answer as one text, without the calls and with each
result where the model put it.
"""
import difflib
import json
import random
import time
import uuid
from dataclasses import dataclass, fields

from talk.calls import describe_tools, python_call, python_name, read_call
from talk.context import fit
from talk.engine import PartStream, Sampling, add_text
from talk.openai_logprobs import (
    Token,
    all_tokens,
    answer_tokens,
    chat_logprobs,
    complete_answer,
    seen_tokens,
    text_logprobs,
)
from talk.tool import run_python


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

# The fields that are read below, besides those of Sampling.
READ = {"model", "messages", "prompt", "n", "stop", "stream", "stream_options", "max_tokens",
        "max_completion_tokens", "max_output_tokens", "n_predict", "repeat_penalty",
        "response_format", "tools", "tool_choice", "echo", "include_parts", "truncation",
        "logprobs", "top_logprobs", "include_tokens", "answer_ids"}

# Fields of other servers that change no answer of this one: notes about the client, hints for
# caches, and settings of chat templates and of models that reason.
IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
           "prompt_cache_retention", "parallel_tool_calls", "reasoning", "reasoning_effort",
           "include_reasoning", "enable_thinking", "thinking", "verbosity", "request_id",
           "session_id", "priority", "cache_prompt", "cache_salt", "id_slot", "slot_id",
           "keep_alive", "timings_per_token", "chat_template_kwargs", "add_generation_prompt",
           "continue_final_message", "add_special_tokens", "skip_special_tokens",
           "spaces_between_special_tokens", "repeat_last_n", "penalty_last_n"}

# What a field may say that this server can't do, as long as it asks for nothing. Some clients
# always send these fields.
NOTHING = (None, False, 0, "", [], {}, "none", "auto")
UNSUPPORTED = dict.fromkeys(
    ("functions", "function_call", "prompt_logprobs", "n_probs", "logit_bias", "suffix", "audio",
     "prediction", "web_search_options", "plugins", "grammar", "json_schema", "structured_outputs",
     "guided_json", "guided_regex", "guided_choice",
     "guided_grammar", "min_tokens", "ignore_eos", "stop_token_ids", "bad_words",
     "allowed_token_ids", "include_stop_str_in_output", "use_beam_search", "early_stopping",
     "top_a", "mirostat", "dry_multiplier", "xtc_probability", "dynatemp_range"), NOTHING)
UNSUPPORTED |= {"modalities": (None, ["text"]), "best_of": (None, 1), "length_penalty": (None, 1),
                "typical_p": (None, 0, 1), "tfs_z": (None, 0, 1)}

# The most of the likeliest tokens that are told beside each token.
MAX_TOP = 20

# The strings that may stop an answer, and their characters together. Each new token is compared
# with all of them.
MAX_STOPS = 128
MAX_STOP_CHARS = 10_000


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
    include_parts: bool           # messages and deltas have "parts"
    echo: list = None             # texts that stand before the choices of each prompt
    part_type: str = "text"       # what the answer begins with: it may continue code
    dropped_turns: int = 0        # the oldest ones, left out by truncation: "auto"
    tools: list = None            # the client's own: {"type": "function", "function": {...}}
    open_code: str = ""           # of part_type "python": the beginning of the code
    n_top: int = None             # logprobs, with so many of the likeliest; None: not asked for
    include_tokens: bool = False  # choices have "tokens" and at first "prompt" and "answer"
    n_answer: int = 0             # so many ids at the end of the prompts are the answer's so far

    @property
    def size(self):
        return self.n * len(self.prompts)

    @property
    def scores(self):
        """What Engine.submit() needs to know of log-probabilities."""
        return {} if self.n_top is None else {"keep_logps": True, "n_top": self.n_top}

    @property
    def is_call(self):
        """A function that says whether code calls one of the tools; None without tools."""
        return (lambda code: read_call(code, self.tools) is not None) if self.tools else None


def read_request(body, chat, tok, max_len, max_tokens, settings):
    """The JSON object of a request -> a Request. ApiError 400 says what is wrong with it.

    max_len: the model's context, in tokens. max_tokens and settings ({field of Sampling: value})
    hold where the request says nothing.
    """
    check_fields(body)
    expect((body.get("response_format") or {"type": "text"}) == {"type": "text"},
           "response_format: only text is supported", "response_format", "unsupported_parameter")
    n = read_number(body, "n", 1)
    expect(1 <= n <= 16, f"n is {n}, expected 1 to 16", "n")
    echo = read_flag(body, "echo")
    expect(not (chat and echo), "echo: only in completions", "echo", "unsupported_parameter")
    options = body.get("stream_options") or {}
    expect(isinstance(options, dict), "stream_options: expected an object", "stream_options")
    for name in options:
        expect(name in ("include_usage", "include_obfuscation"),
               f"stream_options.{name[:100]}: no such option", "stream_options")
    request = Request(chat, [], n, read_max_tokens(body, max_tokens, max_len, echo),
                      read_sampling(body, settings), read_stop(body), read_flag(body, "stream"),
                      read_flag(options, "include_usage"), read_flag(body, "include_parts"))
    request.n_top = read_logprobs(body, chat, echo)
    request.include_tokens = read_flag(body, "include_tokens")
    if chat:
        param = "messages"
        request.tools, forced = read_tools(body)
        messages = with_tools(body.get(param), request.tools)
        answer, part_type = read_answer(body, tok, request.is_call)
        if read_truncation(body):
            messages, request.dropped_turns = fit_messages(messages, request, tok, max_len,
                                                           len(answer))
        ids, request.part_type = chat_prompt(messages, tok, max_len)
        if answer:
            expect(ids[-1] == tok.special("<|assistant_start|>"),
                   "answer_ids: the last message must be the user's", "answer_ids")
            ids = ids + answer
            request.part_type = part_type
            request.n_answer = len(answer)
        if forced is not None and request.part_type == "text" and not answer:
            ids = ids + [tok.special("<|python_start|>"), *tok.encode(forced)]
            request.part_type = "python"
        if request.part_type == "python":
            start = len(ids) - ids[::-1].index(tok.special("<|python_start|>"))
            request.open_code = tok.decode(ids[start:])
        request.prompts = [ids]
    else:
        param = "prompt"
        expect(body.get("tools") in NOTHING, "tools: only in chat completions", "tools",
               "unsupported_parameter")
        request.prompts = text_prompts(body.get(param), tok, max_len)
        answer, part_type = read_answer(body, tok)
        expect(part_type == "text" and not any(id >= min(tok.specials.values()) for id in answer),
               "answer_ids: raw text has no special tokens", "answer_ids")
        request.prompts = [ids + answer for ids in request.prompts]
        request.n_answer = len(answer)
        if echo:
            request.echo = [tok.decode(ids[1:]) for ids in request.prompts]
    for ids in request.prompts:
        check_length(len(ids), max_len, param)
    return request


def check_fields(body):
    """ApiError for a field that nobody knows, or that asks for what this server can't do.

    A misspelt option that is ignored would give an answer with other settings, without a word.
    """
    sampling = {field.name for field in fields(Sampling)}
    known = READ | sampling | IGNORED | set(UNSUPPORTED)
    for name, value in body.items():
        if name not in known:
            near = difflib.get_close_matches(name[:100].lower().replace("-", "_"), known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ApiError(400, f"{name[:100]}: no such option{hint}", "unknown_parameter", name)
        expect(value in UNSUPPORTED.get(name, [value]),
               f"{name} is not supported by this server", name, "unsupported_parameter")


def read_flag(body, name):
    """A field of the request that is true or false, and false where it is missing or null."""
    value = body.get(name)
    expect(value is None or isinstance(value, bool),
           f"{name} is {json.dumps(value)[:50]}, expected true or false", name)
    return bool(value)


def read_truncation(body):
    """Whether the oldest turns may be left out where the context is too full.

    The name and its values are those of OpenAI's Responses API.
    """
    truncation = body.get("truncation")
    expect(truncation in (None, "auto", "disabled"), "truncation: expected auto or disabled",
           "truncation")
    return truncation == "auto"


def fit_messages(messages, request, tok, max_len, n_answer):
    """The messages that are left by talk/context.py, and how many turns are left out.

    n_answer: how many tokens of an answer will stand behind them.
    """
    def count(messages):
        try:
            return min(max_len, len(chat_prompt(messages, tok, max_len)[0]) + n_answer)
        except ApiError as e:
            if e.body["error"]["code"] != "context_length_exceeded":
                raise
            return max_len

    # This says what is wrong with the messages, if anything is.
    count(messages)
    return fit(messages, request.max_tokens, max_len, count)


def read_logprobs(body, chat, echo):
    """How many of the likeliest tokens to tell beside each one. None: no log-probabilities."""
    value = body.get("logprobs")
    if chat:
        top = body.get("top_logprobs")
        if read_flag(body, "logprobs"):
            n = read_number(body, "top_logprobs", 0)
        else:
            expect(top in (None, 0), "top_logprobs: only with logprobs: true", "top_logprobs")
            return None
        param = "top_logprobs"
    else:
        expect(body.get("top_logprobs") in NOTHING,
               "top_logprobs: only in chat completions; here logprobs is the number",
               "top_logprobs", "unsupported_parameter")
        # Some clients send false for nothing.
        if value is None or value is False:
            return None
        n = read_number(body, "logprobs", 0)
        expect(not echo, "logprobs with echo is not supported: the prompt's tokens are not scored",
               "logprobs", "unsupported_parameter")
        param = "logprobs"
    expect(0 <= n <= MAX_TOP, f"{param} is {n}, expected 0 to {MAX_TOP}", param)
    return n


def read_answer(body, tok, is_call=None):
    """answer_ids of a request: the ids, completed, and the type of the part that goes on."""
    ids = body.get("answer_ids") or []
    expect(is_ids(ids, tok.vocab_size) or ids == [],
           f"answer_ids: expected a list of token ids below {tok.vocab_size}", "answer_ids")
    try:
        return complete_answer(tok, ids, is_call)
    except ValueError as e:
        raise ApiError(400, f"answer_ids: {e}", param="answer_ids") from None


def read_number(body, name, default, whole=True):
    """A number of the request, or the default where it is missing or null.

    whole: 20.0 is as good as 20, because some languages know one kind of numbers only.
    """
    value = body.get(name)
    if value is None:
        value = default
    if whole and type(value) is float and value.is_integer():
        value = int(value)
    # isinstance() would take true and false for numbers.
    ok = type(value) is int or (type(value) is float and not whole)
    kind = "a whole number" if whole else "a number"
    expect(ok, f"{name} is {json.dumps(value)[:50]}, expected {kind}", name)
    return value


def read_max_tokens(body, default, max_len, echo):
    """The most tokens of each choice. -1 stands for as many as the context holds.

    A prompt that comes back (echo) may come back alone, with 0 tokens.
    """
    # Four names for one thing: those of OpenAI's three APIs, and llama.cpp's.
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens", "n_predict"):
        if body.get(name) is not None:
            n = read_number(body, name, None)
            smallest = 0 if echo else 1
            expect(n >= smallest or n == -1,
                   f"{name} is {n}, expected {smallest} or more, or -1 for no limit", name)
            return max_len if n == -1 else n
    return default


def read_sampling(body, settings):
    """The Sampling of a request. settings: {field of Sampling: value}, for missing fields."""
    # Answers differ from request to request unless the client asks for a seed.
    settings = settings | {"seed": random.getrandbits(32)}
    if body.get("repetition_penalty") is None:
        # The name that llama.cpp and Ollama have for it.
        settings["repetition_penalty"] = read_number(body, "repeat_penalty",
                                                     settings["repetition_penalty"], whole=False)
    values = {}
    for field in fields(Sampling):
        default = settings.get(field.name, field.default)
        values[field.name] = read_number(body, field.name, default, whole=field.type is int)
    try:
        return Sampling(**values)
    except ValueError as e:
        # The message begins with the name of the field.
        raise ApiError(400, str(e), param=str(e).split()[0]) from None


def read_stop(body):
    """The stop strings of a request: one text or a list of them."""
    stop = body.get("stop")
    # Some clients send an empty text for nothing.
    stop = stop or []
    if isinstance(stop, str):
        stop = [stop]
    expect(isinstance(stop, list) and len(stop) <= MAX_STOPS
           and all(isinstance(s, str) and s for s in stop)
           and sum(len(s) for s in stop) <= MAX_STOP_CHARS,
           f"stop: expected up to {MAX_STOPS} texts of 1 character or more, and of "
           f"{MAX_STOP_CHARS} together", "stop")
    return stop


def check_length(n, max_len, param, unit="tokens", limit=None):
    """ApiError if a prompt of n units can't fit into the context.

    limit: the most that can, if a unit is not a token.
    """
    expect(n <= (limit or max_len - 1),
           f"the prompt has {n} {unit}; this model's context is {max_len} tokens, prompt and "
           f"answer together", param, "context_length_exceeded")


def check_characters(n, tok, max_len, param):
    """The same for a text of n characters, before it is tokenized.

    Some number of tokens holds at most so many times the bytes of the longest token, and a
    character takes at least one byte.
    """
    limit = (max_len - 1) * int(tok.token_bytes.max())
    check_length(n, max_len, param, "characters", limit)


def text_prompts(prompts, tok, max_len):
    """The prompt of /v1/completions -> the ids of each.

    It is a text, a list of ids, or a list of up to 16 of these. No id may be a special token's.
    """
    n_ids = min(tok.specials.values())
    if isinstance(prompts, str) or is_ids(prompts, n_ids):
        prompts = [prompts]
    expect(isinstance(prompts, list) and 1 <= len(prompts) <= 16
           and all(isinstance(p, str) or is_ids(p, n_ids) for p in prompts),
           f"prompt: expected a text or a list of up to 16 texts, or token ids below {n_ids}",
           "prompt")
    for prompt in prompts:
        if isinstance(prompt, str):
            check_characters(len(prompt), tok, max_len, "prompt")
    return [[tok.special("<|bos|>")] + (tok.encode(p) if isinstance(p, str) else p)
            for p in prompts]


def is_ids(value, n_ids):
    """Whether it is a list of token ids, each below n_ids."""
    return (isinstance(value, list) and value != []
            and all(type(id) is int and 0 <= id < n_ids for id in value))


def read_tools(body):
    """The tools of a request, and the beginning of the code that the answer must begin with.

    The second is None where the model may choose. Without tools, both are None.
    """
    tools = body.get("tools")
    choice = body.get("tool_choice")
    if choice == "none":
        return None, None
    expect(tools is None or isinstance(tools, list), "tools: expected a list", "tools")
    for tool in tools or []:
        function = tool.get("function") if isinstance(tool, dict) else None
        expect(isinstance(function, dict) and isinstance(function.get("name"), str)
               and function["name"].strip() and tool.get("type", "function") == "function",
               'tools: expected objects {"type": "function", "function": {"name": ..., '
               '"description": ..., "parameters": ...}}', "tools")
    if choice in (None, "auto"):
        return tools or None, None

    names = [tool["function"]["name"] for tool in tools or []]
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        name = choice["function"].get("name")
        expect(name in names, f"tool_choice: there is no tool {str(name)[:100]!r}", "tool_choice")
    else:
        expect(choice == "required", "tool_choice: expected none, auto, required, or an object "
               "that names a function", "tool_choice")
        # Any code would do, also what calls none of them.
        expect(len(names) == 1, "tool_choice: required is supported with one tool; name the one "
               "that is to be called", "tool_choice", "unsupported_parameter")
        [name] = names
    return tools, python_name(name) + "("


def with_tools(messages, tools):
    """Messages with a description of the tools behind the first system messages, as in training."""
    if not tools or not isinstance(messages, list):
        return messages
    n = 0
    while n < len(messages) and isinstance(messages[n], dict) \
            and messages[n].get("role") in ("system", "developer"):
        n += 1
    description = {"role": "system", "content": describe_tools(tools)}
    return [*messages[:n], description, *messages[n:]]

# --------------------------------------------------------------------------------------------------
# Messages

def chat_prompt(messages, tok, max_len):
    """OpenAI messages -> ids that the answer follows, and the type of the part it begins with.

    The ids end with <|assistant_start|>, or with the beginning of an answer where the last message
    is the assistant's.
    """
    expect(isinstance(messages, list) and messages,
           "messages: expected a list of at least one message", "messages")
    turns = []
    n_chars = 0
    for i, message in enumerate(messages):
        role, parts = read_message(message, f"messages[{i}]")
        n_chars += sum(len(part["text"]) for part in parts)
        add_turn(turns, role, parts)
    check_characters(n_chars, tok, max_len, "messages")
    if turns[-1]["role"] == "user":
        return tok.render_for_completion({"messages": turns}), "text"
    return open_answer(turns, tok)


def add_turn(turns, role, parts):
    """Append a message to turns of user and assistant that alternate, the user first.

    What is said without a turn of the other one between is joined with a blank line. System
    messages belong to the user's turn. Before an assistant who speaks first stands an empty turn.
    """
    if role == "tool":
        add_result(turns, parts[0])
        return
    if role == "system":
        role = "user"
    if not turns and role == "assistant":
        turns.append({"role": "user", "content": ""})
    if not turns or turns[-1]["role"] != role:
        turns.append({"role": role, "content": "" if role == "user" else []})
    turn = turns[-1]
    if role == "user":
        texts = [turn["content"], "".join(part["text"] for part in parts)]
        turn["content"] = "\n\n".join(text for text in texts if text)
        return
    old = turn["content"]
    for i, part in enumerate(parts):
        # A new message begins in a new paragraph, except behind a tool's result.
        if i == 0 and old and old[-1]["type"] == part["type"] == "text" and part["text"]:
            part = part | {"text": "\n\n" + part["text"]}
        if part["type"] == "text":
            add_piece(old, part["text"])
        else:
            old.append(part)


def add_result(turns, result):
    """Put a tool's result behind the call that it answers. result: a part with "id".

    Where it names no call, it answers the first one without a result.
    """
    parts = turns[-1]["content"] if turns and turns[-1]["role"] == "assistant" else []
    for i, part in enumerate(parts):
        waits = "id" in part and part["type"] == "python" \
            and [p["type"] for p in parts[i + 1:i + 2]] != ["python_output"]
        if waits and (None in (result["id"], part["id"]) or result["id"] == part["id"]):
            parts.insert(i + 1, result)
            return
    raise ApiError(400, "messages: a tool's message follows the tool_calls that it answers",
                   param="messages")


def add_piece(parts, text):
    """Add text to parts: to the last one if that is text, else as a part of its own."""
    if parts and parts[-1]["type"] == "text":
        parts[-1] = {"type": "text", "text": parts[-1]["text"] + text}
    elif text:
        parts.append({"type": "text", "text": text})


def open_answer(turns, tok):
    """Turns of which the last is an answer that goes on -> its ids so far, type of its last part.

    An answer that was cut within code goes on within it. One that was cut within a tool's result
    goes on behind the whole result.
    """
    parts = turns[-1]["content"]
    # A part with an id is a call of the client's own tool, or its result.
    is_ours = not any("id" in part for part in parts[-2:])
    expect(is_ours or parts[-1]["type"] != "python",
           "messages: the last message calls a tool; its result is missing", "messages")
    if is_ours and [part["type"] for part in parts[-2:]] == ["python", "python_output"]:
        result = run_python(parts[-2]["text"])
        if result.startswith(parts[-1]["text"]):
            parts[-1] = {"type": "python_output", "text": result}
    ids, _ = tok.render_conversation({"messages": turns})
    if parts and parts[-1]["type"] == "python":
        # Without <|python_end|> and <|assistant_end|>.
        return ids[:-2], "python"
    return ids[:-1], "text"


def read_message(message, where):
    """One OpenAI message -> (role, parts). where: its name in error messages.

    Content may be a text, null, or a list of parts {"type": "text", "text": ...}. An assistant
    message may also hold python and python_output parts, as this server sends them, and tool_calls,
    which become python parts with an "id". A user message is plain text only.
    """
    role = message.get("role") if isinstance(message, dict) else None
    if role == "developer":
        # OpenAI's newer name for the system message.
        role = "system"
    if role == "function":
        # OpenAI's older name for the tool.
        role = "tool"
    expect(role in ("system", "user", "assistant", "tool"),
           f"{where}: expected the role system, user, assistant or tool", where)
    if role == "tool":
        return role, [read_result(message, where)]
    parts = message.get("content")
    types = ["text"]
    if role == "assistant":
        # An answer of this server may have parts, from which its content was made.
        parts = message.get("parts") or parts
        types = ["text", "python", "python_output"]
    elif "content" not in message:
        raise ApiError(400, f"{where}: no content", param=where)
    if parts is None or isinstance(parts, str):
        parts = [parts or ""]
    expect(isinstance(parts, list), f"{where}: expected content that is a text or a list", where)
    if role == "assistant":
        # As with reasoning_content, what was thought before an answer is no part of it.
        parts = [part for part in parts
                 if not isinstance(part, dict) or part.get("type") not in ("reasoning", "thinking")]
    parts = [read_part(part, types, where) for part in parts]
    calls = read_calls(message, where) if role == "assistant" else []
    if calls and message.get("parts") and parts[-1]["type"] == "python":
        # The parts hold the call already.
        parts[-1]["id"] = calls[0]["id"]
        return role, parts
    return role, parts + calls


def read_calls(message, where):
    """The tool_calls of an assistant's message -> python parts with "id"."""
    calls = message.get("tool_calls") or []
    if message.get("function_call"):
        # OpenAI's older form of one call.
        calls = [{"function": message["function_call"]}]
    expect(isinstance(calls, list), f"{where}: tool_calls: expected a list", where)
    parts = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        arguments = function.get("arguments") or {} if isinstance(function, dict) else {}
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                arguments = None
        expect(isinstance(name, str) and isinstance(arguments, dict),
               f"{where}: expected tool_calls with a function's name, and its arguments as a JSON "
               f"object", where)
        parts.append({"type": "python", "text": python_call(name, arguments),
                      "id": call.get("id")})
    return parts


def read_result(message, where):
    """A tool's message -> a python_output part with the "id" of the call, None if it names none."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [read_part(part, ["text"], where) for part in content]
        content = "".join(part["text"] for part in parts)
    elif not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False)
    return {"type": "python_output", "text": content, "id": message.get("tool_call_id")}


def read_part(part, types, where):
    """One part of a message's content -> {"type": one of types, "text": str}."""
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    # What OpenAI calls text in other places.
    names = {"input_text": "text", "output_text": "text", "refusal": "text"}
    if isinstance(part, dict) and isinstance(part.get("type"), str):
        kind = names.get(part["type"], part["type"])
        text = part.get("refusal" if part["type"] == "refusal" else "text")
        if kind in types and isinstance(text, str):
            return {"type": kind, "text": text}
    raise ApiError(400, f"{where}: expected content that is a text or a list of parts of type "
                        f"{' or '.join(types)}; this model reads nothing else", param=where)

# --------------------------------------------------------------------------------------------------
# Answers

class Choice:
    """One answer on its way out: ids in, (part type, text) pairs out, cut at a stop string."""

    def __init__(self, tok, stop, part_type="text", keep_tokens=False):
        """part_type: what the answer begins with. keep_tokens: for take_tokens()."""
        self.stream = PartStream(tok)
        self.stream.type = part_type
        self.stop = stop
        # The type of the part that grows now, and the tail of its text that is held back because it
        # may yet become a stop string.
        self.part_type = part_type
        self.held = ""
        # What has been passed on: all parts and their tokens. finish is "" until the answer ends.
        self.parts = []
        self.n_tokens = 0
        self.finish = ""
        # The tokens that take_tokens() has not yet given, and how many characters have come and
        # have been passed on.
        self.keep_tokens = keep_tokens
        self.tokens = []
        self.n_come = 0
        self.n_passed = 0

    def feed(self, ids, finish, score=None):
        """New ids -> the (part type, text) pairs that they add. The text "" begins a part.

        finish: why the engine ends here, "" while it goes on. score: the log-probability of the
        first id, and the likeliest ids there, if they are asked for.
        """
        out = []
        for i, id in enumerate(ids):
            if not self.finish:
                self.n_tokens += 1
                kind = self.stream.type
                start = self.n_come
                for part_type, text in self.stream.feed(id):
                    self.add(out, part_type, text)
                if self.keep_tokens:
                    logp, top = score if i == 0 and score else (None, [])
                    self.tokens.append(Token(id, logp, top, kind, start, self.n_come))
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
        self.n_come += len(text)

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
            self.n_passed += end

    def take_tokens(self):
        """The Tokens of what has been passed on since the last call."""
        if self.finish:
            # What stands behind a stop string goes with it.
            n = sum(token.start < self.n_passed or token.end == self.n_passed
                    for token in self.tokens)
        else:
            n = sum(token.end <= self.n_passed for token in self.tokens)
        taken = self.tokens[:n]
        self.tokens = self.tokens[n:]
        return taken


def longest_beginning(stop, text):
    """How many characters at the end of text may begin a stop string: ["STOP"], "abST" -> 2."""
    longest = 0
    for s in stop:
        for k in range(longest + 1, min(len(s), len(text) + 1)):
            if text.endswith(s[:k]):
                longest = k
    return longest


class Answer:
    """All choices of one request, and the JSON objects that tell a client about them."""
    # What ends a stream.
    end = b"data: [DONE]\n\n"

    def __init__(self, request, tok, model):
        """model: the name of the model."""
        self.request = request
        self.tok = tok
        keep_tokens = request.include_tokens or request.n_top is not None
        self.choices = [Choice(tok, request.stop, request.part_type, keep_tokens)
                        for _ in range(request.size)]
        if request.n_answer:
            # Behind an answer so far, which may end within a character.
            for index, choice in enumerate(self.choices):
                for id in request.prompts[index // request.n][-request.n_answer:]:
                    choice.stream.feed(id)
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
        """Events (index of a choice, its new ids, finish, score) -> {index: new parts}.

        A choice that ends without a new part stands there with an empty list.
        """
        news = {}
        for index, ids, finish, score in events:
            choice = self.choices[index]
            if choice.finish:
                # A stop string has ended the choice, and the engine has not noticed yet.
                continue
            for part_type, text in choice.feed(ids, finish, score):
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
                message = {"role": "assistant", "content": content, "refusal": None}
                if choice.finish == "call":
                    message |= {"content": content or None, "tool_calls": [self.call(choice)]}
                if self.request.include_parts:
                    message["parts"] = choice.parts
                piece = {"message": message}
            else:
                piece = {"text": self.echo(index) + content}
            tokens = choice.take_tokens()
            piece |= self.seen(index) | self.about(tokens)
            entries.append(entry(index, piece, choice.finish, self.logprobs(tokens)))
        return self.head | {"choices": entries, "usage": self.usage()}

    def first_chunks(self):
        """The chunks that open a stream."""
        if self.request.chat:
            opening = {"delta": {"role": "assistant", "content": ""}}
            chunks = [self.chunk(index, opening | self.seen(index))
                      for index in range(len(self.choices))]
            if self.request.include_parts and self.request.dropped_turns:
                chunks[0]["dropped_turns"] = self.request.dropped_turns
            return chunks
        if self.request.echo or self.request.include_tokens:
            return [self.chunk(index, {"text": self.echo(index)} | self.seen(index))
                    for index in range(len(self.choices))]
        return []

    def echo(self, index):
        """The prompt of a choice if the request wants it back, else ""."""
        return self.request.echo[index // self.request.n] if self.request.echo else ""

    def seen(self, index):
        """What the first object of a choice says of its prompt, if the request asks."""
        request = self.request
        if not request.include_tokens:
            return {}
        ids = request.prompts[index // request.n]
        n_prompt = len(ids) - request.n_answer
        return {"prompt": seen_tokens(self.tok, ids[:n_prompt]),
                "answer": all_tokens(self.tok, answer_tokens(self.tok, ids[n_prompt:]))}

    def about(self, tokens):
        """What an object of a choice says of its tokens, if the request asks."""
        return {"tokens": all_tokens(self.tok, tokens)} if self.request.include_tokens else {}

    def logprobs(self, tokens):
        """OpenAI's "logprobs" of a choice's tokens, None if nobody asks."""
        if self.request.n_top is None:
            return None
        if self.request.chat:
            return chat_logprobs(self.tok, tokens)
        return text_logprobs(self.tok, tokens, self.request.n_top)

    def chunks(self, news):
        """What feed() returned -> the chunks that tell it to the client."""
        chat = self.request.chat
        out = []
        for index, parts in news.items():
            choice = self.choices[index]
            text = content_of(parts)
            delta = {"content": text}
            if self.request.include_parts:
                delta["parts"] = parts
            # Without its parts, a tool call has nothing to tell.
            if text or (self.request.include_parts and parts):
                out.append(self.chunk(index, {"delta": delta} if chat else {"text": text},
                                      tokens=choice.take_tokens()))
            finish = choice.finish
            if finish == "call":
                call = {"index": 0} | self.call(choice)
                out.append(self.chunk(index, {"delta": {"tool_calls": [call]}}))
            if finish:
                piece = {"delta": {}} if chat else {"text": ""}
                out.append(self.chunk(index, piece, finish, choice.take_tokens()))
        return out

    def call(self, choice):
        """The call of a client's tool that a choice ends with, as an item of "tool_calls"."""
        code = choice.parts[-1]["text"] if choice.parts else ""
        if self.request.part_type == "python" and len(choice.parts) < 2:
            # The answer went on within code that stands in the prompt.
            code = self.request.open_code + code
        name, arguments = read_call(code, self.request.tools)
        return {"id": "call_" + uuid.uuid4().hex, "type": "function",
                "function": {"name": name, "arguments": arguments}}

    def error_chunk(self, error):
        """What a stream says of an ApiError."""
        return error.body

    def last_chunks(self):
        """The chunk that counts the tokens, if the request asks for it."""
        if not self.request.include_usage:
            return []
        return [self.head | {"choices": [], "usage": self.usage()}]

    def chunk(self, index, piece, finish=None, tokens=()):
        logprobs = self.logprobs(tokens) if tokens else None
        if tokens:
            piece = piece | self.about(tokens)
        return self.head | {"choices": [entry(index, piece, finish, logprobs)]}

    def usage(self):
        n_prompt = sum(len(ids) for ids in self.request.prompts)
        n_answer = sum(choice.n_tokens for choice in self.choices)
        return {"prompt_tokens": n_prompt, "completion_tokens": n_answer,
                "total_tokens": n_prompt + n_answer}


def entry(index, piece, finish, logprobs=None):
    """One item of "choices" in OpenAI's objects. piece: the text of this choice, or what is new."""
    if finish == "call":
        finish = "tool_calls"
    return {"index": index, **piece, "logprobs": logprobs, "finish_reason": finish}


def content_of(parts):
    """The parts as one text: tool calls are left out, results stay where the model put them."""
    return "".join(part["text"] for part in parts if part["type"] != "python")
