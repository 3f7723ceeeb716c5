"""openai_protocol.py: messages in the shapes that clients send, where stop strings cut a stream.

test_server.py tests the rest over HTTP.
"""
import pytest

from talk.openai_protocol import ApiError, Choice, chat_prompt, longest_beginning
from toy_chat import byte_tokenizer

MAX_LEN = 512


def message(role, content, **fields):
    return dict(role=role, content=content, **fields)


def user(text):
    return message("user", text)


def assistant(text):
    return message("assistant", text)


@pytest.mark.parametrize("messages, same", [
    # The same role twice.
    ([user("a"), user("b")], [user("a\n\nb")]),
    ([user("a"), assistant("b"), assistant("c"), user("d")],
     [user("a"), assistant("b\n\nc"), user("d")]),
    # The assistant first.
    ([assistant("a"), user("b")], [user(""), assistant("a"), user("b")]),
    # System messages: one, two, none but them, before an answer, and in between.
    ([message("system", "s"), user("a")], [user("s\n\na")]),
    ([message("developer", "s"), user("a")], [user("s\n\na")]),
    ([message("system", "s"), message("system", "t"), user("a")], [user("s\n\nt\n\na")]),
    ([message("system", "s")], [user("s")]),
    ([message("system", "s"), assistant("a"), user("b")], [user("s"), assistant("a"), user("b")]),
    ([user("a"), assistant("b"), message("system", "s"), user("c")],
     [user("a"), assistant("b"), user("s\n\nc")]),
    ([user("a"), message("system", "s")], [user("a\n\ns")]),
    # Nothing in a message.
    ([message("system", ""), user("a")], [user("a")]),
    ([message("system", None), user("a")], [user("a")]),
    ([user(None)], [user("")]),
    ([user("a"), assistant(None), user("b")], [user("a"), assistant(""), user("b")]),
    ([user("a"), dict(role="assistant"), user("b")], [user("a"), assistant(""), user("b")]),
    ([user("a"), assistant([]), user("b")], [user("a"), assistant(""), user("b")]),
    # Content in parts.
    ([user([dict(type="text", text="a"), dict(type="text", text="b")])], [user("ab")]),
    ([user(["a", dict(type="input_text", text="b", cache_control={})])], [user("ab")]),
    ([user("a"), assistant([dict(type="refusal", refusal="no")]), user("b")],
     [user("a"), assistant("no"), user("b")]),
    ([user("a"), assistant([dict(type="thinking", thinking="hm"), dict(type="text", text="b")]),
      user("c")], [user("a"), assistant("b"), user("c")]),
    # Fields that say nothing to this model.
    ([message("user", "a", name="Eve"), message("assistant", "b", refusal=None, audio=None,
                                                annotations=[]), user("c")],
     [user("a"), assistant("b"), user("c")])])
def test_shapes_of_messages(messages, same):
    tok = byte_tokenizer()
    ids, part_type = chat_prompt(messages, tok, MAX_LEN)
    assert ids == tok.render_for_completion({"messages": same}) and part_type == "text"


CALL = [dict(type="text", text="is "), dict(type="python", text="6*7")]
RESULT = [dict(type="python_output", text="42")]


@pytest.mark.parametrize("last, whole, n_open, part_type", [
    ([assistant("it is")], "it is", 1, "text"),
    ([assistant("it"), assistant("is")], "it\n\nis", 1, "text"),
    ([assistant("")], "", 1, "text"),
    # Cut within code: neither the code nor the answer is closed.
    ([assistant(CALL)], CALL, 2, "python"),
    # Cut within the result, which is made whole.
    ([assistant([*CALL, dict(type="python_output", text="4")])], CALL + RESULT, 1, "text"),
    ([message("assistant", "is 42", parts=CALL + RESULT)], CALL + RESULT, 1, "text"),
    # The result of another tool stays as it is.
    ([assistant([*CALL, dict(type="python_output", text="7")])],
     [*CALL, dict(type="python_output", text="7")], 1, "text")])
def test_a_last_assistant_message_is_open(last, whole, n_open, part_type):
    tok = byte_tokenizer()
    ids, _ = tok.render_conversation({"messages": [user("q"), assistant(whole)]})
    assert chat_prompt([user("q"), *last], tok, MAX_LEN) == (ids[:-n_open], part_type)


def call(name, arguments, id="1"):
    return dict(id=id, type="function", function=dict(name=name, arguments=arguments))


