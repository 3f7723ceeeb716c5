"""
The formats in which people have conversations and preference pairs. Each row is recognised by
itself and turned into the one record that the stages read.

Below, `messages` stands for a list of role/content or from/value objects, for a list of strings
that user and assistant say in turn, or for a transcript (data/transcripts.py).

Conversations
  messages alone, or in one of the fields LISTS
  one of the fields PROMPTS and one of ANSWERS, each a string or messages: Alpaca, Dolly, OpenOrca,
      MetaMathQA, TRL; optional: a field of SYSTEM, "input" or "context", "history"
  two fields of SPEAKERS, each a string: {"user", "assistant"}
  {"text": transcript}
  any of these in one of the fields WITHIN: {"body": {"messages"}}
Preference pairs
  two fields of PAIRS, each a whole conversation (messages), or an answer to what the same fields
      as above ask; OpenAI's {"input": {"messages"}, "preferred_output", "non_preferred_output"}
  messages that end with the chosen answer, and one of the fields REJECTED (ms-swift)
  {"prompt", "response_0", "response_1", "better_response_id"} (PKU-SafeRLHF)
  {"conversation_a", "conversation_b", "winner"} (LMSYS arena)

Fields that carry meaning, beside those of messages (data/messages.py)
  tools of a row or message: join the system message
  label, kto_tag, ... that is false or "rejected", is_correct, ... that is false: Unwanted, an
      answer that is not to be learned (KTO)
  weight, train, ... of a row: as of a message. Options of multiple choice: bad
"""
import json
import re
from itertools import takewhile

from data.messages import (
    LEARN,
    MESSAGE_FIELDS,
    NOT_LEARNED,
    REASONING,
    ROLES,
    UNWANTED,
    WHAT,
    WHO,
    check_media,
    first_of,
    in_lower_case,
    is_learned,
    is_off,
    is_on,
    is_unwanted,
    learns,
    present,
    read_messages,
    settle_reasoning,
    take_turns,
    thoughts_of,
    validate_content,
    without_reasoning,
)
from data.tool_calls import describe_tools, read_calls
from data.transcripts import is_transcript, without_end

ROW_REASONING = (*REASONING, "complex_cot", "rationale")
# The same of a whole row. There the other names may hold what somebody measured: of them only 0
# and false count.
LEARN_ROW = ("weight", "weights", "loss_weight", "sample_weight", "train")
# The fields of a row. Where several of one kind are there, the first of them counts.
LISTS = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns", "data",
         "contents")
PROMPTS = ("prompt", "instruction", "question", "query", "problem", "input", "inputs")
ANSWERS = ("completion", "response", "output", "answer", "solution", "generated_solution",
           "generation", "target", "targets", "answers", "responses", "outputs", "completions",
           "generations")
SPEAKERS = (("user", "assistant"), ("human", "assistant"), ("human", "bot"), ("user", "bot"),
            ("context", "response"), ("request", "response"), ("instruct", "answer"), ("q", "a"),
            ("inputs_pretokenized", "targets_pretokenized"))
SYSTEM = ("system", "system_prompt", "system_message", "systemprompt", "system_instruction",
          "systeminstruction")
TOOLS = ("tools", "functions", "available_tools", "tool_list")
# What holds a row within a row, as in the files of batch interfaces.
WITHIN = ("row", "item", "body", "request", "data", "example", "conversation", "chat", "dialog")
PAIRS = (("chosen", "rejected"), ("chosen_response", "rejected_response"),
         ("response_chosen", "response_rejected"), ("preferred_output", "non_preferred_output"),
         ("preferred", "dispreferred"), ("response_j", "response_k"), ("accepted", "rejected"),
         ("chosen", "reject"), ("accept", "reject"), ("better", "worse"), ("positive", "negative"),
         ("chosen_answer", "rejected_answer"), ("preferred_response", "rejected_response"),
         ("good", "bad"))
