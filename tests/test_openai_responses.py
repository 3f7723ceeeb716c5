"""openai_responses.py: the Responses API over HTTP, and in the official client."""
import json

import pytest

from talk.openai_protocol import ApiError
from talk.openai_responses import chat_body
from toy_chat import prompt
from toy_server import ADD, USER, Client, official_client, tool_caller, watch_submit

FLAT = {"type": "function", "name": "add", **ADD["function"], "strict": True}


@pytest.fixture(scope="module")
def client():
    client = Client()
    yield client
    client.close()


def ask(client, **body):
    return client.ask("/v1/responses", dict(input="hi") | body)


def test_the_answer_is_that_of_chat_completions(client):
    for settings in (dict(temperature=0), dict(seed=1, temperature=1.0, top_p=0.9)):
        status, response = ask(client, max_output_tokens=20, **settings)
        chat = client.chat(max_tokens=20, **settings)[1]
        [message] = response["output"]
        [part] = message["content"]
        assert status == 200 and part["text"] == chat["choices"][0]["message"]["content"]
        assert response["usage"]["output_tokens"] == chat["usage"]["completion_tokens"]
        ended = chat["choices"][0]["finish_reason"] == "stop"
        assert response["status"] == ("completed" if ended else "incomplete")
        assert (response["incomplete_details"] is None) == ended


@pytest.mark.parametrize("fields, messages", [
    (dict(input="a"), [dict(role="user", content="a")]),
    (dict(input="a", instructions="s"),
     [dict(role="system", content="s"), dict(role="user", content="a")]),
    (dict(input=[dict(role="user", content=[dict(type="input_text", text="a")]),
                 dict(type="reasoning", id="r", summary=[]),
                 dict(type="message", id="m", status="completed", role="assistant",
                      content=[dict(type="output_text", text="b", annotations=[])]),
                 dict(role="user", content="c")]),
     [dict(role="user", content="a"), dict(role="assistant", content="b"),
      dict(role="user", content="c")]),
    (dict(input=[dict(role="user", content="a"),
                 dict(type="function_call", call_id="1", name="add", arguments='{"a": 2}'),
                 dict(type="function_call", call_id="2", name="add", arguments="{}"),
                 dict(type="function_call_output", call_id="2", output="y"),
                 dict(type="function_call_output", call_id="1",
                      output=[dict(type="input_text", text="x")])]),
     [dict(role="user", content="a"), dict(role="assistant", parts=[
         dict(type="python", text="add(a=2)"), dict(type="python_output", text="x"),
         dict(type="python", text="add()"), dict(type="python_output", text="y")])])])
def test_input_is_that_of_chat_completions(client, monkeypatch, fields, messages):
    calls = watch_submit(client.engine, monkeypatch)
    assert ask(client, **fields, max_output_tokens=1)[0] == 200
    assert client.ask("/v1/chat/completions", dict(messages=messages, max_tokens=1))[0] == 200
    if "parts" in messages[-1]:
        # Here the last result stands at the end, and the answer goes on behind it.
        assert calls[0][0][-8:] == calls[1][0][-8:]
    assert calls[0][0] == calls[1][0]


@pytest.mark.parametrize("fields, words", [
    (dict(input=None), "input"), (dict(input=[]), "input"), (dict(input=[5]), "input"),
    (dict(input=[dict(type="item_reference", id="x")]), "input"), (dict(instructions=5), "instr"),
    (dict(previous_response_id="resp_1"), "previous_response_id"), (dict(background=True), "backg"),
    (dict(max_output_tokens=0), "max_output_tokens"), (dict(max_tokens=5), "max_tokens"),
    (dict(n=2), "n:"), (dict(temprature=1), "temperature"), (dict(text=5), "text"),
    (dict(text=dict(format=dict(type="json_schema"))), "response_format"),
    (dict(tools=[dict(type="web_search")]), "tools"), (dict(stream="yes"), "stream")])
def test_what_is_refused(client, fields, words):
    status, reply = ask(client, **fields)
    assert status == 400 and words in reply["error"]["message"]


def test_fields_that_agents_always_send_are_taken(client):
    status, _ = ask(client, store=False, include=["reasoning.encrypted_content"], metadata={},
                    reasoning=dict(effort="low"), parallel_tool_calls=True, tool_choice="auto",
                    previous_response_id=None, background=False, text=dict(verbosity="low"),
                    truncation="auto", service_tier="auto", user="me", tools=[],
                    max_output_tokens=1)
    assert status == 200
    with pytest.raises(ApiError):
        chat_body(dict(input="a", echo=True))


def test_a_stream_tells_the_same():
    client = tool_caller("add(a=6)", n_output=1)
    status, text = ask(client, stream=True, tools=[FLAT])
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == "event: " + events[-1]["type"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-8:] == ["output_text.done", "content_part.done", "output_item.done",
                          "output_item.added", "function_call_arguments.delta",
                          "function_call_arguments.done", "output_item.done", "completed"]
    deltas = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    message, call = events[-1]["response"]["output"]
    assert deltas == message["content"][0]["text"] == "is "
    assert (call["name"], call["arguments"]) == ("add", '{"a": 6}')
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert done == [message, call]
    client.close()


def test_an_engine_failure_is_an_event_of_the_stream(monkeypatch, capfd):
    client = Client()
    monkeypatch.setattr(client.engine, "step", lambda: 1 / 0)
    status, text = ask(client, stream=True)
    last = json.loads(text.strip().split("data: ")[-1])
    assert last["type"] == "error" and last["code"] == "engine_error" and "event: error" in text
    client.close()


@pytest.mark.slow
def test_the_openai_client():
    client = tool_caller("add(a=6)", n_output=1)
    openai, api = official_client(client)
    response = api.responses.create(model="tiny", input="hi", instructions="s", tools=[FLAT])
    message, call = response.output
    assert response.output_text == "is " and json.loads(call.arguments) == {"a": 6}
    with api.responses.stream(model="tiny", input="hi", tools=[FLAT]) as stream:
        kinds = [event.type for event in stream]
        whole = stream.get_final_response()
    assert whole.output_text == "is " and whole.output[1].name == "add"
    assert "response.output_text.delta" in kinds

    # The calls go back as they came, with the result.
    client.engine.decoder.n_prompt = len(prompt(client.tok, "hi"))
    history = [*USER, *response.output,
               dict(type="function_call_output", call_id=call.call_id, output="8")]
    response = api.responses.create(model="tiny", input=history)
    assert response.output_text == "!" and response.status == "completed"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        api.responses.create(model="tiny", input="hi", temperature=-1)
    client.close()
