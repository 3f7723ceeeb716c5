"""data/formats.py: every known format becomes the one record; every bad row gives its reason."""
import re

import pytest

from data.formats import to_conversation, to_preference, validate_conversation

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
    ({"messages": [A, U]}, "message 1 has role 'assistant', expected 'user'"),
    ({"messages": [U, U]}, "message 2 has role 'user', expected 'assistant'"),
    ({"messages": [U, A, S]}, "message 3 has role 'system', expected 'user'"),
    ({"messages": [U]}, "no assistant message"),
    ({"messages": [S]}, "a system message and nothing else"),
    ({"messages": [S, A]}, "message 2 has role 'assistant', expected 'user'"),
    ({"messages": [U, {"role": "tool", "content": "x"}]},
     "message 2 has role 'tool', expected one of"),
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
     "expected {\"type\": \"text\""),
    ({"messages": [U, {"role": "assistant", "content": [{"type": "text", "text": 3}]}]},
     "expected {\"type\": \"text\""),
    ({"messages": [U, {"role": "assistant", "content": [{"type": "python_output", "text": "3"}]}]},
     "does not follow a python"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, A]},
     "message 1 (user) has parts other than text"),
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
    ({"prompt": None, "completion": "x"}, "message 1 (user): content is NoneType"),
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