# Beside messages that end with the chosen answer.
REJECTED = ("rejected_response", "rejected_messages", "rejected")
# False in these: an answer that nobody wants. They may hold other things than true and false.
WRONG = ("is_correct", "correct", "chosen", "preferred", "accepted")
# What files have for an input that is none.
NOTHING = {"<noinput>", "<no input>", "noinput", "no input", "none", "null", "nan", "n/a",
           "<nooutput>"}
OPTIONS = ("choices", "options")
# What distill.py and chat.py --batch write beside the messages.
OURS = {"ended", "teacher", "finish", "tokens", "made_by", "continues", "letters", "subject"}


class Unwanted(ValueError):
    """A row whose answer is marked as one that nobody wants (KTO): left out, and no error."""


def to_conversation(row, need_answer=True, reasoning=False):
    """A parsed JSON row -> (name of the format, conversation); ValueError with the reason.

    need_answer=False also takes prompts that nobody has answered. Nothing is learned from the row
    then: the reasoning and an answer in a field of its own are left out.
    reasoning: learn it in front of the answer; otherwise it makes a row bad.
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
    row = unwrap(row)
    if pair_fields(row):
        raise ValueError(f"a preference pair ({', '.join(pair_fields(row))}), not a conversation: "
                         f"it belongs to dpo.py")
    if need_answer and is_spoken(row):
        check_wanted(row)

    field = first_of(LISTS, row)
    prompt = first_of(PROMPTS, row)
    answer = answer_field(row)
    if field:
        kind = {"conversations": "conversations (ShareGPT)"}.get(field, field)
        kind = "messages (bare list)" if bare_list else kind
        if field == "turns" and is_list_of_strings(row[field]):
            # MT-Bench has the questions of one user there.
            raise ValueError("turns is a list of strings, which do not say who speaks: expected "
                             "objects with role and content")
        messages = read_messages(row[field])
    elif prompt and answer:
        kind = {("instruction", "output"): "instruction/output (Alpaca)"}.get(
            (prompt, answer), f"{prompt}/{answer}")
        check_options(row)
        messages = prompt_of(row)
        if need_answer:
            messages += answer_of(row, answer)
            if thoughts := thoughts_of(row.get(first_of(ROW_REASONING, row))):
                messages[-1] = messages[-1] | {"reasoning": thoughts}
    elif speakers(row):
        check_options(row)
        kind = "/".join(speakers(row))
        asked, answered = speakers(row)
        messages = said("user", row[asked])
        if need_answer:
            messages += said("assistant", row[answered])
    elif is_transcript(row.get("text")):
        kind = "text (transcript)"
        messages = read_messages(row["text"])
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
    record = {"messages": take_turns(messages, row_learns(row))}
    validate_conversation(record, need_answer)
    return kind, record


def to_preference(row, reasoning=False):
    """A parsed JSON row -> (name of the format, {"chosen": conversation, "rejected": ...}).

    ValueError with the reason.
    """
    if isinstance(row, dict):
        row = as_chosen_and_rejected(unwrap(row))
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
    names = pair_fields(row)
    if names and names[0] in LISTS:
        better = row[names[0]]
        worse = row[names[1]]
        last = better[-1] if isinstance(better, list) and better else None
        if not isinstance(last, dict) or ROLES.get(str(role_of(last)).lower()) != "assistant":
            raise ValueError(f"{names[0]} do not end with the answer that is better than that in "
                             f"{names[1]}")
        if isinstance(worse, str):
            worse = [*better[:-1], {"role": "assistant", "content": worse}]
        row = {name: row[name] for name in row if name not in names}
        return row | {"chosen": better, "rejected": worse}
    return row


def read_side(row, side):
    """The field chosen or rejected -> (name of the format, messages from prompt to answer)."""
    answer = row[side]
    names = "/".join(pair_fields(row))
    if isinstance(answer, dict):
        answer = [answer if role_of(answer) else answer | {"role": "assistant"}]
    if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], str):
        answer = answer[0]
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
        messages = read_messages(answer)
    elif has_prompt(row):
        kind = f"prompt, {names} (strings)"
        messages = prompt_of(row) + said("assistant", ended(answer, row))
    elif is_transcript(answer):
        kind = f"{names} (transcripts)"
        messages = read_messages(answer)
    else:
        raise ValueError("chosen and rejected are strings without a prompt, and no transcripts "
                         "that begin with a blank line and 'Human:'")
    return kind, with_system(row, messages)


def finish_side(messages, row, side, reasoning):
    """The messages of one side -> its turns; ValueError unless they end with an answer."""
    try:
        messages = take_turns(settle_reasoning(messages, reasoning), row_learns(row))
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


# --------------------------------------------------------------------------------------------------
# Pieces of the formats

def unwrap(row):
    """A row with its fields in lower case, and with those of the row that one of them holds."""
    row = in_lower_case(row)
    if has_prompt({name: row[name] for name in row if name not in WITHIN}):
        return row
    for field in WITHIN:
        inner = row.get(field)
        if isinstance(inner, dict):
            inner = in_lower_case(inner)
            if has_prompt(inner) or is_spoken(inner) or pair_fields(inner):
                return {name: row[name] for name in row if name != field} | inner
    return row


def role_of(message):
    message = in_lower_case(message)
    return message.get(first_of(WHO, message))


def is_list_of_strings(value):
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def speakers(row):
    """The two of SPEAKERS that a row has, each with a string; () for none."""
    for names in SPEAKERS:
        if all(isinstance(row.get(name), str) for name in names):
            return names
    return ()


def answer_field(row):
    """The field of a row's answer; None for none, and for a list of several to choose from."""
    field = first_of(ANSWERS, row)
    answer = row.get(field)
    if isinstance(answer, list) and len(answer) > 1 and not all(
            isinstance(item, dict) and role_of(item) for item in answer):
        return None
    return field


