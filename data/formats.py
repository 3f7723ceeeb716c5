"""
The formats in which people have conversations and preference pairs. Each row is recognised by
itself and turned into the one record that the stages read.

Below, `messages` stands for a list of role/content or from/value objects, for a list of strings
that user and assistant say in turn, or for a transcript (data/transcripts.py).

Conversations
  messages alone, or in one of the fields LISTS
  one of the fields PROMPTS and one of ANSWERS, each a string or messages: Alpaca, Dolly, OpenOrca,
      MetaMathQA, TRL; optional: a field of SYSTEM, "input" or "context", "history"
  {"text": transcript}
Preference pairs
  two fields of PAIRS, each a whole conversation (messages), or an answer to what the same fields
      as above ask; OpenAI's {"input": {"messages"}, "preferred_output", "non_preferred_output"}
  {"prompt", "response_0", "response_1", "better_response_id"} (PKU-SafeRLHF)
  {"conversation_a", "conversation_b", "winner"} (LMSYS arena)

Whose turn it is
  A role that speaks twice in a row is joined with a blank line. If the assistant speaks first, an
  empty turn of the user stands before it, and that opening is not learned; a system message is
  as good as a user's. A last turn of the user is context.

Fields that carry meaning
  weight, train, loss_weight, loss or mask that is 0 or false: the message stays as context and is
      not learned ("learn": False in the record). Any other weight than 1 makes the row bad.
  reasoning_content, reasoning, thinking: bad, unless `reasoning` asks to learn it in front of the
      answer, as <think>...</think>
  tool_calls, function_call and results: python and python_output parts (data/tool_calls.py)
  tools of a row or message: join the system message
  label, kto_tag, desirable that is false: Unwanted, an answer that is not to be learned (KTO)
  images, videos and audio in any field or part, options of multiple choice: bad
"""
import json
import re

from data.documents import check_runs, check_text
from data.tool_calls import describe_tools, read_calls, read_value, result_text, split_calls
from data.transcripts import is_transcript, read_transcript

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user", "question": "user", "input": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "chatgpt": "assistant", "ai": "assistant", "answer": "assistant", "output": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
    "tool_response": "tool", "function_response": "tool", "tool_result": "tool",
    "function_call": "function_call", "tool_call": "function_call",
}
PART_TYPES = ("text", "python", "python_output")

# The fields of a message: who speaks, and what.
WHO = ("role", "from", "speaker")
WHAT = ("content", "value", "text", "message", "parts")
REASONING = ("reasoning_content", "reasoning", "thinking")
LEARN = ("learn", "weight", "loss_weight", "train", "training", "trainable", "loss", "mask")
MESSAGE_FIELDS = {*WHO, *WHAT, *REASONING, *LEARN, "tools", "tool_calls", "function_call",
                  "tool_call_id", "id", "name", "refusal"}
# The fields of a row. Where several of one kind are there, the first of them counts.
LISTS = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns", "data",
         "contents")
PROMPTS = ("prompt", "instruction", "question", "query", "problem", "input", "inputs")
ANSWERS = ("completion", "response", "output", "answer", "solution", "generated_solution",
           "generation", "target", "targets")
SYSTEM = ("system", "system_prompt", "system_message")
PAIRS = (("chosen", "rejected"), ("chosen_response", "rejected_response"),
         ("response_chosen", "response_rejected"), ("preferred_output", "non_preferred_output"),
         ("preferred", "dispreferred"), ("response_j", "response_k"), ("accepted", "rejected"))
UNWANTED = ("label", "kto_tag", "desirable", "is_desirable")
OPTIONS = ("choices", "options")
MEDIA = re.compile(r"(input_)?(image|img|picture|video|audio)s?_?(path|url|file|bytes|list|data)?s?"
                   r"|pixel_values", re.I)
# What distill.py and chat.py --batch write beside the messages.
OURS = {"ended", "teacher", "finish", "tokens", "made_by", "letters", "subject"}
OFF = ("false", "0", "0.0", "no", "off")
ON = ("true", "1", "1.0", "yes", "on")


class Unwanted(ValueError):
    """A row whose answer is marked as one that nobody wants (KTO): left out, and no error."""


