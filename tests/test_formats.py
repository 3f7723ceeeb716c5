"""data/formats.py: every known format becomes the one record; every bad row gives its reason."""
import json
import re
import time

import pytest

from data.documents import cut_runs
from data.formats import (
    Unwanted,
    ignored_fields,
    to_conversation,
    to_preference,
    validate_conversation,
)

U = {"role": "user", "content": "Hi"}
A = {"role": "assistant", "content": "Hello"}
GO = {"role": "assistant", "content": "Go"}
S = {"role": "system", "content": "Be kind"}


# --------------------------------------------------------------------------------------------------
# Formats that are recognised

@pytest.mark.parametrize("row, messages", [
    ({"messages": [U, A]}, [U, A]),
    ({"messages": [S, U, A, U, A], "id": 3}, [S, U, A, U, A]),
    ([U, A], [U, A]),
    ({"conversations": [U, A]}, [U, A]),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
     [U, A]),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
      "system": "Be kind"}, [S, U, A]),
    ({"instruction": "Hi", "input": "", "output": "Hello"}, [U, A]),
    ({"instruction": "Hi", "output": "Hello", "system": "Be kind"}, [S, U, A]),
    ({"instruction": "Add", "input": "1 2", "output": "Hello"},
     [{"role": "user", "content": "Add\n\n1 2"}, A]),
    ({"instruction": "Hi", "output": "Hello", "history": [["Hi", "Hello"]]}, [U, A, U, A]),
    ({"prompt": "Hi", "completion": "Hello"}, [U, A]),
    ({"prompt": [S, U], "completion": [A]}, [S, U, A]),
    ({"messages": [{"role": "system", "content": ""}, U, A]}, [U, A]),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "H"},
                                                {"type": "text", "text": "i"}]}, A]}, [U, A]),
    ({"messages": [U, A, U]}, [U, A, U]),
    ({"messages": [U, A], "system": "Be kind"}, [S, U, A]),
    ({"conversations": [S, U, A], "system": "Be rude"}, [S, U, A]),
    ({"messages": [U, A], "system": ""}, [U, A]),
    ({"prompt": [S, U], "completion": "Hello", "system": "Be rude"}, [S, U, A]),
    ({"prompt": "Hi", "response": "Hello", "label": True, "images": []}, [U, A]),
    ({"messages": [{"role": role, "content": [{"type": "text", "value": "Hi"}]}
                   for role in ("user", "assistant")]},
     [U, {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}]),
])
def test_conversation_formats(row, messages):
    assert to_conversation(row)[1] == {"messages": messages}


def test_parts_stay_parts():
    parts = [
        {"type": "text", "text": "2+2="},
        {"type": "python", "text": "2+2"},
        {"type": "python_output", "text": "4"},
    ]
    row = {"messages": [U, {"role": "assistant", "content": parts}]}
    assert to_conversation(row)[1] == row


HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Hi\n\nAssistant: "


@pytest.mark.parametrize("row, before", [
    ({"chosen": [U, A], "rejected": [U, GO]}, [U]),
    ({"prompt": "Hi", "chosen": [U, A], "rejected": [U, GO], "score_chosen": 9}, [U]),
    ({"prompt": [S, U], "chosen": [A], "rejected": [GO]}, [S, U]),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}, [U]),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go", "system": "Be kind"}, [S, U]),
    ({"prompt": [U, A, U], "chosen": "Hello", "rejected": "Go", "system": "Be kind"},
     [S, U, A, U]),
    ({"instruction": "Hi", "input": "", "chosen": "Hello", "rejected": "Go", "system": "Be kind"},
     [S, U]),
    ({"conversations": [{"from": "human", "value": "Hi"}],
      "chosen": {"from": "gpt", "value": "Hello"}, "rejected": {"from": "gpt", "value": "Go"}},
     [U]),
    ({"chosen": HH + "Hello", "rejected": HH + "Go"}, [U, A, U]),
    ({"prompt": HH, "chosen": "Hello", "rejected": "Go"}, [U, A, U]),
    ({"prompt": HH, "chosen": HH + "Hello", "rejected": HH + "Go"}, [U, A, U]),
    ({"chosen": [S, U, A], "rejected": [S, U, GO]}, [S, U]),
])
def test_preference_formats(row, before):
    pair = to_preference(row)[1]
    assert pair == {"chosen": {"messages": before + [A]}, "rejected": {"messages": before + [GO]}}


