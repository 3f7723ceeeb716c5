"""
Messages in all the shapes that people's files have, as turns of one kind.

    take_turns(read_messages([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]))
        -> [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]

Whose turn it is
  A role that speaks twice in a row is joined with a blank line. If the assistant speaks first, an
  empty turn of the user stands before it, and that opening is not learned; a system message is
  as good as a user's. A later system message is the user's. A last turn of the user is context.

Fields that carry meaning
  weight, train, loss_weight, loss, mask and the others of LEARN that are 0 or false, masked and the
      others of NOT_LEARNED that are 1 or true, label and the others of UNWANTED that are false: the
      message stays as context and is not learned ("learn": False in the record). Any other weight
      than 1 makes the row bad.
  reasoning_content and the others of REASONING, the channel "analysis": settle_reasoning
  tool_calls, function_call and results: python and python_output parts (data/tool_calls.py)
  images, videos and audio in any field or part: bad
"""
import functools
import re

from data.documents import check_runs, check_text
from data.tool_calls import python_calls, read_calls, read_value, result_text, split_calls
from data.transcripts import is_transcript, read_transcript

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user", "question": "user", "input": "user",
    "instruction": "user", "customer": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "chatgpt": "assistant", "ai": "assistant", "answer": "assistant", "output": "assistant",
    "response": "assistant", "agent": "assistant", "bing": "assistant", "bard": "assistant",
    "claude": "assistant", "chatbot": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
    "tool_response": "tool", "function_response": "tool", "tool_result": "tool",
    "tool_results": "tool", "function_result": "tool", "environment": "tool",
    "function_call_output": "tool",
    "function_call": "function_call", "tool_call": "function_call", "tool_calls": "function_call",
}
PART_TYPES = ("text", "python", "python_output")

# The fields of a message: who speaks, and what.
WHO = ("role", "from", "speaker", "sender", "author")
WHAT = ("content", "value", "text", "message", "parts", "utterance")
REASONING = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "think",
             "thinking_content", "reasoning_text", "reasoning_details", "chain_of_thought", "cot")
LEARN = ("learn", "weight", "weights", "loss_weight", "sample_weight", "train", "training",
         "trainable", "train_on", "train_on_turn", "should_train", "do_train", "is_train",
         "loss", "has_loss", "calculate_loss", "loss_mask", "train_mask", "mask", "learnable",
         "supervised")
# Those that say the opposite.
NOT_LEARNED = ("masked", "is_masked", "ignore", "ignored", "ignore_loss", "no_train", "no_loss")
# What says whether people want an answer (KTO).
UNWANTED = ("label", "kto_tag", "kto_label", "desirable", "is_desirable", "is_good", "is_preferred",
            "is_chosen", "thumbs_up", "feedback")
MESSAGE_FIELDS = {*WHO, *WHAT, *REASONING, *LEARN, *NOT_LEARNED, "tools", "tool_calls",
                  "function_call", "tool_call_id", "call_id", "id", "name", "refusal", "channel",
                  "recipient", "type", "status"}
MEDIA = re.compile(r"((input|num|n|has)_)?(image|img|picture|photo|video|audio)s?"
                   r"(_?(path|url|file|bytes|list|data|base64|b64|id|name|count))?s?"
                   r"|pixel_values", re.I)
# What stands for a picture: in LLaVA's texts the first or the last line, in others a marker.
PLACEHOLDER = re.compile(r"\A\s*<(image|video|audio)>\s*\n|\n[ \t]*<(image|video|audio)>\s*\Z"
                         r"|<\|(image|video|audio)(_\d+|_pad)?\|>|<\|vision_start\|>"
                         r"|<image_(\d+|placeholder)>|<ImageHere>|<img>[^<]*</img>")
OFF = ("false", "0", "0.0", "no", "off", "unwanted", "undesirable")
ON = ("true", "1", "1.0", "yes", "on")
# In a field of UNWANTED, besides OFF.
DISLIKED = ("-1", "-1.0", "bad", "rejected", "undesired", "negative", "dislike", "down")


# --------------------------------------------------------------------------------------------------
# From any shape to one