def to_conversation(row, need_answer=True, reasoning=False):
    """A parsed JSON row -> (name of the format, conversation); ValueError with the reason.

    need_answer=False also takes prompts that nobody has answered.
    reasoning: learn it in front of the answer; otherwise it makes a row bad. Where no answer is
    needed, nothing is learned from the row, and the reasoning is left out.
    """
    bare_list = isinstance(row, list)
    if bare_list:
        # A line may be any list of strings: only a field with a name says that they are turns.
        if row and not isinstance(row[0], dict):
            raise ValueError(f"message 1 is a {type(row[0]).__name__}, expected an object with "
                             f"role and content")
        row = {"messages": row}
    if not isinstance(row, dict):
        raise ValueError(f"expected an object or a list of messages, got {type(row).__name__}")
    if pair_fields(row):
        raise ValueError(f"a preference pair ({', '.join(pair_fields(row))}), not a conversation: "
                         f"it belongs to dpo.py")
    if need_answer:
        check_wanted(row)

    field = first_of(LISTS, row)
    prompt = first_of(PROMPTS, row)
    answer = first_of(ANSWERS, row)
    if field:
        kind = {"conversations": "conversations (ShareGPT)"}.get(field, field)
        kind = "messages (bare list)" if bare_list else kind
        messages = read_messages(row[field])
    elif prompt and answer:
        kind = {("instruction", "output"): "instruction/output (Alpaca)"}.get(
            (prompt, answer), f"{prompt}/{answer}")
        check_options(row)
        messages = prompt_of(row) + speech("assistant", row[answer])
    elif is_transcript(row.get("text")):
        kind = "text (transcript)"
        messages = read_transcript(row["text"])
    elif prompt and not need_answer:
        kind = prompt
        messages = prompt_of(row)
    else:
        raise ValueError(f"not recognised: the row has {fields(row)}; expected messages, "
                         f"conversations, instruction and output, or prompt and completion"
                         f"{other_stage(row)}")

    check_media(row)
    messages = with_system(row, messages)
    if need_answer or reasoning:
        messages = settle_reasoning(messages, reasoning)
    else:
        messages = without_reasoning(messages)
    record = {"messages": take_turns(messages, row)}
    validate_conversation(record, need_answer)
    return kind, record


def to_preference(row, reasoning=False):
    """A parsed JSON row -> (name of the format, {"chosen": conversation, "rejected": ...}).

    ValueError with the reason.
    """
    if isinstance(row, dict):
        row = as_chosen_and_rejected(row)
    names = pair_fields(row)
    if not names:
        got = fields(row) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise ValueError(f"expected an object with the fields chosen and rejected, got {got}"
                         f"{other_stage(row)}")
    check_media(row)
    kind, chosen = read_side(row, names[0])
    _, rejected = read_side(row, names[1])
    if without_reasoning(chosen) == without_reasoning(rejected) and chosen != rejected:
        if not reasoning:
            raise ValueError("chosen and rejected are equal but for their reasoning_content: "
                             "there is no preference to learn without it. Learn it with the "
                             "answers: --reasoning")
    chosen = finish_side(chosen, row, names[0], reasoning)
    rejected = finish_side(rejected, row, names[1], reasoning)
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("chosen and rejected differ before their last answer: they do not answer "
                         "the same prompt")
    if chosen == rejected:
        raise ValueError("chosen and rejected are equal: there is no preference to learn")
    return kind, {"chosen": {"messages": chosen}, "rejected": {"messages": rejected}}


def as_chosen_and_rejected(row):
    """Pairs that are named by a number or a letter -> the same with chosen and rejected."""
    if {"response_0", "response_1", "better_response_id"} <= row.keys():
        better = row["better_response_id"]
        if better not in (0, 1):
            raise ValueError(f"better_response_id is {better!r}, expected 0 or 1")
        return dict(row, chosen=row[f"response_{better}"], rejected=row[f"response_{1 - better}"])
    if {"conversation_a", "conversation_b", "winner"} <= row.keys():
        sides = {"model_a": "ab", "model_b": "ba"}.get(row["winner"])
        if not sides:
            raise ValueError(f"winner is {row['winner']!r}: there is no preference to learn")
        return dict(row, chosen=row["conversation_" + sides[0]],
                    rejected=row["conversation_" + sides[1]])
    return row


