"""calls.py: tools of a client's own, as Python code and as JSON."""
import json

import pytest

from data import tool_calls
from talk.calls import describe_tools, python_call, read_call


def tool(name, *parameters):
    properties = {parameter: {"type": "string"} for parameter in parameters}
    return {"type": "function", "function": {"name": name, "parameters": {
        "type": "object", "properties": properties}}}


CALLS = [("add", {"a": 2, "b": "x"}), ("get-time", {}), ("f", {"from": [1, {"k": None}]}),
         ("weather.now", {"city name": "Å'\\\"\n", "n": -1.5}), ("f", {"": True, "1": 2})]
TOOLS = [tool(name, "a", "b") for name in ("add", "get-time", "f", "weather.now")]


@pytest.mark.parametrize("name, arguments", CALLS)
def test_calls_are_written_as_in_training_and_read_back(name, arguments):
    code = python_call(name, arguments)
    assert code == tool_calls.python_call(name, arguments)
    got, text = read_call(code, TOOLS)
    assert got == name and json.loads(text) == arguments


def test_tools_are_described_as_in_training():
    assert describe_tools(TOOLS) == tool_calls.describe_tools(TOOLS)


@pytest.mark.parametrize("code, arguments", [
    ("add(1, 'x')", {"a": 1, "b": "x"}), (" add(1, b=2)\n", {"a": 1, "b": 2}), ("add()", {})])
def test_arguments_by_position(code, arguments):
    got, text = read_call(code, TOOLS)
    assert got == "add" and json.loads(text) == arguments


@pytest.mark.parametrize("code", [
    "2+3", "", "add", "add(1, 2, 3)", "add(a=b)", "add(a=", "other(a=1)", "add(*[1])", "add(**5)",
    "add(a={1})", "add(a=1e999)", "add(a=b'x')", "add(a=1); add(a=2)", "add(" * 3000, "(" * 9000,
    "add(a=" + "1" * 9000 + ")", "add(a=" + "x" * 20000, "\ud800", "\0", "add(a=1)(b=2)"])
def test_what_calls_none_of_the_tools(code):
    assert read_call(code, TOOLS) is None


def test_a_tool_named_python_takes_all_other_code():
    tools = [tool("add", "a"), tool("python", "source")]
    assert read_call("print(1)\nx = 2", tools) == ("python", '{"source": "print(1)\\nx = 2"}')
    assert read_call("add(1)", tools) == ("add", '{"a": 1}')
    assert read_call("python(source='1')", tools) == ("python", '{"source": "1"}')
    assert json.loads(read_call("1", [{"function": {"name": "python"}}])[1]) == {"code": "1"}