def read_messages(items):
    """What a field with messages holds -> a list of messages, without empty system messages.

    Each has a role (system, user, assistant or tool) and content; some have "learn": False, the
    text of their "reasoning", the "id" of the tool call that they answer, or "tools".
    """
    if isinstance(items, str) and re.match(r"\s*\[(?!/?INST\])", items):
        items = read_value(items)
    if isinstance(items, str) and is_transcript(items):
        items = read_transcript(items)
    if isinstance(items, dict):
        # In some .parquet files a list of objects is an object of lists.
        items = rows_of_columns(items) or items
    if not isinstance(items, list):
        raise ValueError(f"expected a list of messages, got {type(items).__name__}")
    messages = []
    for i, item in enumerate(in_turn(items), 1):
        try:
            messages += read_message(item)
        except ValueError as e:
            raise ValueError(f"message {i} {e}") from None
    return [message for message in with_analysis(messages)
            if message["role"] != "system" or message.get("tools") or not is_blank(message)]


def is_blank(message):
    content = message["content"]
    return content is None or (isinstance(content, str) and not content.strip())


def with_analysis(messages):
    """Messages of the channel "analysis" become the reasoning of the assistant's next message."""
    joined = []
    for message in messages:
        before = joined[-1] if joined else {}
        if before.get("channel") == "analysis" and message["role"] == "assistant":
            thoughts = [joined.pop()["content"], message.get("reasoning")]
            message = message | {"reasoning": "\n\n".join(filter(None, thoughts))}
        joined.append(message)
    if any("channel" in message for message in joined):
        raise ValueError("a message of the channel analysis without an answer behind it")
    return joined


def rows_of_columns(columns):
    """{"a": [1, 2], "b": [3, 4]} -> [{"a": 1, "b": 3}, {"a": 2, "b": 4}]; None if it is not so."""
    lists = list(columns.values())
    if len(lists) < 2 or not all(isinstance(column, list) for column in lists):
        return None
    if len(set(map(len, lists))) != 1 or not lists[0]:
        return None
    # A row of messages has objects in its lists.
    if any(isinstance(value, dict) for column in lists for value in column):
        return None
    return [dict(zip(columns, values)) for values in zip(*lists)]


def in_turn(items):
    """Strings, pairs of strings, and objects of two turns -> one item for each message."""
    if items and all(isinstance(item, str) and item.lstrip().startswith("{") for item in items):
        # Each message as JSON.
        try:
            items = [read_value(item) for item in items]
        except ValueError:
            pass
    if len(items) > 1 and all(isinstance(item, str) for item in items):
        who = ("user", "assistant")
        return [{"role": who[i % 2], "content": text} for i, text in enumerate(items)]
    if items and all(isinstance(item, list) and len(item) == 2
                     and all(isinstance(text, str) for text in item) for item in items):
        return [message for pair in items for message in in_turn(pair)]
    messages = []
    for item in items:
        spoken = []
        if isinstance(item, dict):
            item = in_lower_case(item)
            # LangChain's {"type": "human", "content": "Hi"}, and the same within "data".
            if not first_of(WHO, item) and str(item.get("type")).lower() in ROLES:
                item = item | {"role": item["type"]}
                if isinstance(item.get("data"), dict):
                    item = item | item["data"] | {"role": item["type"]}
                item = {name: item[name] for name in item if name not in ("type", "data")}
        if isinstance(item, dict) and not first_of(WHO, item):
            spoken = [{"role": ROLES[name.lower()], "content": text}
                      for name, text in present(item).items()
                      if isinstance(name, str) and name.lower() in ROLES]
        messages += spoken or [item]
    return messages