def read_side(row, side):
    """The field chosen or rejected -> (name of the format, messages from prompt to answer)."""
    answer = row[side]
    names = "/".join(pair_fields(row))
    if isinstance(answer, dict):
        answer = [answer]
    if isinstance(answer, list):
        kind = f"{names} (messages)"
        messages = read_messages(answer)
        if messages and messages[0]["role"] == "assistant":
            kind = f"{names} (messages after a prompt)"
            messages = prompt_of(row) + messages
    elif not isinstance(answer, str):
        raise ValueError(f"{side} must be a string or a list of messages, got "
                         f"{type(answer).__name__}")
    elif is_transcript(answer) and answer.startswith("\n\nHuman:"):
        kind = f"{names} (HH transcripts)"
        messages = read_transcript(answer)
    elif has_prompt(row):
        kind = f"prompt, {names} (strings)"
        messages = prompt_of(row) + said("assistant", answer)
    elif is_transcript(answer):
        kind = f"{names} (transcripts)"
        messages = read_transcript(answer)
    else:
        raise ValueError("chosen and rejected are strings without a prompt, and no transcripts "
                         "that begin with a blank line and 'Human:'")
    return kind, with_system(row, messages)


def finish_side(messages, row, side, reasoning):
    """The messages of one side -> its turns; ValueError unless they end with an answer."""
    try:
        messages = take_turns(settle_reasoning(messages, reasoning), row)
        validate_conversation({"messages": messages})
        if messages[-1]["role"] != "assistant":
            raise ValueError("the last message is not the assistant's: there is no answer to "
                             "compare")
        if not is_learned(messages[-1]):
            raise ValueError("the last answer is marked as not to be learned")
    except ValueError as e:
        raise ValueError(f"{side}: {e}") from None
    return messages


def validate_conversation(record, need_answer=True):
    """ValueError with the reason unless `record` is a conversation that a model can learn from.

    need_answer=False also takes prompts that nobody has answered.
    """
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError("expected a non-empty list of messages")
    has_system = isinstance(messages[0], dict) and messages[0].get("role") == "system"
    n_system = 1 if has_system else 0
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f"message {i + 1} is a {type(message).__name__}, expected an object "
                             f"with role and content")
        role = message.get("role")
        if i < n_system:
            expected = "system"
        else:
            expected = ("user", "assistant")[(i - n_system) % 2]
        if role != expected:
            raise ValueError(f"message {i + 1} has role {role!r}, expected {expected!r}: an "
                             f"optional system message, then user and assistant in turn")
        # Before an assistant who speaks first stands an empty turn.
        if i == 0 and len(messages) > 1 and (role, message.get("content")) == ("user", ""):
            continue
        try:
            validate_content(role, message.get("content"))
        except ValueError as e:
            raise ValueError(f"message {i + 1} ({role}): {e}") from None
    if len(messages) < n_system + 1:
        raise ValueError("a system message and nothing else: expected user and assistant messages")
    answers = [message for message in messages if message["role"] == "assistant"]
    if need_answer and not answers:
        raise ValueError("no assistant message: there is nothing to learn")
    if need_answer and not any(map(is_learned, answers)):
        raise ValueError("no answer is to be learned: each is marked with weight 0 or train false, "
                         "or opens the conversation")


def is_learned(message):
    """Is any of an assistant's message to be learned?"""
    content = message["content"]
    parts = content if isinstance(content, list) else [message]
    return message.get("learn", True) and any(part.get("learn", True) for part in parts)


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


# --------------------------------------------------------------------------------------------------
# Messages

def read_messages(items):
    """What a field with messages holds -> a list of messages, without empty system messages.

    Each has a role (system, user, assistant or tool) and content; some have "learn": False, the
    text of their "reasoning", the "id" of the tool call that they answer, or "tools".
    """
    if isinstance(items, str) and items.lstrip().startswith("["):
        items = read_value(items)
    if isinstance(items, str) and is_transcript(items):
        return read_transcript(items)
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
    return [message for message in messages
            if message["role"] != "system" or message["content"] not in ("", None)
            or message.get("tools")]


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
    if len(items) > 1 and all(isinstance(item, str) for item in items):
        who = ("user", "assistant")
        return [{"role": who[i % 2], "content": text} for i, text in enumerate(items)]
    if items and all(isinstance(item, list) and len(item) == 2 for item in items):
        return [message for pair in items for message in in_turn(pair)]
    messages = []
    for item in items:
        spoken = []
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
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise ValueError(f"has role {role!r}, expected one of {', '.join(ROLES)}")
    role = ROLES[role.lower()]
    content = item.get(first_of(WHAT, item))
    if content is None and role == "assistant":
        content = item.get("refusal")
    message = {"role": role, "content": content}
    if role in ("assistant", "function_call") and not learns(item):
        message["learn"] = False
    thoughts = item.get(first_of(REASONING, item))
    if isinstance(thoughts, str) and thoughts.strip():
        message["reasoning"] = thoughts
    if item.get("tools"):
        message["tools"] = item["tools"]

    if role == "function_call":
        return [message | {"role": "assistant", "content": read_calls(content)}]
    if role == "tool":
        return [message | {"content": result_text(content), "id": item.get("tool_call_id")}]
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
    if MEDIA.fullmatch(str(kind)):
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


