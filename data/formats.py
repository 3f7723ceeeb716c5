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
    if isinstance(row, list):
        kind, messages = "messages (bare list)", read_messages(row)
    elif not isinstance(row, dict):
        raise ValueError(f"expected an object or a list of messages, got "
                         f"{type(row).__name__}")
    elif "chosen" in row and "rejected" in row:
        raise ValueError("a preference pair (chosen, rejected), not a conversation: it belongs to "
                         "dpo.py")
    elif row.get("label") is False and need_answer:
        raise ValueError("label is false: the answer is an unwanted one (KTO), not one to learn")
    elif "messages" in row:
        kind, messages = "messages", with_system(row, read_messages(row["messages"]))
    elif "conversations" in row:
        kind, messages = "conversations (ShareGPT)", \
            with_system(row, read_messages(row["conversations"]))
    elif "instruction" in row and "output" in row:
        kind, messages = "instruction/output (Alpaca)", \
            alpaca_prompt(row) + said("assistant", row["output"])
    elif "prompt" in row and ("completion" in row or "response" in row):
        answer = "completion" if "completion" in row else "response"
        kind, messages = f"prompt/{answer}", \
            speech("user", row["prompt"]) + speech("assistant", row[answer])
        messages = with_system(row, messages)
    elif "prompt" in row and not need_answer:
        kind, messages = "prompt", with_system(row, speech("user", row["prompt"]))
    else:
        raise ValueError(f"not recognised: the row has {fields(row)}; expected messages, "
                         f"conversations, instruction and output, or prompt and completion"
                         f"{other_stage(row)}")
    check_media(row)
    record = {"messages": messages}
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
    kinds, pair = [], {}
    for side in "chosen", "rejected":
        answer = row[side]
        answer = [answer] if isinstance(answer, dict) else answer
        if isinstance(answer, list):
            kind, messages = "chosen/rejected (messages)", read_messages(answer)
            if messages and messages[0]["role"] == "assistant":
                kind, messages = "chosen/rejected (messages after a prompt)", \
                    prompt_of(row) + messages
        elif isinstance(answer, str) and ("prompt" in row or "instruction" in row) \
                and not is_transcript(answer):
            kind, messages = "prompt, chosen/rejected (strings)", \
                prompt_of(row) + said("assistant", answer)
        elif isinstance(answer, str):
            kind, messages = "chosen/rejected (HH transcripts)", read_transcript(answer)
        else:
            raise ValueError(f"{side} must be a string or a list of messages, got "
                             f"{type(answer).__name__}")
        kinds.append(kind)
        pair[side] = {"messages": with_system(row, messages)}
        try:
            validate_conversation(pair[side])
            if pair[side]["messages"][-1]["role"] != "assistant":
                raise ValueError("the last message is not the assistant's: there is no answer to "
                                 "compare")
        except ValueError as e:
            raise ValueError(f"{side}: {e}") from None
    chosen, rejected = pair["chosen"]["messages"], pair["rejected"]["messages"]
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("chosen and rejected differ before their last answer: they do not answer "
                         "the same prompt")
    if chosen == rejected:
        raise ValueError("chosen and rejected are equal: there is no preference to learn")
    return kinds[0], pair


def validate_conversation(record, need_answer=True):
    """ValueError with the reason unless `record` is a conversation that a model can learn from.

    need_answer=False also takes prompts that nobody has answered.
    """
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError("expected a non-empty list of messages")
    first = 1 if isinstance(messages[0], dict) and messages[0].get("role") == "system" else 0
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f"message {i + 1} is a {type(message).__name__}, expected an object "
                             f"with role and content")
        role, content = message.get("role"), message.get("content")
        expected = "system" if i < first else ("user", "assistant")[(i - first) % 2]
        if role != expected:
            raise ValueError(f"message {i + 1} has role {role!r}, expected {expected!r}: an "
                             f"optional system message, then user and assistant in turn")
        try:
            validate_content(role, content)
        except ValueError as e:
            raise ValueError(f"message {i + 1} ({role}): {e}") from None
    if len(messages) < first + 1:
        raise ValueError("a system message and nothing else: expected user and assistant messages")
    if need_answer and len(messages) < first + 2:
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
        raise ValueError(f"content is {type(content).__name__}, expected a string"
                         + (" or a list of parts" if role == "assistant" else ""))
    before = None
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in PART_TYPES \
                or not isinstance(part.get("text"), str):
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
        role, content = (item["role"], item.get("content")) if "role" in item else \
            (item.get("from"), item.get("value"))
        if not isinstance(role, str) or role not in ROLES:
            raise ValueError(f"message {i} has role {role!r}, expected one of "
                             f"{', '.join(ROLES)}")
        role = ROLES[role]
        # LLaMA-Factory's parts are {"type": "text", "value": ...}.
        if isinstance(content, list):
            content = [{"type": part["type"], "text": part["value"]}
                       if isinstance(part, dict) and part.keys() == {"type", "value"} else part
                       for part in content]
        # Chat APIs wrap a user's text in a list, [{"type": "text", "text": ...}]; here it is a str.
        if role != "assistant" and isinstance(content, list):
            if not all(isinstance(part, dict) and part.get("type") == "text"
                       and isinstance(part.get("text"), str) for part in content):
                raise ValueError(f"message {i} ({role}) has parts other than text")
            content = "".join(part["text"] for part in content)
        if role != "system" or content not in ("", None):
            messages.append({"role": role, "content": content})
    return messages


def said(role, content):
    return read_messages([{"role": role, "content": content}])


def speech(role, content):
    """A string that `role` says, or a list of messages -> messages."""
    return read_messages(content) if isinstance(content, list) else said(role, content)


def system_of(row):
    return said("system", row.get("system"))


def with_system(row, messages):
    """Put the row's field system in front, unless the messages begin with a system message."""
    return messages if messages and messages[0]["role"] == "system" else system_of(row) + messages


def alpaca_prompt(row):
    """Alpaca's fields but the last answer -> messages.

    The system message, the history (pairs of user and assistant), then instruction and input with
    a blank line between them.
    """
    messages = system_of(row)
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
    messages = [{"role": "user" if who == "Human" else "assistant", "content": content.strip()}
                for who, content in zip(turns[::2], turns[1::2])]
    return messages[:-1] if messages[-1] == {"role": "assistant", "content": ""} else messages


def check_media(row):
    for name in "images", "videos", "audios":
        if isinstance(row, dict) and row.get(name):
            raise ValueError(f"the row has {name}: a model here reads text only")


def is_spoken(row):
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