def read_message(item):
    """One message of a file -> a list of it; of two, if a user's message holds tool results."""
    if not isinstance(item, dict):
        raise ValueError(f"is a {type(item).__name__}, expected an object with role and content")
    item = present(item)
    check_media(item)
    role = item.get(first_of(WHO, item))
    if isinstance(role, dict):
        role = role.get("role")
    if not isinstance(role, str) or role.strip().lower() not in ROLES:
        raise ValueError(f"has role {role!r}, expected one of system, user, assistant, tool, or "
                         f"another name for them (human, gpt, observation, ...)")
    role = ROLES[role.strip().lower()]
    content = item.get(first_of(WHAT, item))
    if isinstance(content, dict) and isinstance(content.get("parts"), list):
        content = content["parts"]
    if content is None and role == "assistant":
        content = item.get("refusal")
    if content is None and role == "function_call":
        # OpenAI's newer interface has a call as an item of its own, and its result as another.
        content = item
    if content is None and role == "tool":
        content = item.get("output")
    recipient = item.get("recipient") or "all"
    if role == "assistant" and recipient != "all":
        # gpt-oss says in this field whom it calls.
        role = "function_call"
        content = {"name": str(recipient).removeprefix("functions."), "arguments": content}
    message = {"role": role, "content": content}
    if role in ("assistant", "function_call"):
        if not learns(item) or any(field in UNWANTED and is_off(item[field]) for field in item):
            message["learn"] = False
    if thoughts := thoughts_of(item.get(first_of(REASONING, item))):
        message["reasoning"] = thoughts
    if item.get("channel") == "analysis" and isinstance(content, str):
        # gpt-oss has its reasoning as a message of its own.
        return [message | {"channel": "analysis"}]
    if item.get("tools"):
        message["tools"] = item["tools"]

    if isinstance(content, str) and role == "user" and PLACEHOLDER.search(content):
        raise ValueError("has a placeholder for an image, video or audio: a model here reads text "
                         "only")
    if role == "function_call":
        return [message | {"role": "assistant", "content": read_calls(content)}]
    if role == "tool":
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and is_media(part.get("type")):
                raise ValueError(f"has a part of type {part['type']}: a model here reads text only")
        return [message | {"content": result_text(content),
                           "id": item.get("tool_call_id") or item.get("call_id")}]
    if isinstance(content, list):
        return read_parts(message, content, item)
    if role == "user" and isinstance(content, str) and "<tool_response>" in content:
        inside = result_text(content)
        if inside != content:
            return [message | {"role": "tool", "content": inside, "id": None}]
    if role == "assistant":
        message["content"] = with_calls(content, item)
    return [message]


def with_calls(content, item):
    """An assistant's string or parts, and the calls that stand beside it -> content of a record."""
    if isinstance(content, str):
        parts = split_calls(content)
        if all(part["type"] == "text" for part in parts):
            parts = [{"type": "text", "text": content}] if content.strip() else []
    else:
        parts = content
    calls = []
    for field in "tool_calls", "function_call":
        if item.get(field):
            calls += read_calls(item[field])
    if calls:
        return (parts or []) + calls
    if isinstance(content, str) and len(parts) < 2 and not any("id" in part for part in parts):
        if not parts or parts[0]["type"] == "text":
            return content
    return parts


def read_parts(message, content, item):
    """A message whose content is a list of parts -> one or more messages.

    Chat APIs wrap a user's text in parts; here it is a string. Anthropic's tool results are parts
    of a user's message; here each is a message of its own.
    """
    role = message["role"]
    results = []
    parts = []
    for part in content:
        part = read_part(part)
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_result":
            results.append({"role": "tool", "content": result_text(part.get("content", "")),
                            "id": part.get("tool_use_id")})
        elif kind == "tool_use":
            parts += read_calls(part)
        elif kind in ("thinking", "reasoning"):
            message["reasoning"] = part.get(kind) or part.get("text", "")
        else:
            parts.append(part)
    if role == "assistant":
        return results + [message | {"content": with_calls(parts, item)}]
    if not all(is_text(part) for part in parts):
        raise ValueError(f"({role}) has parts other than text: a model here reads text only")
    text = "".join(part["text"] for part in parts)
    return results + ([message | {"content": text}] if text or not results else [])


def read_part(part):
    """LLaMA-Factory's {"type": "text", "value": "Hi"} -> {"type": "text", "text": "Hi"}.

    OpenAI's newer types and Gemini's {"text": "Hi"} become the same; what a .parquet file has as
    null in every part is left out.
    """
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        return part
    part = present(part)
    kind = part.get("type", "text")
    if is_media(kind):
        raise ValueError(f"has a part of type {kind}: a model here reads text only")
    check_media(part)
    if kind in ("text", "input_text", "output_text"):
        text = part.get("text", part.get("value"))
        if isinstance(text, str):
            learn = {} if learns(part) else {"learn": False}
            return {"type": "text", "text": text, **learn}
    return part


def is_text(part):
    is_part = isinstance(part, dict) and part.get("type") == "text"
    return is_part and isinstance(part.get("text"), str)


def present(row):
    """A row or message without the fields that are null, as .parquet files have them."""
    return {key: value for key, value in row.items() if value is not None}


def first_of(names, row):
    """The first of the names that is a field of the row and not null, None if none is."""
    for name in names:
        if row.get(name) is not None:
            return name
    return None


# --------------------------------------------------------------------------------------------------
# What may be in a message, and what of it is learned