# --------------------------------------------------------------------------------------------------
# Bad rows

@pytest.mark.parametrize("row, reason", [
    (5, "expected an object or a list of messages, got int"),
    ({}, "not recognised: the row has no fields; expected messages"),
    ({"text": "x"}, "not recognised: the row has the fields text; expected messages"),
    ({"text": "x"}, "This is text: it belongs to tokenizer.py and pretrain.py"),
    ({"chosen": "a", "rejected": "b"}, "belongs to dpo.py"),
    ({"chosen": A, "rejected": A, "conversations": [U]},
     "a preference pair (chosen, rejected), not a conversation"),
    ({"messages": [U, A], "label": False}, "label is false: the answer is an unwanted one"),
    ({"messages": [U, A], "images": ["a.png"]}, "the row has images: a model here reads text only"),
    ({"messages": []}, "expected a non-empty list of messages"),
    ({"messages": "Hi"}, "expected a list of messages, got str"),
    ({"messages": ["Hi"]}, "message 1 is a str"),
    ({"messages": [A]}, "message 1 has role 'assistant', expected 'user': the answer to nothing"),
    ({"messages": [A, U]}, "no answer is to be learned"),
    ({"messages": [U, U]}, "no assistant message"),
    ({"messages": [U, A | {"weight": 0}]}, "no answer is to be learned"),
    ({"messages": [U, A | {"weight": 0.5}]}, "has weight 0.5"),
    ({"messages": [U, A], "loss_weight": 2}, "has loss_weight 2"),
    ({"messages": [U, A | {"reasoning_content": "Hm"}]},
     "message 2 (assistant) has reasoning_content, which would be lost"),
    ({"question": "Which?", "choices": ["a", "b"], "answer": "A"}, "the row has choices"),
    ({"messages": [U, A | {"tool_calls": [{"name": "f", "arguments": "{"}]}]},
     "message 2 the arguments of the tool call f are neither JSON nor Python"),
    ({"messages": [U, {"role": "assistant", "tool_calls": [{"id": 1}]}]},
     "message 2 a tool call without a name"),
    ({"messages": [U | {"content": "a" + " " * 200_000 + "b"}, A]},
     "message 1 (user): more than 100,000 characters of white space in a row, from position 1 on"),
    ({"messages": [U | {"content": "<image>\nHi"}, A]}, "has a placeholder for an image"),
    ({"messages": [U, A], "mask": [0, 1]}, "has mask [0, 1]"),
    ({"messages": [U, A], "loss_mask": [0, 1]}, "has loss_mask [0, 1]"),
    ({"messages": [U, A], "weights": [1, 0]}, "has weights [1, 0]"),
    ({"messages": [U, A], "image_base64": "iVBOR"}, "the row has image_base64"),
    ({"messages": [U, A], "num_images": 2}, "the row has num_images"),
    ({"messages": [U | {"content": "<img>a.jpg</img> What?"}, A]}, "has a placeholder for an ima"),
    ({"messages": [U | {"content": "<|image_1|> What?"}, A]}, "has a placeholder for an image"),
    ({"messages": [U, A, {"role": "tool", "content": [{"type": "image_url"}]}]},
     "message 3 has a part of type image_url"),
    ({"messages": [U, A | {"channel": "analysis"}]}, "channel analysis without an answer"),
    ({"instruction": "Hi", "output": "<nooutput>"}, "output is <nooutput>"),
    ({"question": "Hi", "answer": True}, "content is bool"),
    ({"question": "Hi", "A": "x", "B": "y", "answer": "B"}, "the row has a: a question of multipl"),
    ({"Q": "Hi", "A": "x", "B": "y"}, "the row has a: a question of multiple choice"),
    ({"turns": ["What?", "And why?"]}, "turns is a list of strings, which do not say who speaks"),
    ({"premise": "a", "hypothesis": "b", "label": 0}, "not recognised: the row has the fields pre"),
    ({"prompt": "Hi", "responses": ["a", "b"]}, "not recognised: the row has the fields prompt"),
    ({"question": "Hi", "answers": {"text": ["a", "b"]}}, "answers holds 2 different"),
    ({"body": {"messages": [U]}, "custom_id": "1"}, "no assistant message"),
    ({"messages": [U, A], "rejected_response": "Go"}, "a preference pair (messages, rejected_resp"),
    ({"messages": [U, A], "image": "cat.jpg"}, "the row has image: a model here reads text only"),
    ({"messages": [U | {"image_url": "cat.jpg"}, A]}, "the row has image_url"),
    ({"messages": [U]}, "no assistant message"),
    ({"messages": [S]}, "a system message and nothing else"),
    ({"messages": [U, {"role": "tool", "content": "x"}]},
     "message 2 (tool): a tool's result without a call before it"),
    ({"messages": [U, {"role": "narrator", "content": "x"}]},
     "message 2 has role 'narrator', expected one of"),
    ({"messages": [U, {"role": ["a"], "content": "x"}]}, "message 2 has role"),
    ({"messages": [U, {"role": "assistant"}]},
     "message 2 (assistant): content is NoneType, expected a string or a list"),
    ({"messages": [{"role": "user", "content": 3}, A]},
     "message 1 (user): content is int, expected a string"),
    ({"messages": [U, {"role": "assistant", "content": " \n"}]},
     "message 2 (assistant): the content is empty"),
    ({"messages": [U, {"role": "assistant", "content": []}]},
     "message 2 (assistant): the content is empty"),
    ({"messages": [U, {"role": "assistant", "content": [{"type": "image", "text": ""}]}]},
     "message 2 has a part of type image: a model here reads text only"),
    ({"messages": [U, {"role": "assistant", "content": [{"type": "text", "text": 3}]}]},
     "expected {\"type\": \"text\""),
    ({"messages": [U, {"role": "assistant", "content": [{"type": "python_output", "text": "3"}]}]},
     "does not follow a python"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, A]},
     "message 1 has a part of type image_url: a model here reads text only"),
    ({"messages": [U, {"role": "assistant", "content": "a\ud800"}]},
     "message 2 (assistant): lone surrogate \\ud800"),
    ({"messages": [{"role": "user", "content": "a\x00"}, A]},
     "message 1 (user): NUL character at position 1"),
    ({"instruction": "Hi", "input": 5, "output": "x"}, "instruction and input must be strings"),
    ({"instruction": "Hi", "output": ""}, "message 2 (assistant): the content is empty"),
    ({"instruction": "Hi", "output": "x", "history": ["a"]},
     "history must be a list of [user, assistant] pairs"),
    ({"instruction": "Hi", "output": "x", "history": 5},
     "history must be a list of [user, assistant] pairs"),
    ({"prompt": None, "completion": "x"}, "not recognised: the row has the fields prompt, comp"),
])
def test_bad_conversations(row, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        to_conversation(row)


@pytest.mark.parametrize("row, reason", [
    ({"messages": [U, A]},
     "expected an object with the fields chosen and rejected, got the fields messages"),
    ([U, A], "got a list. These are conversations: they belong to midtrain.py and sft.py"),
    ({"prompt": "Hi", "response": "x"},
     "These are conversations: they belong to midtrain.py and sft.py"),
    ({"text": "x"},
     "got the fields text. This is text: it belongs to tokenizer.py and pretrain.py"),
    ({"prompt": "Hi", "chosen": "a", "rejected": "b", "audios": ["a.wav"]}, "the row has audios"),
    ({"chosen": "a", "rejected": "b"}, "strings without a prompt"),
    ({"chosen": [A], "rejected": [A]}, "the field prompt is missing"),
    ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "chosen and rejected are equal"),
    ({"prompt": "Hi", "chosen": "a", "rejected": None},
     "rejected must be a string or a list of messages, got NoneType"),
    ({"prompt": "Hi", "chosen": "a", "rejected": ""},
     "rejected: message 2 (assistant): the content is empty"),
    ({"chosen": [U, A], "rejected": [{"role": "user", "content": "Other"}, A]},
     "differ before their last answer"),
    ({"chosen": [U, A, U], "rejected": [U, A, U]},
     "chosen: the last message is not the assistant's"),
    ({"chosen": HH, "rejected": HH}, "chosen: the last message is not the assistant's"),
])
def test_bad_preferences(row, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        to_preference(row)


def test_prompts_alone_are_taken_only_when_asked_for():
    validate_conversation({"messages": [U]}, need_answer=False)
    assert to_conversation({"prompt": "Hi"}, need_answer=False)[1] == {"messages": [U]}
    with pytest.raises(ValueError, match="no assistant message"):
        validate_conversation({"messages": [U]})


# --------------------------------------------------------------------------------------------------
# Fields that carry meaning

@pytest.mark.parametrize("run", [" ", "\n", "\t\n", "\u00a0"])
def test_long_white_space_takes_no_longer_than_other_text(run):
    """Its square would be ten thousand million steps."""
    text = "a" + (run * 99_000)[:99_000] + "b"
    start = time.process_time()
    assert turns(U | {"content": text}, A)[0]["content"] == text
    assert turns(U, A | {"content": text})[1]["content"] == text
    said = to_conversation({"text": f"### Human: {text} ### Assistant: Hello"})[1]["messages"]
    assert said == [U | {"content": text}, A]
    with pytest.raises(ValueError, match="not recognised"):
        to_conversation({"text": text})
    assert cut_runs(text + " " + text) == [text + " " + text]
    assert time.process_time() - start < 3


def turns(*messages, **fields):
    return to_conversation({"messages": list(messages), **fields})[1]["messages"]


def test_reasoning_is_learned_or_refused_but_never_lost():
    for field in "reasoning_content", "reasoning", "thinking":
        row = {"messages": [U, A | {field: "He greets.\n"}]}
        assert to_conversation(row, reasoning=True)[1]["messages"][1]["content"] == \
            "<think>\nHe greets.\n</think>\n\nHello"
        with pytest.raises(ValueError, match="has reasoning_content, which would be lost"):
            to_conversation(row)
        assert turns(U, A | {field: ""}) == turns(U, A | {field: None}) == [U, A]
    row = {"Question": "Hi", "Complex_CoT": "He greets.", "Response": "Hello"}
    assert "He greets.\\n</think>" in str(to_conversation(row, reasoning=True))
    with pytest.raises(ValueError, match="has reasoning_content"):
        to_conversation(row)
    # What nobody learns needs no flag.
    assert to_conversation(row, need_answer=False)[1]["messages"] == [U]
    assert to_conversation({"messages": [U, A | {"reasoning": "Hm"}]}, need_answer=False)[1] == {
        "messages": [U, A]}
    pair = {"prompt": "Hi", "chosen": [A | {"reasoning_content": "good"}],
            "rejected": [A | {"reasoning_content": "bad"}]}
    with pytest.raises(ValueError, match="equal but for their reasoning_content"):
        to_preference(pair)
    _, record = to_preference(pair, reasoning=True)
    assert record["chosen"] != record["rejected"]


def test_reasoning_in_other_places_is_learned_or_refused():
    wanted = turns_of_reasoning({"messages": [U, A | {"reasoning": "He greets."}]})
    assert "He greets." in str(wanted)
    for answer in ([A | {"reasoning_content": ["He greets."]}],
                   [A | {"reasoning": {"content": "He greets."}}],
                   [A | {"reasoning_details": [{"type": "reasoning.text", "text": "He greets."}]}],
                   [A | {"thoughts": "He greets."}], [A | {"Thinking_Content": "He greets."}],
                   [A | {"content": "He greets.", "channel": "analysis"},
                    A | {"channel": "final"}]):
        row = {"messages": [U, *answer]}
        assert turns_of_reasoning(row) == wanted
        with pytest.raises(ValueError, match="has reasoning_content, which would be lost"):
            to_conversation(row)


def turns_of_reasoning(row):
    return to_conversation(row, reasoning=True)[1]["messages"]


@pytest.mark.parametrize("mark", [
    {"Weight": 0}, {"Train": False}, {"loss_mask": 0}, {"should_train": False}, {"train_on": "no"},
    {"calculate_loss": 0}, {"supervised": False}, {"masked": True}, {"is_masked": 1},
    {"ignore": "true"}, {"no_train": True}, {"label": False}, {"thumbs_up": 0}])
def test_other_marks_of_what_is_not_learned(mark):
    unlearned = GO | {"learn": False}
    assert turns(U, GO | mark, U, A) == [U, unlearned, U, A]
    assert ignored_fields({"messages": [U, GO | mark, U, A]}) == set()
    # The opposite mark changes nothing.
    name, value = next(iter(mark.items()))
    on = name.lower() not in ("masked", "is_masked", "ignore", "no_train")
    assert turns(U, GO | {name: on}, U, A) == [U, GO, U, A]


def test_calls_of_glaive_and_toolace():
    glaive = ("USER: Hi\n\n\nASSISTANT: <functioncall> "
              "{\"name\": \"f\", \"arguments\": '{\"a\": 1}'} <|endoftext|>\n\n\n"
              "FUNCTION RESPONSE: {\"b\": 2}\n\n\nASSISTANT: Hello <|endoftext|>")
    parts = [{"type": "python", "text": "f(a=1)"},
             {"type": "python_output", "text": '{"b": 2}'},
             {"type": "text", "text": "Hello"}]
    messages = [S, U, {"role": "assistant", "content": parts}]
    assert to_conversation({"system": "SYSTEM: Be kind", "chat": glaive})[1]["messages"] == messages
    assert turns(S, U, {"role": "assistant", "content": "[f(a=1)]"},
                 {"role": "tool", "content": {"b": 2}}, A) == messages


def test_tools_join_the_system_message():
    tools = [{"name": "f"}]
    text = 'Tools:\n{"name": "f"}'
    assert turns(U, A, tools=tools) == [{"role": "system", "content": text}, U, A]
    for messages in turns(S, U, A, tools=json.dumps(tools)), turns(S | {"tools": tools}, U, A):
        assert messages == [S | {"content": "Be kind\n\n" + text}, U, A]
    said = S | {"content": "<tools>[{}]</tools>"}
    assert turns(said, U, A, tools=tools) == [said, U, A]
    assert turns(U, A, tools="[]") == turns(U, A, tools=None) == [U, A]


@pytest.mark.parametrize("mark", [
    {"label": False}, {"kto_tag": 0}, {"label": "False"}, {"kto_tag": "false"},
    {"desirable": False}, {"label": -1}, {"label": "rejected"}, {"Label": "bad"},
    {"kto_label": False}, {"is_good": 0}, {"thumbs_up": False}, {"feedback": "negative"},
    {"is_preferred": False}, {"chosen": False}, {"is_correct": False}, {"correct": "False"}])
def test_unwanted_answers_are_told_apart_from_bad_rows(mark):
    with pytest.raises(Unwanted):
        turns(U, A, **mark)
    for good in {name: 1 for name in mark}, {name: True for name in mark}:
        assert turns(U, A, **good) == [U, A]
        assert ignored_fields({"messages": [U, A], **good}) == set()
    # The prompt is as good as any other.
    assert to_conversation({"prompt": "Hi", **mark}, need_answer=False)[1] == {"messages": [U]}


def test_ignored_fields_are_named():
    assert ignored_fields({"messages": [U | {"name": "x", "time": 3}, A], "tools": [], "id": 7,
                           "empty": "", "null": None}) == {"time", "id"}
    assert ignored_fields({"query": "Hi", "response": "x", "original_question": "y"}) == \
        {"original_question"}
    assert ignored_fields({"prompt": "Hi", "chosen": "a", "rejected": "b", "rating": [1, 2]}) == \
        {"rating"}
    assert ignored_fields({"messages": [U | {"train": True, "weight": 0}, A]}) == {"train"}
    assert ignored_fields([U, A]) == ignored_fields({"messages": [U, A], "label": True}) == set()
    assert ignored_fields({"instruction": "a", "context": "b", "response": "c"}) == set()
    assert ignored_fields({"text": "a", "url": "b"}) == {"url"}
    # A label that is neither good nor bad, and one beside a pair.
    assert ignored_fields({"prompt": "Hi", "response": "x", "label": 3}) == {"label"}
    assert ignored_fields({"prompt": "Hi", "chosen": "a", "rejected": "b", "label": 0}) == {"label"}
    # The system message of the messages counts.
    assert ignored_fields({"messages": [S, U, A], "system": "Be rude"}) == {"system"}
    assert ignored_fields({"messages": [S, U, A], "system": "Be kind"}) == set()
    assert ignored_fields({"prompt": U | {"replies": [A]}, "completion": [A]}) == {"replies"}
    assert ignored_fields({"body": {"messages": [U], "model": "m"}, "custom_id": "1"}) == \
        {"model", "custom_id"}


@pytest.mark.parametrize("row", [
    {"instruction": "Hi", "context": "", "response": "Hello", "category": "qa"},
    {"question": "Hi", "response": "Hello", "id": "1"},
    {"query": "Hi", "response": "Hello", "type": "x", "original_question": "Hi"},
    {"question": "Hi", "answer": "Hello"},
    {"problem": "Hi", "solution": "Hello"},
    {"input": "Hi", "output": "Hello"},
    {"inputs": "Hi", "targets": "Hello"},
    {"instruction": "Hi", "generation": "Hello"},
    {"conversation": [U, A], "turn": 1},
    {"conversation": [{"input": "Hi", "output": "Hello"}]},
    {"conversation": [{"human": "Hi", "assistant": "Hello"}]},
    {"conversations": ["Hi", "Hello"]},
    {"conversations": [["Hi", "Hello"]]},
    {"conversations": {"from": ["human", "gpt"], "value": ["Hi", "Hello"]}},
    {"conversations": json.dumps([U, A])},
    {"conversations": repr([U, A])},
    {"dialog": ["Hi", "Hello"]},
    {"chat": "USER: Hi\n\n\nASSISTANT: Hello <|endoftext|>"},
    {"text": "### Human: Hi### Assistant: Hello"},
    {"contents": [{"role": "user", "parts": [{"text": "Hi"}]},
                  {"role": "model", "parts": [{"text": "Hello"}]}]},
    {"messages": [{"role": "prompter", "text": "Hi"}, {"role": "Assistant", "text": "Hello"}]},
    {"Instruction": "Hi", "Input": "", "Output": "Hello"},
    {"input": [U], "output": "Hello", "reasoning": "off"},
    {"messages": None, "prompt": "Hi", "completion": "Hello", "chosen": None, "rejected": None},
    {"user": "Hi", "assistant": "Hello"},
    {"Human": "Hi", "Assistant": "Hello"},
    {"Context": "Hi", "Response": "Hello"},
    {"Q": "Hi", "A": "Hello"},
    {"conversation": {"messages": [U, A]}},
    {"question": "Hi", "answer": "Hello", "positive": 3, "negative": 1, "chosen": True,
     "rejected": False},
    {"messages": [U, A], "rejected": "no"},
    {"messages": [U, {"role": "Chatbot", "content": "Hello"}]},
    {"instruction": "Hi", "output": ["Hello"]},
    {"question": "Hi", "answers": {"text": ["Hello", "Hello"], "answer_start": [3, 3]}},
    {"instruction": "Hi", "input": float("nan"), "output": "Hello"},
    {"instruction": "Hi", "input": "<noinput>", "output": "Hello"},
    {"instruction": "Hi", "input": "None", "output": "Hello", "history": "[]"},
    {"row": {"messages": [U, A]}, "row_idx": 0},
    {"messages": [json.dumps(U), json.dumps(A)]},
    {"messages": [{"Role": "User ", "Content": "Hi"}, {"Role": " GPT", "Content": "Hello"}]},
    {"messages": [{"type": "human", "content": "Hi"}, {"type": "ai", "content": "Hello"}]},
    {"messages": [{"type": "human", "data": {"content": "Hi"}},
                  {"type": "ai", "data": {"content": "Hello"}}]},
    {"messages": [{"author": {"role": "user"}, "content": {"parts": ["Hi"]}},
                  {"author": {"role": "assistant"}, "content": {"parts": ["Hello"]}}]},
    {"messages": [{"sender": "user", "text": "Hi"}, {"sender": "bing", "text": "Hello"}]},
    {"messages": [S | {"content": " "}, U, A]},
    {"prompt": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
     "completion": "Hello<|im_end|>\n"},
    {"text": "[INST] Hi [/INST] Hello</s>"},
    {"text": "<｜User｜>Hi<｜Assistant｜>Hello<｜end▁of▁sentence｜>"},
    {"text": "<human>: Hi\n<bot>: Hello"},
    {"text": "<|prompter|>Hi<|endoftext|><|assistant|>Hello<|endoftext|>"},
])
def test_other_names_of_fields(row):
    _, record = to_conversation(row)
    messages = [message if isinstance(message["content"], str)
                else message | {"content": message["content"][0]["text"]}
                for message in record["messages"]]
    assert messages == [U, A]


@pytest.mark.parametrize("field", ["system_prompt", "systemPrompt", "systemInstruction",
                                   "system_instruction", "System"])
@pytest.mark.parametrize("value", ["Be kind", {"parts": [{"text": "Be kind"}]},
                                   {"role": "system", "content": "Be kind"}])
def test_system_messages_beside_the_messages(field, value):
    assert turns(U, A, **{field: value}) == [S, U, A]
    assert ignored_fields({"messages": [U, A], field: value}) == set()


def test_numbers_and_earlier_turns_in_other_forms():
    assert turns_of({"question": "Hi", "answer": 4}) == [U, A | {"content": "4"}]
    for history in [U, A], [["Hi", "Hello"]], json.dumps([["Hi", "Hello"]]):
        assert turns_of({"instruction": "Hi", "output": "Hello", "history": history}) == \
            [U, A, U, A]


def turns_of(row):
    return to_conversation(row)[1]["messages"]


def test_tools_under_other_names_and_the_calls_of_other_models():
    tools = [{"name": "f"}]
    system = {"role": "system", "content": 'Tools:\n{"name": "f"}'}
    for field in "functions", "available_tools", "tool_list":
        assert turns(U, A, **{field: tools}) == [system, U, A]
    calls = json.dumps([{"name": "f", "arguments": {"a": 1}}])
    part = {"type": "python", "text": "f(a=1)"}
    answer = {"role": "assistant", "content": [part]}
    assert turns_of({"query": "Hi", "answers": calls, "tools": tools}) == [system, U, answer]
    assert turns(U, A | {"tool_calls": "null"}) == [U, A]
    assert turns(U, {"role": "tool_calls", "content": calls}) == [U, answer]
    two = [part, {"type": "python_output", "text": "2"}, {"type": "text", "text": "Hello"}]
    for call, result in [
            ({"type": "function_call", "name": "f", "arguments": '{"a": 1}', "call_id": "c1"},
             {"type": "function_call_output", "call_id": "c1", "output": "2"}),
            ({"role": "assistant", "channel": "commentary", "recipient": "functions.f",
              "content": '{"a": 1}'}, {"role": "tool", "name": "functions.f", "content": "2"})]:
        assert turns(U, call, result, A) == [U, {"role": "assistant", "content": two}]
        assert ignored_fields({"messages": [U, call, result, A]}) == set()
    result = {"type": "python_output", "text": "2"}
    for text in ("[TOOL_CALLS] " + calls, '<|python_tag|>{"name": "f", "parameters": {"a": 1}}',
                 '<function=f>{"a": 1}</function>'):
        for role in "tool", "tool_results", "environment":
            assert turns(U, A | {"content": text}, {"role": role, "content": "2"}, A) == [
                U, {"role": "assistant", "content": [part, result, {"type": "text",
                                                                    "text": "Hello"}]}]


@pytest.mark.parametrize("row", [
    {"question": "Hi", "chosen": "Hello", "rejected": "Go", "system": ""},
    {"messages": [U, A], "rejected_response": "Go"},
    {"messages": [U, A], "rejected_messages": [U, GO]},
    {"messages": [U, A], "chosen": [A], "rejected": [GO]},
    {"prompt": "Hi", "chosen": ["Hello"], "rejected": ["Go"]},
    {"prompt": "Hi", "chosen": {"text": "Hello"}, "rejected": {"text": "Go"}},
    {"prompt": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
     "chosen": "Hello<|im_end|>", "rejected": "Go"},
    {"Prompt": "Hi", "good": "Hello", "bad": "Go"},
    {"input": "Hi", "chosen": "Hello", "rejected": "Go", "system": "", "rating": [9, 2]},
    {"prompt": "Hi", "chosen_response": "Hello", "rejected_response": "Go"},
    {"question": "Hi", "response_j": "Hello", "response_k": "Go"},
    {"prompt": "Hi", "response_0": "Go", "response_1": "Hello", "better_response_id": 1},
    {"conversation_a": [U, GO], "conversation_b": [U, A], "winner": "model_b"},
    {"input": {"messages": [U], "tools": []}, "preferred_output": [A],
     "non_preferred_output": [GO]},
    {"prompt": None, "chosen": [U, A], "rejected": [U, GO]},
    {"chosen": "### Human: Hi### Assistant: Hello", "rejected": "### Human: Hi### Assistant: Go"},
])
def test_other_names_of_pairs(row):
    assert to_preference(row)[1] == {"chosen": {"messages": [U, A]},
                                     "rejected": {"messages": [U, GO]}}
    with pytest.raises(ValueError, match="belongs to dpo.py"):
        to_conversation(row)