def answer_of(row, field):
    """What a field of ANSWERS holds -> messages."""
    answer = row[field]
    if first_of(TOOLS, row) and field == "answers":
        # xLAM has the calls there.
        return [{"role": "assistant", "content": read_calls(answer)}]
    if isinstance(answer, dict) and isinstance(answer.get("text"), list):
        # SQuAD has one answer or more, and where each of them stands.
        answer = sorted(set(map(str, answer["text"])))
        if len(answer) > 1:
            raise ValueError(f"{field} holds {len(answer)} different ones: which is to be learned?")
    if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], str):
        answer = answer[0]
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = str(answer)
    if isinstance(answer, str) and answer.strip().lower() == "<nooutput>":
        raise ValueError(f"{field} is {answer.strip()}: there is nothing to learn")
    return speech("assistant", ended(answer, row))


def ended(answer, row):
    """An answer without the marker that ends it, if its prompt is a transcript with markers."""
    is_marked = isinstance(answer, str) and is_transcript(row.get(first_of(PROMPTS, row)))
    return without_end(answer) if is_marked else answer


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

    If the messages begin with system messages, those count. The tools stand behind them.
    """
    if not (messages and messages[0]["role"] == "system"):
        system = row.get(first_of(SYSTEM, row))
        if isinstance(system, dict):
            system = system.get(first_of(WHAT, system))
        if isinstance(system, str):
            # Glaive's field says it twice.
            system = re.sub(r"^\s*SYSTEM:\s*", "", system)
        messages = said("system", system) + messages
    tools = [describe_tools(item[name]) for item in [row, *messages] for name in TOOLS
             if item.get(name)]
    messages = [{key: value for key, value in message.items() if key != "tools"}
                for message in messages]
    system = [message["content"]
              for message in takewhile(lambda message: message["role"] == "system", messages)]
    # Hermes has the same tools in the system message and in a field.
    if tools and all(isinstance(text, str) and "<tools>" not in text for text in system):
        text = "\n\n".join(piece for piece in [*system, *tools] if piece)
        messages[:len(system)] = [{"role": "system", "content": text}] if text else []
    return messages


def with_default_system(row, system):
    """A parsed JSON row that has this system message, unless its fields or messages have one."""
    if isinstance(row, list):
        row = {"messages": row}
    if not system or not isinstance(row, dict):
        return row
    row = in_lower_case(row)
    if row.get(first_of(SYSTEM, row)):
        return row
    return {name: row[name] for name in row if name not in SYSTEM} | {"system": system}


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
        messages = read_messages(row[listed])
        # A whole conversation: its answer is one that is also compared.
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        return messages
    messages = history_of(row)
    question = row[field]
    if is_transcript(question):
        return messages + read_messages(question)
    context = first_of(("input", "context"), row)
    # A prompt is whole: what stands beside it was put into it.
    nothing = str(row.get(context)).strip().lower() in NOTHING
    if field not in ("prompt", "input", "inputs") and context and row[context] and not nothing:
        if not isinstance(row[context], str) or not isinstance(question, str):
            raise ValueError(f"{field} and {context} must be strings")
        question = f"{question}\n\n{row[context]}" if question else row[context]
    return messages + speech("user", question)


def history_of(row):
    """The field history: pairs of user and assistant, or messages, or either as JSON."""
    history = row.get("history") or []
    try:
        if isinstance(history, str):
            history = json.loads(history)
        if any(not isinstance(turn, (dict, list)) for turn in history):
            raise ValueError
        if any(isinstance(turn, list) and len(turn) != 2 for turn in history):
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError("history must be a list of [user, assistant] pairs, or of "
                         "messages") from None
    messages = []
    for turn in history:
        if isinstance(turn, dict):
            messages += read_messages([turn])
        else:
            messages += said("user", turn[0]) + said("assistant", turn[1])
    return messages


def has_prompt(row):
    return bool(first_of(PROMPTS, row) or first_of(LISTS, row))


def pair_fields(row):
    """The names of the two answers in a row of preferences, () in any other row."""
    if isinstance(row, dict):
        row = in_lower_case(row)
        for names in PAIRS:
            # In a .parquet file of many kinds all rows have the fields, and most are null.
            if row.keys() >= set(names) and any(isinstance(row[name], (str, list, dict))
                                                for name in names):
                return names
        for names in ("response_0", "response_1", "better_response_id"), \
                     ("conversation_a", "conversation_b", "winner"):
            if row.keys() >= set(names):
                return names
        listed = first_of(LISTS, row)
        rejected = first_of(REJECTED, row)
        worse = row.get(rejected)
        if listed and worse and isinstance(worse, (str, list)) and not (is_on(worse)
                                                                        or is_off(worse)):
            return listed, rejected
    return ()


def row_learns(row):
    """Is the row to be learned, as far as its own fields say?"""
    return learns({name: row[name] for name in row
                   if name in LEARN_ROW or name in NOT_LEARNED
                   or (name in LEARN and (is_off(row[name]) or isinstance(row[name], list)))})


def check_wanted(row):
    """Unwanted if the answer is marked so, as in KTO: {"label": false}, {"kto_tag": "False"}."""
    for field in row:
        if ((field in UNWANTED and is_unwanted(row[field]))
                or (field in WRONG and is_false(row[field]))):
            raise Unwanted(f"{field} is {json.dumps(row[field])}: the answer is an unwanted one "
                           f"(KTO), not one to learn")


def check_options(row):
    """A letter alone says nothing without the options that it stands for."""
    # MMLU in tables has the options in columns of their own.
    for name in (*OPTIONS, *("ab" if row.get("a") and row.get("b") else "")):
        if row.get(name):
            raise ValueError(f"the row has {name}: a question of multiple choice without its "
                             f"options would be learned. Write them into the question")


def is_false(value):
    return str(value).lower() == "false"


def is_spoken(row):
    """Does the row have the fields of a conversation?"""
    if not isinstance(row, dict):
        return False
    row = in_lower_case(row)
    return bool(first_of(LISTS, row) or (first_of(PROMPTS, row) and answer_field(row))
                or speakers(row) or is_transcript(row.get("text")))


def other_stage(row):
    """The end of a reason: which scripts a row of another kind belongs to, "" if nobody knows."""
    if isinstance(row, list) or is_spoken(row):
        return ". These are conversations: they belong to midtrain.py and sft.py"
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        return (". This is text: it belongs to tokenizer.py and pretrain.py (a transcript would "
                "begin with ### Human: or the like)")
    return ""


def ignored_fields(row, need_answer=True):
    """The names of a row's and of its messages' fields that nothing reads, without nulls.

    need_answer: as to_conversation has it.
    """
    if not isinstance(row, dict):
        row = {"messages": row if isinstance(row, list) else []}
    row = present(unwrap(row))
    sides = pair_fields(row)
    listed = first_of(LISTS, row)
    prompt = first_of(PROMPTS, row)
    answer = answer_field(row)
    read = {*LEARN_ROW, *OURS, *TOOLS, first_of(SYSTEM, row)}
    read |= {name for name in LEARN if name in row and is_off(row[name])}
    read |= {name for name in NOT_LEARNED
             if name in row and (is_on(row[name]) or is_off(row[name]))}
    if sides:
        read |= {*sides, "response_0", "response_1", "conversation_a", "conversation_b"}
    else:
        # Another label than a good or a bad one is a class.
        read |= {name for name in UNWANTED
                 if name in row and (is_on(row[name]) or is_unwanted(row[name]))}
        read |= {name for name in WRONG if name in row and is_on(row[name])}
    if listed and not (sides and prompt):
        read.add(listed)
        if system_of_messages(row[listed]) not in ("", row.get(first_of(SYSTEM, row))):
            read -= set(SYSTEM)
    elif prompt and (sides or answer or not speakers(row)):
        read |= {prompt, "history"}
        if prompt not in ("prompt", "input", "inputs"):
            read.add(first_of(("input", "context"), row))
        if not sides and need_answer:
            read |= {answer, first_of(ROW_REASONING, row)}
    else:
        read |= set(speakers(row)[:2 if need_answer else 1]) or {"text"}
    if is_transcript(row.get("text")) and not listed:
        read.add("text")
    names = [name for name, value in row.items() if name not in read and value not in ("", [], {})]
    for field in read & {listed, prompt, answer, *sides}:
        for item in listed_objects(row.get(field)):
            item = present(in_lower_case(item))
            if first_of(WHO, item):
                spoken = ROLES.get(str(item[first_of(WHO, item)]).lower()) != "user"
                names += [name for name, value in item.items()
                          if value not in ("", [], {}) and not is_read(name, value, spoken)]
    return set(map(str, names))


def listed_objects(value):
    """A list of messages, or one message -> its objects."""
    value = [value] if isinstance(value, dict) else value
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def system_of_messages(messages):
    """The system message in front of a row's messages, as it stands there, "" for none."""
    first = [in_lower_case(item) for item in listed_objects(messages)[:1]]
    if first and ROLES.get(str(role_of(first[0])).lower()) == "system":
        return first[0].get(first_of(WHAT, first[0])) or ""
    return ""


def is_read(name, value, spoken):
    """Is a field of a message read? spoken: by another than the user, who is never learned."""
    if name in UNWANTED:
        return is_off(value) or is_on(value)
    # What a user says is never learned, whatever its weight.
    if name in LEARN and is_on(value):
        return spoken
    return name in MESSAGE_FIELDS


def fields(row):
    return "the fields " + ", ".join(map(str, row)) if row else "no fields"