def validate_content(role, content):
    """ValueError with the reason unless `content` is a string with text in it.

    The assistant's may also be a list of {"type": "text"|"python"|"python_output", "text": str}.
    """
    if isinstance(content, str):
        if not content.strip():
            raise ValueError("the content is empty")
        check_runs(check_text(content))
        return
    if role != "assistant" or not isinstance(content, list):
        expected = "a string or a list of parts" if role == "assistant" else "a string"
        raise ValueError(f"content is {type(content).__name__}, expected {expected}")
    before = None
    for part in content:
        is_part = isinstance(part, dict) and part.get("type") in PART_TYPES
        if not is_part or not isinstance(part.get("text"), str):
            raise ValueError(f'part {str(part)[:60]!r}: expected {{"type": "text", "python" or '
                             f'"python_output", "text": string}}')
        if part["type"] == "python_output" and before != "python":
            raise ValueError("a python_output part that does not follow a python part")
        before = part["type"]
        check_runs(check_text(part["text"]))
    if not any(part["type"] != "python_output" and part["text"].strip() for part in content):
        raise ValueError("the content is empty")


def in_lower_case(row):
    """An object with the names of its fields in lower case, as spreadsheets have them in capitals.

    NaN, which pandas writes for what is missing, becomes null.
    """
    return {name.lower() if isinstance(name, str) else name:
            None if isinstance(value, float) and value != value else value
            for name, value in row.items()}


@functools.lru_cache(1000)
def is_media(name):
    return bool(MEDIA.fullmatch(str(name)))


def check_media(row):
    for name in row:
        if row[name] and is_media(name) and not is_off(row[name]):
            raise ValueError(f"the row has {name}: a model here reads text only")


def learns(item):
    """Is a message, a part or a row to be learned, as far as it says? ValueError for a half weight.

    {"weight": 0} -> False, {"train": True} -> True.
    """
    learned = not any(field in NOT_LEARNED and is_on(item[field]) for field in item)
    for field, value in item.items():
        if field not in LEARN or value is None:
            continue
        if is_off(value):
            learned = False
        elif not is_on(value):
            raise ValueError(f"has {field} {value!r}: what a model learns here it learns with "
                             f"weight 1, and expected is 0 or 1, false or true")
    if "train_detail" in item:
        raise ValueError("has train_detail: a message here is learned whole or not at all")
    return learned


def is_learned(message):
    """Is any of an assistant's message to be learned?"""
    content = message["content"]
    parts = content if isinstance(content, list) else [message]
    return message.get("learn", True) and any(part.get("learn", True) for part in parts)


def is_off(value):
    return str(value).strip().lower() in OFF


def is_on(value):
    return str(value).strip().lower() in ON


def is_unwanted(value):
    return is_off(value) or str(value).strip().lower() in DISLIKED


def thoughts_of(value):
    """What a field of reasoning holds, a string, parts or a list of them -> text, "" for none."""
    if isinstance(value, dict):
        value = value.get(first_of(("content", *WHAT, *REASONING, "summary"), value))
    if isinstance(value, list):
        return "\n\n".join(filter(None, map(thoughts_of, value)))
    # Some files hold "on" or "off" there.
    if not isinstance(value, str) or is_on(value) or is_off(value):
        return ""
    return value if value.strip() else ""


def settle_reasoning(messages, wanted):
    """Put the reasoning in front of the answers if it is wanted; ValueError if it is not."""
    settled = []
    for i, message in enumerate(messages, 1):
        message = dict(message)
        thoughts = message.pop("reasoning", None)
        if thoughts and not wanted:
            raise ValueError(f"message {i} ({message['role']}) has reasoning_content, which would "
                             f"be lost. Learn it in front of the answer, as <think>...</think>: "
                             f"--reasoning; or remove the field")
        if thoughts and message["role"] == "assistant":
            thoughts = f"<think>\n{thoughts.strip()}\n</think>\n\n"
            content = message["content"]
            if isinstance(content, str):
                content = thoughts + content
            elif content and content[0]["type"] == "text":
                content = [content[0] | {"text": thoughts + content[0]["text"]}, *content[1:]]
            else:
                content = [{"type": "text", "text": thoughts}, *(content or [])]
            message["content"] = content
        settled.append(message)
    return settled


def without_reasoning(messages):
    return [{key: value for key, value in message.items() if key != "reasoning"}
            for message in messages]


# --------------------------------------------------------------------------------------------------
# Whose turn it is