def learns(item):
    """Is a message, a part or a row to be learned, as far as it says? ValueError for a half weight.

    {"weight": 0} -> False, {"train": True} -> True.
    """
    learned = True
    for field in LEARN:
        value = item.get(field)
        if value is None:
            continue
        if is_off(value):
            learned = False
        elif not is_on(value):
            raise ValueError(f"has {field} {value!r}: what a model learns here it learns with "
                             f"weight 1, and expected is 0 or 1, false or true")
    if "train_detail" in item:
        raise ValueError("has train_detail: a message here is learned whole or not at all")
    return learned


def is_off(value):
    return str(value).strip().lower() in OFF


def is_on(value):
    return str(value).strip().lower() in ON


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

def take_turns(messages, row):
    """Messages in any order of roles -> turns: an optional system message, then user and assistant.

    row: it may say that nothing of it is to be learned.
    """
    learned = learns(row)
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
    if not turns or turns[-1]["role"] != "assistant" or isinstance(turns[-1]["content"], str):
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
    """A turn without what only served to join it: a mark that all parts have is the turn's."""
    content = turn["content"]
    if not isinstance(content, list):
        return turn
    # A tool's result is never learned, marked or not.
    parts = [{key: part[key] for key in ("type", "text", "learn")
              if key in part and (key != "learn" or part["type"] != "python_output")}
             for part in content]
    said = [part for part in parts if part["type"] != "python_output"]
    if all(part.get("learn") is False for part in said):
        turn = turn | {"learn": False}
    if turn.get("learn") is False:
        parts = [{"type": part["type"], "text": part["text"]} for part in parts]
    return turn | {"content": parts}


# --------------------------------------------------------------------------------------------------
# Pieces of the formats

def present(row):
    """A row or message without the fields that are null, as .parquet files have them."""
    return {key: value for key, value in row.items() if value is not None}


def first_of(names, row):
    """The first of the names that is a field of the row and not null, None if none is."""
    return next((name for name in names if row.get(name) is not None), None)


def said(role, content):
    """One message -> a list of it, or of nothing for an empty system message."""
    return read_messages([{"role": role, "content": content}])


def speech(role, content):
    """What `role` says, a string or a list of messages or an object of one -> messages."""
    if isinstance(content, dict):
        content = [content]
    return read_messages(content) if isinstance(content, list) else said(role, content)


def with_system(row, messages):
    """Put the row's system message and its tools in front, and the tools that messages have.

    If the messages begin with a system message, that one counts.
    """
    if not (messages and messages[0]["role"] == "system"):
        system = row.get(first_of(SYSTEM, row))
        if isinstance(system, str):
            # Glaive's field says it twice.
            system = re.sub(r"^\s*SYSTEM:\s*", "", system)
        messages = said("system", system) + messages
    tools = [describe_tools(item["tools"]) for item in [row, *messages] if item.get("tools")]
    if row.get("functions"):
        tools.append(describe_tools(row["functions"]))
    messages = [{key: value for key, value in message.items() if key != "tools"}
                for message in messages]
    has_system = bool(messages) and messages[0]["role"] == "system"
    system = messages[0]["content"] if has_system else ""
    # Hermes has the same tools in the system message and in a field.
    if isinstance(system, str) and "<tools>" not in system:
        text = "\n\n".join(piece for piece in [system, *tools] if piece)
        if text != system:
            messages[:has_system] = [{"role": "system", "content": text}]
    return messages


