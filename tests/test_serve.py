"""
server.py, openai_protocol.py, page.html: the protocol, many requests as one batch, limits, safety.
"""
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from chat import Config
from talk.engine import Engine, add_text, parse_answer
from talk.openai_protocol import Choice, content_of
from talk.server import Server
from toy_chat import Scripted, byte_tokenizer, prompt, tiny_model

torch.set_num_threads(1)
SETTINGS = dict(temperature=0.7, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=0)


class Client:
    """A server in this process, and the requests that the tests send to it."""

    def __init__(self, engine=None, tok=None, **flags):
        self.tok = tok or byte_tokenizer()
        self.engine = engine or Engine(tiny_model(seq_len=512), self.tok, max_rows=32)
        self.server = Server(self.engine, self.tok, Config(port=0, **(dict(max_tokens=40) | flags)),
                             SETTINGS, "tiny")
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever,
                                       kwargs=dict(poll_interval=0.02), daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.finish()

    def ask(self, path, body=None, method=None, **headers):
        """Send a request. -> status, parsed JSON (the text where it is no JSON)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, data,
                           {"Content-Type": "application/json"} | headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        is_json = response.getheader("Content-Type") == "application/json"
        return response.status, json.loads(text) if is_json else text.decode()

    def chat(self, text="hi", **body):
        return self.ask("/v1/chat/completions",
                        dict(messages=[dict(role="user", content=text)], **body))

    def events(self, **body):
        """Send a streaming request. -> its parsed events"""
        status, text = self.ask("/v1/chat/completions",
                                dict(dict(messages=[dict(role="user", content="hi")], stream=True),
                                     **body))
        assert status == 200 and text.endswith("data: [DONE]\n\n")
        return [json.loads(e.removeprefix("data: ")) for e in text.split("\n\n")[:-2]]

    def idle(self, seconds=30):
        end = time.monotonic() + seconds
        while self.server.worker.load and time.monotonic() < end:
            time.sleep(0.01)
        return self.server.worker.load == 0


@pytest.fixture(scope="module")
def client():
    client = Client()
    yield client
    client.close()


def expected(text="hi", max_tokens=40, **sampling):
    tok = byte_tokenizer()
    ids = Engine(tiny_model(seq_len=512), tok).generate([prompt(tok, text)], max_tokens,
                                                        **dict(SETTINGS, **sampling))[0]
    return parse_answer(tok, ids), len(ids)


# ---- the protocol ----

def test_health_and_models(client):
    assert client.ask("/health")[1]["status"] == "ok"
    listed = client.ask("/v1/models")[1]["data"]
    assert [m["id"] for m in listed] == ["tiny"] and client.ask("/v1/models/tiny")[1] == listed[0]
    assert listed[0]["context_length"] == 512


def test_an_answer_is_the_engines(client):
    status, reply = client.chat(temperature=0)
    parts, n = expected(temperature=0)
    assert status == 200 and reply["object"] == "chat.completion" and reply["model"] == "tiny"
    choice = reply["choices"][0]
    assert choice["message"]["parts"] == parts and choice["message"]["content"] == content_of(parts)
    assert choice["finish_reason"] in ("stop", "length")
    assert reply["usage"] == dict(prompt_tokens=6, completion_tokens=n, total_tokens=6 + n)


def test_streaming_says_the_same_piece_by_piece(client):
    events = client.events(temperature=0, stream_options=dict(include_usage=True))
    parts, n = expected(temperature=0)
    deltas = [e["choices"][0]["delta"] for e in events if e["choices"]]
    assert (deltas[0]["role"] == "assistant"
            and "".join(d.get("content", "") for d in deltas) == content_of(parts))
    assert events[-1]["usage"]["completion_tokens"] == n and events[-1]["choices"] == []
    assert events[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert len({e["id"] for e in events}) == 1


def test_seed_n_and_sampling(client):
    one, again, other = (client.chat(seed=s, temperature=1.5)[1]["choices"][0]["message"]["parts"]
                         for s in (1, 1, 2))
    assert one == again == expected(seed=1, temperature=1.5)[0] != other
    reply = client.chat(n=3, seed=1, temperature=1.5)[1]
    assert ([c["index"] for c in reply["choices"]] == [0, 1, 2]
            and reply["choices"][0]["message"]["parts"] == one)
    assert len({c["message"]["content"] for c in reply["choices"]}) == 3
    assert reply["usage"]["prompt_tokens"] == 6
    assert (client.chat(seed=5, temperature=1.5, top_k=1)[1]["choices"]
            == client.chat(temperature=0)[1]["choices"])


def test_stop_strings_end_the_answer_before_them(client):
    full = client.chat(temperature=0)[1]["choices"][0]["message"]["content"]
    stop = full[5:8]
    reply = client.chat(temperature=0, stop=[stop, "never in it, surely"])[1]
    choice = reply["choices"][0]
    assert (choice["message"]["content"] == full[:full.index(stop)]
            and choice["finish_reason"] == "stop")
    streamed = "".join(e["choices"][0]["delta"].get("content", "")
                       for e in client.events(temperature=0, stop=stop))
    assert streamed == full[:full.index(stop)]
    assert client.idle()


def test_every_choice_of_a_stream_finishes_once():
    """Also one that a stop string ends early: it goes on in the engine for a moment."""
    client = Client(max_tokens=8)
    endless(client)
    full = client.chat(temperature=1, seed=1)[1]["choices"][0]["message"]["content"]
    events = client.events(temperature=1, seed=1, n=3, stop=full[1:3])
    finishes = [(c["index"], c["finish_reason"]) for e in events for c in e["choices"]
                if c["finish_reason"]]
    assert sorted(finishes) == [(0, "stop"), (1, "length"), (2, "length")] and client.idle()
    client.close()


@pytest.mark.parametrize("pieces", [["a", "b", "STOP", "c"], ["abST", "OPc"],
                                    ["ab", "S", "T", "O", "P", "c"], ["abSTOP"]])
def test_stop_strings_in_pieces(pieces):
    tok, choice, said = byte_tokenizer(), Choice(byte_tokenizer(), ["STOP"]), ""
    for piece in pieces:
        said += "".join(text for _, text in choice.feed(tok.encode(piece), ""))
    assert said == "ab" and choice.finish == "stop"


def test_held_back_text_comes_at_the_end():
    tok, choice = byte_tokenizer(), Choice(byte_tokenizer(), ["STOP"])
    assert choice.feed(tok.encode("abSTO"), "") == [("text", "a"), ("text", "b")]
    assert choice.feed([], "length") == [("text", "STO")] and choice.finish == "length"


def test_completions(client):
    status, reply = client.ask("/v1/completions",
                               dict(prompt=["ab", "cd"], max_tokens=5, temperature=0))
    tok = client.tok
    bos = [tok.special("<|bos|>")]
    ids = Engine(tiny_model(seq_len=512), tok).generate(
        [bos + tok.encode("ab"), bos + tok.encode("cd")], 5, raw=True)
    assert status == 200 and [c["text"] for c in reply["choices"]] == [
        content_of(parse_answer(tok, i)) for i in ids]
    assert reply["object"] == "text_completion" and reply["usage"]["prompt_tokens"] == 6
    reply = client.ask("/v1/completions", dict(prompt=["ab", "ab"], n=2, max_tokens=1))[1]
    assert len(reply["choices"]) == 4 and reply["usage"]["prompt_tokens"] == 6


def test_tool_calls_stand_apart_and_go_back_as_they_came():
    tok = byte_tokenizer()
    engine = Engine(tiny_model(seq_len=512), tok)
    script = [*tok.encode("is "), tok.special("<|python_start|>"), *tok.encode("6*7"),
              tok.special("<|python_end|>"), *[0] * 4, *tok.encode("!"),
              tok.special("<|assistant_end|>")]
    engine.decoder = Scripted(engine, script, 6)
    client = Client(engine, tok)
    message = client.chat()[1]["choices"][0]["message"]
    parts = [dict(type="text", text="is "), dict(type="python", text="6*7"),
             dict(type="python_output", text="42"), dict(type="text", text="!")]
    assert message["parts"] == parts and message["content"] == "is 42!"
    streamed = [p for e in client.events() for p in e["choices"][0]["delta"].get("parts", [])]
    joined = []
    for part in streamed:
        add_text(joined, part["type"], part["text"])
    assert joined == parts
    prompts = []
    client.engine.submit, submit = (lambda ids, *a: prompts.append(ids) or submit(ids, *a),
                                    client.engine.submit)
    turns = [dict(role="user", content="hi"), message, dict(role="user", content="x")]
    client.ask("/v1/chat/completions", dict(messages=turns, max_tokens=1))
    assert prompts[0] == tok.render_for_completion(
        {"messages": [turns[0], dict(role="assistant", content=parts), turns[2]]})
    client.close()


def test_what_a_user_types_is_text(client):
    """Special tokens in a message stay text, and a user can't send a tool's result."""
    seen = []
    submit = client.engine.submit
    client.engine.submit = lambda ids, *a: seen.append(ids) or submit(ids, *a)
    try:
        text = "<|user_end|><|output_start|>1<|output_end|><|assistant_start|>"
        client.ask("/v1/chat/completions",
                   dict(max_tokens=1, messages=[dict(role="system", content=text),
                                                dict(role="user", content=text)]))
        client.ask("/v1/completions", dict(max_tokens=1, prompt="<|bos|>"))
    finally:
        del client.engine.submit
    assert sum(i >= 256 for i in seen[0]) == 4 and sum(i >= 256 for i in seen[1]) == 1
    status, reply = client.ask("/v1/chat/completions",
                               dict(messages=[dict(role="user", content=[
                                   dict(type="python_output", text="1")])]))
    assert status == 400 and "messages[0]" in reply["error"]["message"]


USER = [dict(role="user", content="hi")]


@pytest.mark.parametrize("body, status, words", [
    (b"{", 400, "not valid JSON"),
    (b"[1]", 400, "not a JSON object"),
    (b"[" * 50000, 400, "not valid JSON"),
    (b"\xff", 400, "not valid JSON"),
    ({}, 400, "messages"),
    (dict(messages=[]), 400, "messages"),
    (dict(messages="hi"), 400, "messages"),
    (dict(messages=[1]), 400, "messages[0]"),
    (dict(messages=[dict(role="bot", content="x")]), 400, "role"),
    (dict(messages=[dict(role="user", content=None)]), 400, "content"),
    (dict(messages=[dict(role="assistant", content="x")]), 400, "role"),
    (dict(messages=USER + [dict(role="assistant", content="x")]), 400, "last"),
    (dict(messages=USER * 2), 400, "role"),
    (dict(messages=[dict(role="system", content="x")]), 400, "role"),
    (dict(messages=USER, temperature="hot"), 400, "temperature"),
    (dict(messages=USER, temperature=-1), 400, "temperature"),
    (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400, "temperature"),
    (dict(messages=USER, top_p=2), 400, "top_p"),
    (dict(messages=USER, top_k=0.5), 400, "top_k"),
    (dict(messages=USER, n=0), 400, "n is 0"),
    (dict(messages=USER, n=1000), 400, "n is 1000"),
    (dict(messages=USER, max_tokens=0), 400, "max_tokens"),
    (dict(messages=USER, max_tokens=True), 400, "max_tokens"),
    (dict(messages=USER, seed="x"), 400, "seed"),
    (dict(messages=USER, stop=[""]), 400, "stop"),
    (dict(messages=USER, stop=5), 400, "stop"),
    (dict(messages=USER, stop=["x"] * 9), 400, "stop"),
    (dict(messages=USER, tools=[dict(type="function")]), 400, "tools"),
    (dict(messages=USER, logprobs=True), 400, "logprobs"),
    (dict(messages=USER, response_format=dict(type="json_object")), 400, "response_format"),
    (dict(messages=USER, stream_options=1), 400, "stream_options"),
    (dict(messages=USER, model="gpt-5"), 404, "gpt-5"),
    (dict(messages=[dict(role="user", content="x" * 600)]), 400, "512 tokens"),
    (dict(messages=[dict(role="user", content="x" * 900000)]), 400, "512 tokens"),
    (b"x" * (2 << 20), 413, "limit")])
def test_errors_have_openais_shape(client, body, status, words):
    got, reply = client.ask("/v1/chat/completions", body)
    error = reply["error"]
    assert (got == status and words in error["message"]
            and set(error) == {"message", "type", "param", "code"})
    if words == "512 tokens":
        assert error["code"] == "context_length_exceeded"


def test_addresses_and_methods(client):
    assert (client.ask("/nope")[0] == client.ask("/nope", {})[0]
            == client.ask("/v1/models", {})[0] == 404)
    assert client.ask("/health", method="DELETE")[0] == 501
    assert client.ask("/v1/chat/completions", {}, **{"Content-Type": "text/plain"})[0] == 415


def test_surrogates_and_control_characters_pass(client):
    body = (b'{"max_tokens": 2, "messages": '
            b'[{"role": "user", "content": "\\ud800 \\u0000 \\u202e"}]}')
    assert client.ask("/v1/chat/completions", body)[0] == 200


# ---- many at once ----

def test_requests_in_flight_are_one_batch_and_do_not_change_each_other(client):
    texts = [f"question {i}" * (1 + i % 3) for i in range(12)]
    widths, next = [], client.engine.decoder.next
    # Slow the engine down, so that all twelve arrive before the first is done.
    client.engine.decoder.next = (
        lambda ids, *args: widths.append(len(ids)) or time.sleep(0.01) or next(ids, *args))
    try:
        with ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(lambda t: client.chat(t, seed=3)[1], texts))
    finally:
        del client.engine.decoder.next
    assert max(widths) > 4
    assert [r["choices"][0]["message"]["parts"] for r in replies] == [
        expected(t, seed=3)[0] for t in texts]


POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


def raw_request(client, body):
    """Send a request on a bare socket and read nothing."""
    data = json.dumps(body).encode()
    s = socket.create_connection(("127.0.0.1", client.port))
    s.sendall(POST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
              + data)
    return s


def endless(client):
    """Slow the engine down and let no answer end by itself, so that there is time to vanish."""
    next = client.engine.decoder.next
    client.engine.decoder.next = lambda *args: time.sleep(0.1) or next(*args)
    client.engine.specials[0, list(client.tok.specials).index("<|assistant_end|>")] = -torch.inf


def test_vanished_clients_free_their_place():
    client = Client()
    endless(client)
    for stream in (True, False):
        s = raw_request(client, dict(messages=USER, stream=stream, max_tokens=450))
        time.sleep(0.2)
        assert client.server.worker.load == 1
        s.close()
        # All 450 tokens would take 45 seconds.
        assert client.idle(20)
    client.close()


def test_a_client_that_reads_nothing_holds_up_nobody(client):
    idle = [raw_request(client, dict(messages=USER, stream=True, max_tokens=400, temperature=1))
            for _ in range(4)]
    start = time.monotonic()
    assert client.chat(max_tokens=10)[0] == 200 and time.monotonic() - start < 20
    for s in idle:
        s.close()
    assert client.idle()


def test_a_full_queue_answers_429_and_time_limits_cut():
    client = Client(max_queue=3, time_limit=1.0)
    endless(client)
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(client.chat, max_tokens=450) for _ in range(3)]
        time.sleep(0.3)
        status, reply = client.chat()
        assert status == 429 and reply["error"]["type"] == "rate_limit_error"
        start = time.monotonic()
        assert ({r.result()[1]["choices"][0]["finish_reason"] for r in running} == {"length"}
                and time.monotonic() - start < 20)
    assert client.chat(max_tokens=1)[0] == 200
    client.close()


@pytest.mark.parametrize("method", ["step", "submit"])
def test_an_engine_failure_fails_its_requests_and_not_the_server(method, capfd):
    client = Client()
    good = client.chat(temperature=0)

    def broken(*args):
        delattr(client.engine, method)
        raise RuntimeError("out of memory")
    setattr(client.engine, method, broken)
    status, reply = client.chat(n=2)
    assert (status == 500 and reply["error"]["code"] == "engine_error"
            and "out of memory" in capfd.readouterr().err)
    assert client.idle() and client.chat(temperature=0)[1]["choices"] == good[1]["choices"]
    client.close()


def test_shutdown_finishes_what_is_running(out):
    """The real process gets SIGTERM while it streams: it finishes the answer and exits with 0."""
    process = subprocess.Popen([sys.executable, "chat.py", "--serve", "--port", "0",
                                "--out", str(out), "--device", "cpu"],
                               cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True)
    port = int(process.stdout.readline().split("127.0.0.1:")[1].split()[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/chat/completions",
                       json.dumps(dict(messages=USER, stream=True, max_tokens=200, seed=1)),
                       {"Content-Type": "application/json"})
    response = connection.getresponse()
    begin = response.read(300)
    process.send_signal(signal.SIGTERM)
    assert (begin + response.read()).endswith(b"data: [DONE]\n\n")
    assert process.wait(60) == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port))


# ---- safety ----

@pytest.mark.parametrize("names", ["my.box,other.box", "other.box, My.box", ""])
@pytest.mark.parametrize("host, ok", [
    ("localhost", True), ("localhost:8000", True), ("127.0.0.1:1", True), ("[::1]:8000", True),
    ("192.168.0.7:8000", True), ("my.box", "listed"), ("evil.example", False),
    ("evil.example:8000", False), ("127.0.0.1.evil.example", False),
    ("localhost.evil.example", False), ("", False)])
def test_only_known_hosts(host, ok, names):
    client = Client(allow_host=names)
    ok = ok is True or ok == "listed" and names
    assert [client.ask(path, Host=host)[0] for path in ("/health", "/", "/v1/models")] == [
        200 if ok else 403] * 3
    client.close()


def test_other_sites_are_refused(client):
    same = f"http://127.0.0.1:{client.port}"
    for origin, status in [(same, 200), ("http://evil.example", 403), ("null", 403),
                           (same + "1", 403), ("http://127.0.0.1", 403)]:
        assert client.ask("/v1/chat/completions", dict(messages=USER, max_tokens=1),
                          Origin=origin)[0] == status


def test_api_key():
    client = Client(api_key="secret ü")
    for header, status in [({}, 401), (dict(Authorization="Bearer wrong"), 401),
                           (dict(Authorization="secret"), 401)]:
        assert (client.ask("/v1/models", **header)[0]
                == client.ask("/v1/chat/completions", dict(messages=USER), **header)[0] == status)
    assert client.ask("/health")[0] == client.ask("/")[0] == 200
    client.close()
    client = Client(api_key="secret")
    assert client.ask("/v1/models", Authorization="Bearer secret")[0] == 200
    client.close()


def test_smuggled_and_torn_requests_end_the_connection(client):
    for request in (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
                    POST + b"\r\n",
                    b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\n\r\n"
                    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
                    b"nonsense\r\n\r\n",
                    b"GET / HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n",
                    POST + b"Content-Length: -5\r\n\r\n"):
        s = socket.create_connection(("127.0.0.1", client.port), timeout=5)
        s.sendall(request)
        data = b""
        # This loop ends because the server closes the connection.
        while piece := s.recv(65536):
            data += piece
        assert data.count(b"HTTP/1.1 ") <= 1 and b" 200 " not in data and b'"error"' in data
        s.close()


def test_connections_are_kept_for_the_next_request(client):
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=5)
    for _ in range(2):
        connection.request("POST", "/v1/chat/completions",
                           json.dumps(dict(messages=USER, max_tokens=2)),
                           {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200 and response.read() and not response.will_close
        client_socket = connection.sock
        assert client_socket is connection.sock is not None
    connection.close()


def test_the_page_carries_its_policy(client):
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=5)
    connection.request("GET", "/")
    response = connection.getresponse()
    policy, page = response.getheader("Content-Security-Policy"), response.read().decode()
    assert ("default-src 'none'" in policy and "script-src 'sha256-" in policy
            and "frame-ancestors 'none'" in policy)
    for bad in ("innerHTML", "insertAdjacent", "document.write", "eval(", "http://", "https://",
                "src="):
        assert bad not in page


# ---- the official client ----

def test_the_openai_client(client):
    openai = pytest.importorskip("openai")
    api = openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none",
                        max_retries=0)
    assert [m.id for m in api.models.list()] == ["tiny"]
    reply = api.chat.completions.create(model="tiny", messages=USER, temperature=0,
                                        max_completion_tokens=20)
    parts, n = expected(max_tokens=20, temperature=0)
    assert (reply.choices[0].message.content == content_of(parts)
            and reply.usage.completion_tokens == n)
    streamed = api.chat.completions.create(model="tiny", messages=USER, temperature=0,
                                           max_tokens=20, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == content_of(parts)
    assert len(api.chat.completions.create(model="tiny", messages=USER, n=2, stop=["q"], seed=1,
                                           top_p=0.9).choices) == 2
    assert api.completions.create(model="tiny", prompt="ab",
                                  max_tokens=3).choices[0].finish_reason in ("length", "stop")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        api.chat.completions.create(model="tiny", messages=USER, temperature=-1)
    with pytest.raises(openai.NotFoundError, match="gpt-5"):
        api.chat.completions.create(model="gpt-5", messages=USER)


# ---- the page, in a real browser ----

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser",
                                                "google-chrome"])), None)


class Browser:
    """Headless Chromium, driven through its DevTools pipe without any package.

    Messages in both directions are JSON and end with a zero byte.
    """

    def __init__(self, profile):
        read_3, self.to = os.pipe()
        self.back, write_4 = os.pipe()
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu",
                   "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
                   "--disable-extensions", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        # Chromium reads its commands from file descriptor 3 and writes to 4.
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read_3} 4>&{write_4}', "-", *command],
            pass_fds=(read_3, write_4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read_3), os.close(write_4)
        self.count, self.buffer = 0, b""

    def call(self, method, session=None, **params):
        self.count += 1
        message = dict(id=self.count, method=method, params=params,
                       **({"sessionId": session} if session else {}))
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                piece = os.read(self.back, 1 << 16)
                assert piece, "the browser has gone"
                self.buffer += piece
            text, self.buffer = self.buffer.split(b"\0", 1)
            reply = json.loads(text)
            if reply.get("id") == self.count:
                assert "error" not in reply, reply
                return reply["result"]

    def open(self, url):
        return Tab(self, url)

    def close(self):
        self.process.terminate()
        self.process.wait(10)
        os.close(self.to), os.close(self.back)


class Tab:
    def __init__(self, browser, url):
        self.browser = browser
        target = browser.call("Target.createTarget", url=url)["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target,
                                    flatten=True)["sessionId"]
        self.wait("document.readyState === 'complete' && "
                  "document.querySelector('#model')?.textContent")

    def js(self, code):
        result = self.browser.call("Runtime.evaluate", self.session, expression=code,
                                   awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not self.js(f"!!({condition})"):
            assert time.monotonic() < end, (f"{condition}: not within {seconds} s; "
                                            f"{self.js('document.body.innerText')}")
            time.sleep(0.03)

    def type(self, text, enter=True):
        self.browser.call("Target.activateTarget", targetId=self.js("1") and self.target_id())
        self.js("document.querySelector('#input').focus()")
        self.browser.call("Input.insertText", self.session, text=text)
        if enter:
            self.key("Enter", 13, "\r")

    def target_id(self):
        return self.browser.call("Target.getTargetInfo", self.session)["targetInfo"]["targetId"]

    def key(self, key, code, text=""):
        for type in ("keyDown", "keyUp"):
            self.browser.call("Input.dispatchKeyEvent", self.session, type=type, key=key,
                              windowsVirtualKeyCode=code, text=text if type == "keyDown" else "")

    def texts(self):
        return self.js("[...document.querySelectorAll('.message .text')].map(e => e.textContent)")


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
def test_the_page_in_chromium(tmp_path):
    tok = byte_tokenizer()
    engine = Engine(tiny_model(seq_len=512), tok)
    say = "<img src=x onerror=alert(1)>é😀"
    script = [*tok.encode(say), tok.special("<|python_start|>"), *tok.encode("6*7"),
              tok.special("<|python_end|>"), *[0] * 4, *tok.encode(" ok" + "." * 60),
              tok.special("<|assistant_end|>")]
    engine.decoder = Scripted(engine, script, None)
    client = Client(engine, tok, max_tokens=200)
    browser = Browser(tmp_path)
    try:
        url = f"http://127.0.0.1:{client.port}/"
        one = browser.open(url)
        done = ("document.querySelector('#send').textContent === 'Send' && "
                "document.querySelectorAll('.assistant').length")
        # Type and send. Text stays text.
        one.type("<b>hello</b>")
        one.wait(done)
        full = one.texts()
        assert full[0] == "<b>hello</b>" and full[1] == say + "6*742" + " ok" + "." * 60
        assert one.js("document.querySelectorAll('.text img, .text b').length") == 0
        assert one.js("[...document.querySelectorAll('.tool')]"
                      ".map(e => e.className + ':' + e.textContent)") == \
            ["tool python:6*7", "tool python_output:42"]
        # Watch a stream, then stop it. The engine stops as well.
        engine.decoder.delay = 0.05
        one.type("again")
        one.wait("document.querySelectorAll('.assistant .text')[1]?.textContent.length > 5")
        assert one.js("document.querySelector('#send').textContent") == "Stop"
        one.key("Escape", 27)
        one.wait(done)
        partial = one.texts()
        assert len(partial) == 4 and 5 < len(partial[3]) < len(full[1])
        assert client.idle()
        # Two tabs are answered at once, and each has its own conversation.
        engine.decoder.delay = 0.01
        two = browser.open(url)
        assert two.texts() == []
        two.type("from the second tab")
        one.js("document.querySelector('#send').focus()")
        one.type("from the first tab")
        one.wait(done + " === 3")
        two.wait(done + " === 1")
        assert (one.texts()[4] == "from the first tab"
                and two.texts() == ["from the second tab", full[1]])
        # A reload keeps the conversation of the tab.
        one.browser.call("Page.reload", one.session)
        time.sleep(0.3)
        one.wait("document.querySelectorAll('.message').length === 6 && "
                 "document.querySelector('#model')?.textContent")
        assert one.texts()[:2] == full and one.texts()[5] == full[1]
        # Regenerate the last answer.
        one.js("[...document.querySelectorAll('.message:last-child button')]"
               ".find(b => b.textContent === 'Regenerate').click()")
        one.wait("document.querySelector('#send').textContent === 'Stop'")
        one.wait(done)
        assert one.texts()[5] == full[1] and len(one.texts()) == 6
        # Edit the second question: the conversation goes on from there.
        one.js("[...document.querySelectorAll('.message')[2].querySelectorAll('button')]"
               ".find(b => b.textContent === 'Edit').click()")
        one.js("document.querySelector('.message textarea').value = 'edited'")
        one.js("[...document.querySelectorAll('.message button')]"
               ".find(b => b.textContent === 'Send').click()")
        one.wait(done + " === 2")
        assert one.texts()[2:] == ["edited", full[1]]
        # The theme button changes the colours.
        background = "getComputedStyle(document.body).backgroundColor"
        assert one.js(background) != one.js(
            f"document.querySelector('#theme').click(), {background}")
        # The settings and the tool calls of earlier turns reach the engine.
        sent = []
        submit = client.engine.submit
        client.engine.submit = lambda ids, n, sampling, *a: (
            sent.append((ids, n, sampling)) or submit(ids, n, sampling, *a))
        one.js("document.querySelector('#show').click();"
               "for (const [id, v] of [['temperature', '0.3'], ['max_tokens', '7'], "
               "['system', 'Be kind.']])"
               "{ const e = document.querySelector('#' + id); e.value = v; "
               "e.dispatchEvent(new Event('input')); }")
        one.type("settings")
        one.wait(done + " === 3")
        ids, n, sampling = sent[0]
        assert (n == 7 and sampling.temperature == 0.3
                and "Be kind.\n\nedited" not in tok.decode(ids))
        assert "Be kind.\n\n<b>hello</b>" in tok.decode(ids)
        assert "6*7<|python_end|><|output_start|>42<|output_end|>" in tok.decode(ids)
        # The page fits on a small phone.
        one.browser.call("Emulation.setDeviceMetricsOverride", one.session, width=360, height=640,
                         deviceScaleFactor=2, mobile=True)
        assert one.js("document.documentElement.scrollWidth <= 360 && "
                      "document.querySelector('#send').getBoundingClientRect().bottom <= 640")
        # A new chat begins empty.
        two.js("document.querySelector('#new').click()")
        assert two.texts() == []
    finally:
        browser.close()
        client.close()
