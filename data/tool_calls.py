"""
Tool calls as people's files hold them, as the Python calls that the model learns to write.

    read_calls({"function": {"name": "add", "arguments": "{\\"a\\": 2}"}})
        -> [{"type": "python", "text": "add(a=2)"}]

Known are OpenAI's tool_calls and function_call, ShareGPT's function_call, Anthropic's tool_use, and
calls in the text: <tool_call>{...}</tool_call> (Hermes, Qwen), <functioncall> {...} (Glaive),
[TOOL_CALLS] [...] (Mistral), <|python_tag|>{...} and <function=add>{...}</function> (Llama).
"""
import ast
import json
import re

# Within a call stands no second opening. Else thousands of openings that nobody closes would take
# the square of their number.
IN_TEXT = re.compile(r"""
    <tool_call> (?P<qwen> (?: (?!<tool_call>) . )*? ) </tool_call>
    | <functioncall> \s* (?P<glaive> \{ (?: (?!<functioncall>) . )* \} )
    | \[TOOL_CALLS\] \s* (?P<mistral> \[ (?: (?!\[TOOL_CALLS\]) . )* \] )
    | <\|python_tag\|> \s* (?P<llama> \{ (?: (?!<\|python_tag\|>) . )* \} )
    | <function=(?P<name>[\w.-]+)> \s*
      (?P<arguments> \{ (?: (?!<function=) . )*? \} ) \s* </function>
    """, re.S | re.X)
RESPONSE = re.compile(r"\s*<tool_response>(.*)</tool_response>\s*", re.S)


def read_value(text):
    """A JSON value, or what Python prints for one; ValueError if it is neither."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        # numpy prints no comma between objects.
        return ast.literal_eval(re.sub(r"\}\s*\n\s*\{", "}, {", text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"neither JSON nor Python: {text.strip()[:60]!r}") from None


def read_calls(calls):
    """One call or a list, as JSON or parsed -> python parts, with "id" if they have one."""
    if isinstance(calls, str):
        try:
            calls = read_value(calls)
        except ValueError as e:
            raise ValueError(f"a tool call that cannot be read, {e}") from None
    if isinstance(calls, dict):
        calls = [calls]
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise ValueError(f"tool calls are {type(calls).__name__}, expected a list")
    return [read_call(call) for call in calls]


def read_call(call):
    call = call if isinstance(call, dict) else {}
    function = call.get("function")
    if isinstance(function, str):
        function = dict(call, name=function)
    function = function or call
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"a tool call without a name: {str(call)[:60]}")
    arguments = {}
    for field in "arguments", "parameters", "input":
        if function.get(field) is not None:
            arguments = function[field]
            break
    part = {"type": "python", "text": python_call(name, arguments)}
    if call.get("call_id") or call.get("id"):
        part["id"] = call.get("call_id") or call["id"]
    return part


def python_call(name, arguments):
    """("add", {"a": 2, "b": "x"}) -> "add(a=2, b='x')".

    arguments: an object, parsed or as JSON. What no Python name may hold becomes "_" in the name of
    the function; an argument's name stays as it is, in **{...}.
    """
    if isinstance(arguments, str):
        try:
            arguments = read_value(arguments) if arguments.strip() else {}
        except ValueError as e:
            raise ValueError(f"the arguments of the tool call {name} are {e}") from None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of the tool call {name} are a "
                         f"{type(arguments).__name__}, expected an object")
    named = [f"{key}={value!r}" for key, value in arguments.items() if is_name(key)]
    others = {key: value for key, value in arguments.items() if not is_name(key)}
    if others:
        named.append(f"**{others!r}")
    return re.sub(r"[^\w.]", "_", name.strip()) + f"({', '.join(named)})"


def is_name(key):
    # What Python itself takes for a call of f(key=0); keywords such as "from" are none.
    try:
        return key.isidentifier() and bool(ast.parse(f"f({key}=0)"))
    except (SyntaxError, AttributeError):
        return False


def split_calls(text):
    """An assistant's text -> text and python parts: "So <tool_call>{...}</tool_call>" -> two."""
    parts = []
    end = 0
    for match in IN_TEXT.finditer(text):
        parts.append({"type": "text", "text": text[end:match.start()].strip()})
        if match["name"]:
            parts += read_calls({"name": match["name"], "arguments": match["arguments"]})
        else:
            parts += read_calls(next(filter(None, match.groups()), ""))
        end = match.end()
    rest = text[end:].strip() if parts else text
    parts.append({"type": "text", "text": rest})
    return [part for part in parts if part["text"] or part["type"] != "text"]


def python_calls(text):
    """An assistant's text that is a Python call, or a list of calls -> python parts, else [].

    ToolACE and others have them without a marker: "[weather(city='Paris'), now()]".
    """
    try:
        value = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []
    calls = value.elts if isinstance(value, ast.List) else [value]
    if not calls or not all(isinstance(call, ast.Call) for call in calls):
        return []
    return [{"type": "python", "text": ast.unparse(call)} for call in calls]


def result_text(content):
    """The content of a tool's message, a string, parts or any JSON value -> text."""
    if isinstance(content, list) and content and all(
            isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False)
    inside = RESPONSE.fullmatch(content)
    return inside[1].strip() if inside else content


def describe_tools(tools):
    """The tools of a row, a list or its JSON -> text for the system message, "" for none.

    The text is "Tools:" and one tool a line, as JSON. What is no JSON stands as it is.
    """
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:
            pass
    if not tools:
        return ""
    if isinstance(tools, dict):
        tools = [tools]
    if not isinstance(tools, list):
        return f"Tools:\n{tools}"
    return "\n".join(["Tools:", *(json.dumps(tool, ensure_ascii=False) for tool in tools)])
