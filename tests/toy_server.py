"""What the tests of the server and of its page share: a server around a tiny model."""
import http.client
import json
import threading
import time

import pytest

from chat import Config
from talk.engine import Engine
from talk.server import Server
from toy_chat import Scripted, byte_tokenizer, tiny_model

USER = [dict(role="user", content="hi")]
SETTINGS = dict(temperature=0.7, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=0)


ADD = dict(type="function", function=dict(name="add", description="Add two numbers.",
           parameters=dict(type="object", properties=dict(a=dict(type="number")))))


class Client:
    """A server in this process, and the requests that the tests send to it."""

    def __init__(self, engine=None, tok=None, engines=None, model="tiny",
                 load=lambda make: make(), **flags):
        """engines: {name: a function that makes an Engine, or what load takes}, for several."""
        self.tok = tok or byte_tokenizer()
        if not engines:
            self.engine = engine or Engine(tiny_model(seq_len=512), self.tok, max_rows=32)
            engines = {model: lambda: self.engine}
        cfg = Config(**dict(port=0, max_tokens=40) | flags)
        self.server = Server(load, lambda: engines, cfg, SETTINGS, model)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever,
                                       kwargs=dict(poll_interval=0.02), daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.finish()

    def ask(self, path, body=None, method=None, **headers):
        """Send a request. body: an object that becomes JSON, or bytes. -> status, parsed JSON

        Where the answer is no JSON, its text is returned instead.
        """
        if method is None:
            method = "GET" if body is None else "POST"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {"Content-Type": "application/json"} | headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.getheader("Content-Type") == "application/json":
            return response.status, json.loads(text)
        return response.status, text.decode()

    def chat(self, text="hi", **body):
        """Ask one question and have the answer in parts, as the page has it."""
        messages = [dict(role="user", content=text)]
        return self.ask("/v1/chat/completions",
                        dict(messages=messages, include_parts=True) | body)

    def events(self, **body):
        """Send a streaming request. -> its parsed events"""
        body = dict(messages=USER, stream=True, include_parts=True) | body
        status, text = self.ask("/v1/chat/completions", body)
        assert status == 200 and text.endswith("data: [DONE]\n\n")
        return [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n")[:-2]]

    def idle(self, seconds=30):
        """Wait until the engine has nothing to do. -> whether that came in time"""
        end = time.monotonic() + seconds
        while self.server.worker.load and time.monotonic() < end:
            time.sleep(0.01)
        return self.server.worker.load == 0


def tool_caller(code="6*7", n_output=2):
    """A server whose model answers "is ", calls Python, and ends with "!".

    n_output: how many tokens the result of the code has.
    """
    tok = byte_tokenizer()
    engine = Engine(tiny_model(seq_len=512), tok)
    script = [*tok.encode("is "), tok.special("<|python_start|>"), *tok.encode(code),
              tok.special("<|python_end|>"), *[0] * (n_output + 2), *tok.encode("!"),
              tok.special("<|assistant_end|>")]
    engine.decoder = Scripted(engine, script, None)
    return Client(engine, tok)


def official_client(client):
    """The module openai, and its client of this server."""
    openai = pytest.importorskip("openai")
    return openai, openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none",
                                 max_retries=0)


def watch_submit(engine, monkeypatch):
    """A list to which every later engine.submit() adds its (ids, max_tokens, sampling)."""
    calls = []
    submit = engine.submit

    def watched(ids, max_tokens, sampling, **kwargs):
        calls.append((ids, max_tokens, sampling))
        return submit(ids, max_tokens, sampling, **kwargs)

    monkeypatch.setattr(engine, "submit", watched)
    return calls
