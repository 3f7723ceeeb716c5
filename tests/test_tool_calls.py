"""data/tool_calls.py: every way to write a tool call down becomes one Python call."""
import ast
import json

import pytest

from data.tool_calls import (
    describe_tools,
    python_call,
    read_calls,
    result_text,
    split_calls,
)


def texts(parts):
    return [part["text"] for part in parts]


@pytest.mark.parametrize("call", [
    {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": "x"}'}},
    {"name": "add", "arguments": {"a": 2, "b": "x"}},
    {"name": "add", "arguments": '{"a": 2, "b": "x"}'},
    {"name": "add", "parameters": {"a": 2, "b": "x"}},
    {"type": "tool_use", "id": "1", "name": "add", "input": {"a": 2, "b": "x"}},
    {"function": "add", "arguments": {"a": 2, "b": "x"}},
])
def test_one_call_in_all_shapes(call):
    for calls in call, [call], json.dumps(call), json.dumps([call]), repr(call):
        assert texts(read_calls(calls)) == ["add(a=2, b='x')"]


def test_the_call_is_python_that_gives_the_arguments_back():
    arguments = {"city": "Pa'ris\n", "n": 1.5, "deep": {"a": [True, None]}, "from": 1,
                 "my-key": "é"}
    call = ast.parse(python_call("weather.get-now", arguments), mode="eval").body
    read = {}
    for keyword in call.keywords:
        value = ast.literal_eval(keyword.value)
        read |= value if keyword.arg is None else {keyword.arg: value}
    assert read == arguments
    assert ast.unparse(call.func) == "weather.get_now"
    assert python_call("now", {}) == python_call("now", "") == python_call("now", None) == "now()"


def test_calls_within_the_text():
    hermes = 'First.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n' \
             '<tool_call>{"name": "g"}</tool_call>'
    assert texts(split_calls(hermes)) == ["First.", "f(a=1)", "g()"]
    glaive = '<functioncall> {"name": "f", "arguments": \'{"a": "x y"}\'} '
    assert split_calls(glaive) == [{"type": "python", "text": "f(a='x y')"}]
    assert split_calls(" plain ") == [{"type": "text", "text": " plain "}]


@pytest.mark.parametrize("calls, reason", [
    ({"arguments": {}}, "a tool call without a name"),
    (5, "tool calls are int"),
    ("{", "a tool call that cannot be read"),
    ({"name": "f", "arguments": "{"}, "the arguments of the tool call f are neither"),
    ({"name": "f", "arguments": [1]}, "are a list, expected an object"),
])
def test_what_is_no_call(calls, reason):
    with pytest.raises(ValueError, match=reason):
        read_calls(calls)


def test_results_and_descriptions():
    assert result_text("18 C") == result_text("<tool_response>\n18 C\n</tool_response>") == "18 C"
    assert result_text([{"type": "text", "text": "18 "}, {"type": "text", "text": "C"}]) == "18 C"
    assert result_text({"t": 18}) == '{"t": 18}'
    tools = [{"name": "f"}, {"name": "é"}]
    assert describe_tools(tools) == describe_tools(json.dumps(tools)) == \
        'Tools:\n{"name": "f"}\n{"name": "é"}'
    assert describe_tools("[]") == describe_tools([]) == describe_tools("") == ""
    assert describe_tools("def f()") == "Tools:\ndef f()"


# Each with some text behind the mark; unclosed, and at last once closed.
MARKS = [("<tool_call>", '{"name": "add", "arguments": {"a": 1}}', "</tool_call>"),
         ("<functioncall> ", '{"name": "add", "arguments": {"a": 1}}', ""),
         ("[TOOL_CALLS] ", '[{"name": "add", "arguments": {"a": 1}}]', ""),
         ("<|python_tag|>", '{"name": "add", "arguments": {"a": 1}}', ""),
         ("<function=add>", '{"a": 1}', "</function>")]


@pytest.mark.parametrize("mark, call, closing", MARKS)
def test_a_mark_ends_what_an_unclosed_one_began(mark, call, closing):
    opening = mark + call[0]
    # With 100,000 of them, the square of their number would take hours.
    text = opening * 100_000
    assert split_calls(text) == [{"type": "text", "text": text}]
    parts = split_calls(text + mark + call + closing)
    assert [part["text"] for part in parts if part["type"] == "python"] == ["add(a=1)"]
    two = split_calls(f"So {mark}{call}{closing} and {mark}{call}{closing}")
    assert texts(two) == ["So", "add(a=1)", "and", "add(a=1)"]
