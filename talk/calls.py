"""
Tools of a client's own: a request describes them, the model calls one, and the client computes it.

The model writes a call as Python, between <|python_start|> and <|python_end|>, as it has learned
from conversations with tool calls (data/tool_calls.py): add(a=2, b='x'). This file turns the JSON
of the OpenAI protocol into that, and back. Nothing is executed here.
"""
import ast
import json
import re

# In characters, of a call that the model writes: Python's parser takes its time.
MAX_CALL = 10_000


def describe_tools(tools):
    """Tools as JSON objects -> the text that joins the system message, as in training."""
    return "\n".join(["Tools:", *(json.dumps(tool, ensure_ascii=False) for tool in tools)])


def python_name(name):
    """The name of a function as Python code may hold it: "get-time" -> "get_time"."""
    return re.sub(r"[^\w.]", "_", name.strip())


def python_call(name, arguments):
    """("add", {"a": 2, "b": "x"}) -> "add(a=2, b='x')"; other keys than names stand in **{...}."""
    named = [f"{key}={value!r}" for key, value in arguments.items() if is_name(key)]
    others = {key: value for key, value in arguments.items() if not is_name(key)}
    if others:
        named.append(f"**{others!r}")
    return f"{python_name(name)}({', '.join(named)})"


def is_name(key):
    """Whether f(key=0) is Python; keywords such as "from" are no names."""
    try:
        return key.isidentifier() and bool(ast.parse(f"f({key}=0)"))
    except SyntaxError:
        return False


def read_call(code, tools):
    """The model's code -> (name of the tool, its arguments as JSON), or None if it calls none.

    tools: as in a request, {"type": "function", "function": {"name": ..., "parameters": ...}}. A
    tool of the name python takes all code that calls no other one, as its first argument.
    """
    functions = {python_name(tool["function"]["name"]): tool["function"] for tool in tools}
    name, arguments = parse_call(code, functions)
    if name is None and "python" in functions:
        name = "python"
        parameters = parameter_names(functions[name]) or ["code"]
        arguments = {parameters[0]: code}
    if name is None:
        return None
    return functions[name]["name"], json.dumps(arguments, ensure_ascii=False)


def parse_call(code, functions):
    """'add(2, b="x")' -> ("add", {"a": 2, "b": "x"}); (None, None) for anything else.

    functions: {Python name: description of the function}.
    """
    nothing = None, None
    if len(code) > MAX_CALL:
        return nothing
    try:
        call = ast.parse(code.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            return nothing
        name = ast.unparse(call.func)
        if name not in functions:
            return nothing
        parameters = parameter_names(functions[name])
        if len(call.args) > len(parameters):
            return nothing
        arguments = {}
        for parameter, value in zip(parameters, call.args):
            arguments[parameter] = ast.literal_eval(value)
        for keyword in call.keywords:
            value = ast.literal_eval(keyword.value)
            arguments |= value if keyword.arg is None else {keyword.arg: value}
        # ValueError or TypeError for what JSON can't hold: infinity, bytes, a set.
        json.dumps(arguments, allow_nan=False)
        return name, arguments
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return nothing


def parameter_names(function):
    """The names of a function's parameters, in their order, by its JSON schema."""
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return list(properties) if isinstance(properties, dict) else []
