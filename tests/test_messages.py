"""data/messages.py: messages in any shape and order become turns; marks say what is learned."""
import json
from pathlib import Path

import pytest

from data.check import find_tokenizer
from data.formats import to_conversation

U = {"role": "user", "content": "Hi"}
A = {"role": "assistant", "content": "Hello"}
GO = {"role": "assistant", "content": "Go"}
S = {"role": "system", "content": "Be kind"}


def turns(*messages, **fields):
    return to_conversation({"messages": list(messages), **fields})[1]["messages"]


@pytest.mark.parametrize("mark", [
    {"weight": 0}, {"train": False}, {"loss_weight": 0.0}, {"mask": "0"}, {"training": "False"},
    {"loss": False}, {"learn": False}])
def test_a_turn_with_weight_0_is_context(mark):
    on = {name: not value if value in (0, False) else 1 for name, value in mark.items()}
    messages = turns(U, A | mark, U, GO | on)
    assert messages == [U, A | {"learn": False}, U, GO]
    # It stays so when the record is read again.
    assert turns(*messages) == messages
    tok, _ = find_tokenizer(Path("no-such"))
    ids, mask = tok.render_conversation({"messages": messages})
    assert tok.decode([id for id, learn in zip(ids, mask) if learn]) == "Go<|assistant_end|>"
    with pytest.raises(ValueError, match="no answer is to be learned"):
        turns(U, A | mark)
    with pytest.raises(ValueError, match="no answer is to be learned"):
        turns(U, A, **mark)


def test_a_turn_of_two_messages_is_learned_where_it_is_marked():
    call = {"role": "assistant", "weight": 0, "tool_calls": [{"name": "f", "id": "a"}]}
    messages = turns(U, call, {"role": "tool", "content": "3"}, A)
    assert messages[1]["content"] == [{"type": "python", "text": "f()", "learn": False},
                                      {"type": "python_output", "text": "3"},
                                      {"type": "text", "text": "Hello"}]
    tok, _ = find_tokenizer(Path("no-such"))
    ids, mask = tok.render_conversation({"messages": messages})
    assert tok.decode([id for id, learn in zip(ids, mask) if learn]) == "Hello<|assistant_end|>"
    assert turns(*messages) == messages


def test_tool_calls_and_results_become_parts():
    weather = {"name": "weather", "arguments": '{"city": "Paris"}'}
    openai = [U, {"role": "assistant", "content": None,
                  "tool_calls": [{"id": "a", "function": weather},
                                 {"id": "b", "function": {"name": "now", "arguments": ""}}]},
              {"role": "tool", "tool_call_id": "b", "content": "noon"},
              {"role": "tool", "tool_call_id": "a", "content": "18 C"}, A]
    expected = [U, {"role": "assistant", "content": [
        {"type": "python", "text": "weather(city='Paris')"},
        {"type": "python_output", "text": "18 C"},
        {"type": "python", "text": "now()"},
        {"type": "python_output", "text": "noon"},
        {"type": "text", "text": "Hello"}]}]
    assert turns(*openai) == expected
    anthropic = [U, {"role": "assistant", "content": [
                     {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Paris"}},
                     {"type": "tool_use", "id": "b", "name": "now", "input": {}}]},
                 {"role": "user", "content": [
                     {"type": "tool_result", "tool_use_id": "a", "content": "18 C"},
                     {"type": "tool_result", "tool_use_id": "b", "content": "noon"}]}, A]
    assert turns(*anthropic) == expected
    hermes = [U, {"role": "assistant", "content": "<tool_call>" + json.dumps(
                      {"name": "weather", "arguments": {"city": "Paris"}})
                  + "</tool_call><tool_call>{'name': 'now'}</tool_call>"},
              {"role": "tool", "content": "<tool_response>18 C</tool_response>"},
              {"role": "user", "content": "<tool_response>noon</tool_response>"}, A]
    assert turns(*hermes) == expected
    assert turns(*expected) == expected


def test_roles_in_any_order():
    more = {"role": "user", "content": "More"}
    assert turns(U, more, A) == [{"role": "user", "content": "Hi\n\nMore"}, A]
    assert turns(U, A, GO) == [U, {"role": "assistant", "content": "Hello\n\nGo"}]
    assert turns(U, A, U, more) == [U, A, {"role": "user", "content": "Hi\n\nMore"}]
    assert turns(S, S, U, A) == [S | {"content": "Be kind\n\nBe kind"}, U, A]
    assert turns(U, A, S, U, A)[2] == {"role": "user", "content": "Be kind\n\nHi"}
    # The opening of the assistant is context.
    nothing = {"role": "user", "content": ""}
    assert turns(GO, U, A) == [nothing, GO | {"learn": False}, U, A]
    assert turns(S, GO, U, A) == [{"role": "user", "content": "Be kind"}, GO | {"learn": False},
                                  U, A]
    # A system message is as good as a user's.
    assert turns(S, A) == [{"role": "user", "content": "Be kind"}, A]
    tok, _ = find_tokenizer(Path("no-such"))
    assert tok.render_conversation({"messages": turns(GO, U, A)})[0]