def result(text, id="1"):
    return dict(role="tool", content=text, tool_call_id=id)


def python(code, output):
    return [dict(type="python", text=code), dict(type="python_output", text=output)]


@pytest.mark.parametrize("messages, content", [
    ([message("assistant", None, tool_calls=[call("f", '{"a": 2}')]), result("7")],
     python("f(a=2)", "7")),
    ([message("assistant", "so ", tool_calls=[call("f", {"a": True})]), result([dict(
        type="text", text="7")]), assistant("!")],
     [dict(type="text", text="so "), *python("f(a=True)", "7"), dict(type="text", text="!")]),
    # An empty result, or one that begins like the calculator's own, stays as it is.
    ([message("assistant", "", tool_calls=[call("f", "{}")]), result("")], python("f()", "")),
    ([message("assistant", "", tool_calls=[call("f", "")]), result(None)], python("f()", "null")),
    # Two calls at once, answered in the other order.
    ([message("assistant", None, tool_calls=[call("f", "{}", "x"), call("g", "{}", "y")]),
      result("2", "y"), result("1", "x")], python("f()", "1") + python("g()", "2")),
    # OpenAI's older names, without ids.
    ([message("assistant", None, function_call=dict(name="f", arguments="{}")),
      dict(role="function", name="f", content="7")], python("f()", "7"))])
def test_tool_calls_and_results(messages, content):
    tok = byte_tokenizer()
    ids, _ = tok.render_conversation({"messages": [user("q"), assistant(content)]})
    assert chat_prompt([user("q"), *messages], tok, MAX_LEN) == (ids[:-1], "text")


@pytest.mark.parametrize("messages", [
    [result("7")], [assistant("x"), result("7")],
    [message("assistant", None, tool_calls=[call("f", "{}", "x")]), result("7", "y")],
    [message("assistant", None, tool_calls=[call("f", "{}", "x")])],
    [message("assistant", None, tool_calls=[call("f", "{")]), result("7")],
    [message("assistant", None, tool_calls=[call("f", "[]")]), result("7")],
    [message("assistant", None, tool_calls=[call(5, "{}")]), result("7")],
    [message("assistant", None, tool_calls=5)], [message("assistant", None, tool_calls=[5])]])
def test_tool_calls_that_do_not_fit(messages):
    with pytest.raises(ApiError, match="messages"):
        chat_prompt([user("q"), *messages], byte_tokenizer(), MAX_LEN)


@pytest.mark.parametrize("messages", [
    [], None, "hi", {}, [None], ["hi"], [[]], [dict(content="x")], [message("bot", "x")],
    [message(None, "x")], [message(["user"], "x")], [dict(role="user")], [user(5)], [user({})],
    [user([5])], [user([None])], [user([dict(type="image_url", image_url={})])],
    [user([dict(type="text")])], [user([dict(type=["text"], text="x")])],
    [user([dict(type="python", text="x")])], [user([dict(type="text", text=5)])],
    [assistant([dict(type="tool_use")])]])
def test_what_is_no_conversation(messages):
    with pytest.raises(ApiError, match="messages"):
        chat_prompt(messages, byte_tokenizer(), MAX_LEN)


@pytest.mark.parametrize("pieces", [["a", "b", "STOP", "c"], ["abST", "OPc"],
                                    ["ab", "S", "T", "O", "P", "c"], ["abSTOP"]])
def test_stop_strings_in_pieces(pieces):
    tok = byte_tokenizer()
    choice = Choice(tok, ["STOP"])
    said = ""
    for piece in pieces:
        said += "".join(text for _, text in choice.feed(tok.encode(piece), ""))
    assert said == "ab" and choice.finish == "stop"


def test_held_back_text_comes_at_the_end():
    tok = byte_tokenizer()
    choice = Choice(tok, ["STOP"])
    assert choice.feed(tok.encode("abSTO"), "") == [("text", "a"), ("text", "b")]
    assert choice.feed([], "length") == [("text", "STO")] and choice.finish == "length"


@pytest.mark.parametrize("stop, text, longest", [
    (["STOP"], "abST", 2), (["STOP"], "abSTOP", 0), (["aab", "ab"], "xaa", 2), (["a"], "a", 0),
    (["abc", "bcd", "x"], "abc", 2), (["STOP"], "S", 1), ([], "S", 0), (["STOP"], "", 0)])
def test_longest_beginning(stop, text, longest):
    assert longest_beginning(stop, text) == longest
