"""
The formats in which people have conversations and preference pairs. Each row is recognised by
itself and turned into the one record that the stages read.

Below, `messages` stands for a list of role/content or from/value objects.

Conversations
  messages alone
  {"messages": messages}, optional "system"
  {"conversations": messages}, optional "system" (ShareGPT)
  {"instruction", "output"}, optional "input", "system", "history" (Alpaca)
  {"prompt", "completion" or "response"}, each a string or messages; optional "system"
Preference pairs
  {"chosen": messages, "rejected": messages}: whole conversations, or continuations of "prompt",
      which is a string or messages
  {"prompt" or "instruction", "chosen": text, "rejected": text}, optional "system"
  {"chosen": transcript, "rejected": transcript}, each "\\n\\nHuman: ... \\n\\nAssistant: ..."
      (Anthropic HH)

Rows with images, videos or audios are bad: a model here reads text only. So are answers that are
marked as unwanted ("label": false, as in KTO).
"""
import re

from data.documents import check_text

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
PART_TYPES = ("text", "python", "python_output")
# A row with all fields of one of these sets is a conversation.
SPOKEN = ({"messages"}, {"conversations"}, {"instruction", "output"},
          {"prompt", "completion"}, {"prompt", "response"})


def to_conversation(row, need_answer=True):
    """A parsed JSON row -> (name of the format, conversation); ValueError with the reason."""
    bare_list = isinstance(row, list)
    if bare_list:
        row = {"messages": row}
    if not isinstance(row, dict):
        raise ValueError(f"expected an object or a list of messages, got {type(row).__name__}")
    if "chosen" in row and "rejected" in row:
        raise ValueError("a preference pair (chosen, rejected), not a conversation: it belongs to "
                         "dpo.py")
    if row.get("label") is False and need_answer:
        raise ValueError("label is false: the answer is an unwanted one (KTO), not one to learn")

    if "messages" in row:
        kind = "messages (bare list)" if bare_list else "messages"
        messages = read_messages(row["messages"])
    elif "conversations" in row:
        kind = "conversations (ShareGPT)"
        messages = read_messages(row["conversations"])
    elif "instruction" in row and "output" in row:
        kind = "instruction/output (Alpaca)"
        messages = alpaca_prompt(row) + said("assistant", row["output"])
    elif "prompt" in row and ("completion" in row or "response" in row):
        answer = "completion" if "completion" in row else "response"
        kind = f"prompt/{answer}"
        messages = speech("user", row["prompt"]) + speech("assistant", row[answer])
    elif "prompt" in row and not need_answer:
        kind = "prompt"
        messages = speech("user", row["prompt"])
    else:
        raise ValueError(f"not recognised: the row has {fields(row)}; expected messages, "
                         f"conversations, instruction and output, or prompt and completion"
                         f"{other_stage(row)}")

    check_media(row)
    record = {"messages": with_system(row, messages)}
    validate_conversation(record, need_answer)
    return kind, record


def to_preference(row):
    """A parsed JSON row -> (name of the format, {"chosen": conversation, "rejected": ...}).

    ValueError with the reason.
    """
    if not isinstance(row, dict) or "chosen" not in row or "rejected" not in row:
        got = fields(row) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise ValueError(f"expected an object with the fields chosen and rejected, got {got}"
                         f"{other_stage(row)}")
    check_media(row)
    kind, chosen = read_side(row, "chosen")
    _, rejected = read_side(row, "rejected")
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("chosen and rejected differ before their last answer: they do not answer "
                         "the same prompt")
    if chosen == rejected:
        raise ValueError("chosen and rejected are equal: there is no preference to learn")
    return kind, {"chosen": {"messages": chosen}, "rejected": {"messages": rejected}}


def read_side(row, side):
    """The field chosen or rejected -> (name of the format, messages from prompt to answer)."""
    answer = row[side]
    if isinstance(answer, dict):
        answer = [answer]
    if isinstance(answer, list):
        kind = "chosen/rejected (messages)"
        messages = read_messages(answer)
        if messages and messages[0]["role"] == "assistant":
            kind = "chosen/rejected (messages after a prompt)"
            messages = prompt_of(row) + messages
    elif not isinstance(answer, str):
        raise ValueError(f"{side} must be a string or a list of messages, got "
                         f"{type(answer).__name__}")
    elif is_transcript(answer) or not ("prompt" in row or "instruction" in row):
        kind = "chosen/rejected (HH transcripts)"
        messages = read_transcript(answer)
    else:
        kind = "prompt, chosen/rejected (strings)"
        messages = prompt_of(row) + said("assistant", answer)
    messages = with_system(row, messages)
    try:
        validate_conversation({"messages": messages})
        if messages[-1]["role"] != "assistant":
            raise ValueError("the last message is not the assistant's: there is no answer to "
                             "compare")
    except ValueError as e:
        raise ValueError(f"{side}: {e}") from None
    return kind, messages


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
        try:
            validate_content(role, message.get("content"))
        except ValueError as e:
            raise ValueError(f"message {i + 1} ({role}): {e}") from None
    if len(messages) < n_system + 1:
        raise ValueError("a system message and nothing else: expected user and assistant messages")
    if need_answer and len(messages) < n_system + 2:
        raise ValueError("no assistant message: there is nothing to learn")