def take_turns(messages, learned=True):
    """Messages in any order of roles -> turns: an optional system message, then user and assistant.

    learned=False: nothing of it is to be learned.
    """
    for i, message in enumerate(messages, 1):
        role = message["role"]
        if role == "tool":
            continue
        try:
            validate_content(role, message["content"])
        except ValueError as e:
            raise ValueError(f"message {i} ({role}): {e}") from None

    turns = []
    opening = None
    for i, message in enumerate(messages, 1):
        role = message["role"]
        if role == "tool":
            try:
                add_result(turns, message)
            except ValueError as e:
                raise ValueError(f"message {i} (tool): {e}") from None
            continue
        # A system message that comes later belongs to the user's turn.
        if role == "system" and turns and turns[-1]["role"] != "system":
            role = "user"
        turn = {"role": role, "content": message["content"]}
        if role == "assistant":
            if not learned or message.get("learn") is False:
                turn["learn"] = False
            if all(before["role"] == "system" for before in turns):
                opening = turn
                turns = [open_with(turns)]
        if turns and turns[-1]["role"] == role:
            turns[-1] = join(turns[-1], turn)
        else:
            turns.append(turn)
    if opening and any(turn["role"] == "user" for turn in turns[1:]):
        turns[1]["learn"] = False
    elif opening and turns[0]["content"] == "":
        raise ValueError("message 1 has role 'assistant', expected 'user': the answer to nothing "
                         "is not learned")
    return [settle(turn) for turn in turns]


def open_with(turns):
    """The turn before an assistant who speaks first: the system message as a user's, or nothing."""
    return {"role": "user", "content": turns[0]["content"] if turns else ""}


def join(first, second):
    """Two messages of one role -> one, with a blank line between their texts.

    Behind a tool's result an answer just goes on.
    """
    same = first.get("learn") == second.get("learn")
    if same and isinstance(first["content"], str) and isinstance(second["content"], str):
        return first | {"content": first["content"] + "\n\n" + second["content"]}
    before = marked_parts(first)
    after = marked_parts(second)
    if before[-1]["type"] == after[0]["type"] == "text":
        after[0]["text"] = "\n\n" + after[0]["text"]
    return {"role": first["role"], "content": before + after}


def marked_parts(turn):
    """The parts of a turn, each marked as the turn is: the mark may differ in a joined one."""
    content = turn["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    mark = {"learn": False} if turn.get("learn") is False else {}
    return [part | mark for part in parts]


def add_result(turns, message):
    """Put a tool's result behind the call that it answers, in the last turn."""
    if turns and turns[-1]["role"] == "assistant" and isinstance(turns[-1]["content"], str):
        turns[-1] = turns[-1] | {"content": python_calls(turns[-1]["content"])}
    if not turns or turns[-1]["role"] != "assistant" or not turns[-1]["content"]:
        raise ValueError("a tool's result without a call before it")
    parts = turns[-1]["content"]
    types = [part["type"] for part in parts] + [None]
    waiting = [i for i, part in enumerate(parts)
               if types[i] == "python" and types[i + 1] != "python_output"]
    if not waiting:
        raise ValueError("a tool's result without a call before it")
    asked = [i for i in waiting if message.get("id") and parts[i].get("id") == message["id"]]
    at = (asked or waiting)[0]
    check_runs(check_text(message["content"]))
    result = {"type": "python_output", "text": message["content"]}
    turns[-1] = turns[-1] | {"content": [*parts[:at + 1], result, *parts[at + 1:]]}


def settle(turn):
    """A turn without what only served to join it: a mark that all parts have is the turn's.

    Neighbouring texts become one, as the server reads them, so that their tokens are the same.
    """
    content = turn["content"]
    if not isinstance(content, list):
        return turn
    parts = []
    for part in content:
        # A tool's result is never learned, marked or not.
        part = {key: part[key] for key in ("type", "text", "learn")
                if key in part and (key != "learn" or part["type"] != "python_output")}
        if parts and part["type"] == "text" and parts[-1] == part | {"text": parts[-1]["text"]}:
            part["text"] = parts.pop()["text"] + part["text"]
        parts.append(part)
    said = [part for part in parts if part["type"] != "python_output"]
    if all(part.get("learn") is False for part in said):
        turn = turn | {"learn": False}
    if turn.get("learn") is False:
        parts = [{"type": part["type"], "text": part["text"]} for part in parts]
    return turn | {"content": parts}