def prompt_of(row):
    """The messages before an answer: the fields PROMPTS, the history and the input of Alpaca.

    history: pairs of user and assistant. The question is the instruction and the input or context
    with a blank line between them.
    """
    field = first_of(PROMPTS, row)
    if field == "input" and isinstance(row["input"], dict):
        # OpenAI's format of preferences.
        return with_system(row["input"], read_messages(row["input"].get("messages")))
    if not field:
        listed = first_of(LISTS, row)
        if not listed:
            raise ValueError("chosen and rejected are answers alone: the field prompt is missing")
        return read_messages(row[listed])
    messages = []
    history = row.get("history") or []
    for turn in history if isinstance(history, list) else [history]:
        if not isinstance(turn, list) or len(turn) != 2:
            raise ValueError("history must be a list of [user, assistant] pairs")
        messages += said("user", turn[0]) + said("assistant", turn[1])
    question = row[field]
    if is_transcript(question):
        return messages + read_transcript(question)
    context = first_of(("input", "context"), row)
    # A prompt is whole: what stands beside it was put into it.
    if field not in ("prompt", "input", "inputs") and context and row[context]:
        if not isinstance(row[context], str) or not isinstance(question, str):
            raise ValueError(f"{field} and {context} must be strings")
        question = f"{question}\n\n{row[context]}" if question else row[context]
    return messages + speech("user", question)


def has_prompt(row):
    return bool(first_of(PROMPTS, row) or first_of(LISTS, row))


def pair_fields(row):
    """The names of the two answers in a row of preferences, () in any other row."""
    if isinstance(row, dict):
        for names in PAIRS:
            # In a .parquet file of many kinds all rows have the fields, and most are null.
            if row.keys() >= set(names) and first_of(names, row):
                return names
        for names in ("response_0", "response_1", "better_response_id"), \
                     ("conversation_a", "conversation_b", "winner"):
            if row.keys() >= set(names):
                return names
    return ()


def check_wanted(row):
    """Unwanted if the answer is marked so, as in KTO: {"label": false}, {"kto_tag": "False"}."""
    for field in UNWANTED:
        if is_off(row.get(field)):
            raise Unwanted(f"{field} is {json.dumps(row[field])}: the answer is an unwanted one "
                           f"(KTO), not one to learn")


def check_media(row):
    for name in row:
        if isinstance(name, str) and MEDIA.fullmatch(name) and row[name]:
            raise ValueError(f"the row has {name}: a model here reads text only")


def check_options(row):
    """A letter alone says nothing without the options that it stands for."""
    for name in OPTIONS:
        if row.get(name):
            raise ValueError(f"the row has {name}: a question of multiple choice without its "
                             f"options would be learned. Write them into the question")


def is_spoken(row):
    """Does the row have the fields of a conversation?"""
    if not isinstance(row, dict):
        return False
    return bool(first_of(LISTS, row) or (first_of(PROMPTS, row) and first_of(ANSWERS, row))
                or is_transcript(row.get("text")))


def other_stage(row):
    """The end of a reason: which scripts a row of another kind belongs to, "" if nobody knows."""
    if isinstance(row, list) or is_spoken(row):
        return ". These are conversations: they belong to midtrain.py and sft.py"
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        return (". This is text: it belongs to tokenizer.py and pretrain.py (a transcript would "
                "begin with ### Human: or the like)")
    return ""


def ignored_fields(row):
    """The names of a row's and of its messages' fields that nothing reads, without nulls."""
    if not isinstance(row, dict):
        row = {"messages": row if isinstance(row, list) else []}
    row = present(row)
    read = {*LEARN, *UNWANTED, "tools", "functions", *OURS, *SYSTEM}
    sides = pair_fields(row)
    listed = first_of(LISTS, row)
    if sides:
        read |= {*sides, "response_0", "response_1", "conversation_a", "conversation_b"}
    if listed and not (sides and first_of(PROMPTS, row)):
        read.add(listed)
    else:
        read |= {first_of(PROMPTS, row), "history"}
        if first_of(PROMPTS, row) not in ("prompt", "input", "inputs"):
            read.add(first_of(("input", "context"), row))
        if not sides:
            read.add(first_of(ANSWERS, row))
        if read == {None}:
            read.add("text")
    if is_transcript(row.get("text")) and not listed:
        read.add("text")
    names = [name for name, value in row.items() if name not in read and value not in ("", [], {})]
    for field in {listed, *sides}:
        items = row.get(field)
        for item in items if isinstance(items, list) else []:
            if isinstance(item, dict) and first_of(WHO, item):
                names += [name for name, value in present(item).items()
                          if name not in MESSAGE_FIELDS and value not in ("", [], {})]
    return set(map(str, names))


def fields(row):
    return "the fields " + ", ".join(map(str, row)) if row else "no fields"