def validate_content(role, content):
    """ValueError with the reason unless `content` is a string with text in it.

    The assistant's may also be a list of {"type": "text"|"python"|"python_output", "text": str}.
    """
    if isinstance(content, str):
        if not content.strip():
            raise ValueError("the content is empty")
        check_text(content)
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
        check_text(part["text"])
    if not any(part["type"] != "python_output" and part["text"].strip() for part in content):
        raise ValueError("the content is empty")


# --------------------------------------------------------------------------------------------------
# Pieces of the formats

def read_messages(items):
    """Messages as role/content or from/value -> as role/content, without empty system messages."""
    if not isinstance(items, list):
        raise ValueError(f"expected a list of messages, got {type(items).__name__}")
    messages = []
    for i, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise ValueError(f"message {i} is a {type(item).__name__}, expected an object with "
                             f"role and content")
        if "role" in item:
            role, content = item["role"], item.get("content")
        else:
            role, content = item.get("from"), item.get("value")
        if not isinstance(role, str) or role not in ROLES:
            raise ValueError(f"message {i} has role {role!r}, expected one of {', '.join(ROLES)}")
        role = ROLES[role]
        if isinstance(content, list):
            content = [read_part(part) for part in content]
            # Chat APIs wrap a user's text in a list of parts; here it is a str.
            if role != "assistant":
                if not all(is_text(part) for part in content):
                    raise ValueError(f"message {i} ({role}) has parts other than text")
                content = "".join(part["text"] for part in content)
        if role != "system" or content not in ("", None):
            messages.append({"role": role, "content": content})
    return messages


def read_part(part):
    """LLaMA-Factory's {"type": "text", "value": "Hi"} -> {"type": "text", "text": "Hi"}."""
    if isinstance(part, dict) and part.keys() == {"type", "value"}:
        return {"type": part["type"], "text": part["value"]}
    return part


def is_text(part):
    is_part = isinstance(part, dict) and part.get("type") == "text"
    return is_part and isinstance(part.get("text"), str)


def said(role, content):
    """One message -> a list of it, or of nothing for an empty system message."""
    return read_messages([{"role": role, "content": content}])


def speech(role, content):
    """A string that `role` says, or a list of messages -> messages."""
    return read_messages(content) if isinstance(content, list) else said(role, content)


def with_system(row, messages):
    """Put the row's field system in front, unless the messages begin with a system message."""
    if messages and messages[0]["role"] == "system":
        return messages
    return said("system", row.get("system")) + messages


def alpaca_prompt(row):
    """Alpaca's history (pairs of user and assistant) and question -> messages.

    The question is the instruction and the input with a blank line between them.
    """
    messages = []
    history = row.get("history") or []
    for turn in history if isinstance(history, list) else [history]:
        if not isinstance(turn, list) or len(turn) != 2:
            raise ValueError("history must be a list of [user, assistant] pairs")
        messages += said("user", turn[0]) + said("assistant", turn[1])
    question = row["instruction"]
    if row.get("input"):
        if not isinstance(row["input"], str) or not isinstance(question, str):
            raise ValueError("instruction and input must be strings")
        question = f"{question}\n\n{row['input']}" if question else row["input"]
    return messages + said("user", question)


def prompt_of(row):
    """The messages before the two answers, from the field prompt, instruction or conversations."""
    if "prompt" in row:
        prompt = row["prompt"]
        return read_transcript(prompt) if is_transcript(prompt) else speech("user", prompt)
    if "instruction" in row:
        return alpaca_prompt(row)
    if "conversations" in row:
        return read_messages(row["conversations"])
    raise ValueError("chosen and rejected are answers alone: the field prompt is missing")


def is_transcript(text):
    return isinstance(text, str) and text.startswith("\n\nHuman:")


def read_transcript(text):
    """"\\n\\nHuman: hi\\n\\nAssistant: hello" -> messages.

    A last "Assistant:" with nothing behind it, as at the end of a prompt, is left out.
    """
    before, *turns = re.split(r"\n\n(Human|Assistant):", text)
    if before.strip() or not turns:
        raise ValueError("chosen and rejected are strings without a prompt, and no transcripts "
                         "that begin with a blank line and 'Human:'")
    messages = []
    for who, content in zip(turns[::2], turns[1::2]):
        role = "user" if who == "Human" else "assistant"
        messages.append({"role": role, "content": content.strip()})
    if messages[-1] == {"role": "assistant", "content": ""}:
        messages.pop()
    return messages


def check_media(row):
    for name in "images", "videos", "audios":
        if row.get(name):
            raise ValueError(f"the row has {name}: a model here reads text only")


def is_spoken(row):
    """Does the row have the fields of a conversation?"""
    return isinstance(row, dict) and any(need <= row.keys() for need in SPOKEN)


def other_stage(row):
    """The end of a reason: which scripts a row of another kind belongs to, "" if nobody knows."""
    if isinstance(row, list) or is_spoken(row):
        return ". These are conversations: they belong to midtrain.py and sft.py"
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        return ". This is text: it belongs to tokenizer.py and pretrain.py"
    return ""


def fields(row):
    return "the fields " + ", ".join(map(str, row)) if row else "no fields"
