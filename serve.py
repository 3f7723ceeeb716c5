"""
The server behind `python chat.py --serve`: a chat page (serve.html) and the OpenAI protocol on http://127.0.0.1:8000.

GET  /                       the page                 GET  /health                 {"status": "ok", ...}
POST /v1/chat/completions    messages -> answer       GET  /v1/models              the one model that is served
POST /v1/completions         raw text -> its continuation

    curl http://127.0.0.1:8000/v1/chat/completions -H "Content-Type: application/json" \\
         -d '{"messages": [{"role": "user", "content": "Who are you?"}], "stream": true}'
    OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none").chat.completions.create(model="sft", messages=[...])

Every connection has a thread of its own, and one thread owns the engine. A request hands its prompts to that thread,
which decodes all requests as one batch, and reads the new ids from a queue: a client that reads slowly or vanishes
holds up nobody. Beyond OpenAI: top_k, min_p and repetition_penalty in the request; "parts" in messages and deltas,
where tool calls and their results stand apart (in "content" a result stands where the model put it, without the call).
"""
import base64, hashlib, hmac, ipaddress, json, queue, random, re, select, signal, socket, threading, time, traceback
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from chat import PartStream, Sampling, add_text
from common import merge_system

MAX_BODY = 1 << 20                # bytes of a request
MAX_CONNECTIONS = 256             # threads, most of them idle browsers
SOCKET_TIMEOUT = 30               # seconds that a client may take to send or take the next bytes
FLUSH_SECONDS = 0.02     # ids that come within this time share a write: 50 writes a second look smooth, more cost speed


class ApiError(Exception):
    """An answer in OpenAI's error shape."""

    def __init__(self, status, message, code=None, param=None):
        super().__init__(message)
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        self.status, self.body = status, {"error": {
            "message": message, "type": kinds.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            "param": param, "code": code}}

# ---------------------------------------------------------------------------------------------------------------------
# The thread that owns the engine

class Job:
    """What one request asks of the engine: n answers to each prompt (ids). events: (index of answer, ids, finish)."""

    def __init__(self, prompts, n, max_tokens, sampling, raw, seconds):
        self.prompts, self.n, self.max_tokens, self.sampling, self.raw = prompts, n, max_tokens, sampling, raw
        self.size, self.deadline = n * len(prompts), time.monotonic() + seconds
        self.events, self.cancelled = queue.SimpleQueue(), set()             # cancelled: indices


class Worker(threading.Thread):
    """Steps the engine while there is work. Texts join and leave between two steps."""

    def __init__(self, engine, max_queue):
        super().__init__(daemon=True)
        self.engine, self.max_queue = engine, max_queue
        self.new, self.running, self.load, self.stopping = [], {}, 0, False  # running: {Generation: (Job, index)}
        self.wake, self.threads = threading.Condition(), torch.get_num_threads()

    def submit(self, job):
        """ApiError 429 if the queue is full, 503 while shutting down."""
        with self.wake:
            if self.stopping:
                raise ApiError(503, "the server is shutting down", "shutting_down")
            if self.load + job.size > self.max_queue:
                raise ApiError(429, f"{self.load} answers are running or waiting, the limit is {self.max_queue}: try "
                                    f"again later", "queue_full")
            self.load += job.size
            self.new.append(job)
            self.wake.notify()

    def stop(self):
        """Take nothing new, finish what is there."""
        with self.wake:
            self.stopping = True
            self.wake.notify()

    def run(self):
        torch.set_flush_denormal(True)                                       # both are settings of each thread
        torch.set_num_threads(self.threads)
        while True:
            with self.wake:
                while not (self.new or self.running or self.stopping):
                    self.wake.wait()
                jobs, self.new = self.new, []
                if self.stopping and not jobs and not self.running:
                    return
            try:
                self.round(jobs)
            except Exception:                                # out of memory, say: these requests fail, the server stays
                traceback.print_exc()
                for text, (job, index) in list(self.running.items()):
                    self.finish(text, [], "error")
                self.engine.reset()

    def round(self, jobs):
        for job in jobs:
            for index in range(job.size):
                prompt, copy = job.prompts[index // job.n], index % job.n
                text = self.engine.submit(prompt, job.max_tokens, job.sampling, job.raw, copy)
                self.running[text] = job, index
        now = time.monotonic()
        for text, (job, index) in list(self.running.items()):
            if index in job.cancelled or now > job.deadline:
                self.engine.cancel(text)
                self.finish(text, [], "length")
        for text, new in self.engine.step():
            if text.finish:
                self.finish(text, new, text.finish)
            else:
                job, index = self.running[text]
                job.events.put((index, new, ""))

    def finish(self, text, new, why):
        job, index = self.running.pop(text)
        with self.wake:
            self.load -= 1
        job.events.put((index, new, why))

# ---------------------------------------------------------------------------------------------------------------------
# The OpenAI protocol: requests in, answers out

class Choice:
    """One answer on its way out: ids in, (part type, text) deltas out, cut at the first stop string."""

    def __init__(self, tok, stop):
        self.stream, self.stop, self.held, self.type = PartStream(tok), stop, "", "text"
        self.parts, self.n_tokens, self.finish = [], 0, ""

    def feed(self, ids, finish):
        """-> deltas. A tail that may become a stop string is held back until it is clear."""
        out = []
        for id in [*ids, *([None] if finish else [])]:                       # None: the end
            if not self.finish:
                self.n_tokens += id is not None
                for type, text in self.stream.flush() if id is None else self.stream.feed(id):
                    self.add(out, type, text)
        if finish and not self.finish:
            self.release(out)
            self.finish = finish
        for type, text in out:
            add_text(self.parts, type, text)
        return out

    def release(self, out):
        if self.held:
            out.append((self.type, self.held))
            self.held = ""

    def add(self, out, type, text):
        if self.finish:
            return
        if type != self.type or text == "":                                  # a part begins
            self.release(out)
            self.type = type
            if text == "":
                out.append((type, ""))
        text = self.held + text
        if type != "python":
            found = [text.find(s) for s in self.stop if s in text]
            keep = max((k for s in self.stop for k in range(len(s)) if text.endswith(s[:k])), default=0)
            end = min(found) if found else len(text) - keep
            text, self.held, self.finish = text[:end], "" if found else text[end:], "stop" if found else ""
        if text:
            out.append((type, text))


def content_of(parts):
    """The answer as plain text: calls are left out, their results stand where the model put them."""
    return "".join(part["text"] for part in parts if part["type"] != "python")


def expect(ok, message, param, code=None):
    if not ok:
        raise ApiError(400, message, code, param)


def number(body, name, default, whole=True):
    """A number of the request, or the default where it is missing or null."""
    value = default if body.get(name) is None else body[name]
    expect(type(value) in ((int,) if whole else (int, float)),
           f"{name} is {json.dumps(value)[:50]}, expected a {'whole ' if whole else ''}number", name)
    return value


def read_request(body, tok, engine, cfg, settings, chat):
    """The JSON body of a request -> (Job, stop strings, stream, include_usage); ApiError 400 says what is wrong."""
    for name in ("tools", "functions", "tool_choice", "logprobs", "top_logprobs", "logit_bias", "presence_penalty",
                 "frequency_penalty", "suffix", "echo", "audio"):
        expect(body.get(name) in (None, False, 0, {}, [], "none", "auto"), f"{name} is not supported by this server",
               name, "unsupported_parameter")
    expect((body.get("response_format") or {"type": "text"}) == {"type": "text"},
           "response_format: only text is supported", "response_format", "unsupported_parameter")
    try:
        sampling = Sampling(**{name: number(body, name, random.getrandbits(32) if name == "seed" else default,
                                            whole=type(default) is int) for name, default in settings.items()})
    except ValueError as e:
        raise ApiError(400, str(e), param=str(e).split()[0]) from None
    n = number(body, "n", 1)
    max_tokens = number(body, "max_completion_tokens", number(body, "max_tokens", cfg.max_tokens))
    stop = [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []
    options = body.get("stream_options") or {}
    expect(1 <= n <= 16, f"n is {n}, expected 1 to 16", "n")
    expect(max_tokens >= 1, f"max_tokens is {max_tokens}, expected 1 or more", "max_tokens")
    expect(isinstance(stop, list) and len(stop) <= 4 and all(isinstance(s, str) and 0 < len(s) <= 200 for s in stop),
           "stop: expected up to 4 texts of 1 to 200 characters", "stop")
    expect(isinstance(options, dict), "stream_options: expected an object", "stream_options")
    if chat:
        prompts = [chat_prompt(body.get("messages"), tok, engine)]
    else:
        texts = [body.get("prompt")] if isinstance(body.get("prompt"), str) else body.get("prompt")
        expect(isinstance(texts, list) and 1 <= len(texts) <= 16 and all(isinstance(t, str) for t in texts),
               "prompt: expected a text or a list of up to 16 texts", "prompt")
        check_length(texts, tok, engine, "prompt")
        prompts = [[tok.special("<|bos|>")] + tok.encode(text) for text in texts]
    check_length(prompts, tok, engine, "messages" if chat else "prompt")
    job = Job(prompts, n, max_tokens, sampling, not chat, cfg.time_limit)
    return job, stop, bool(body.get("stream")), bool(options.get("include_usage"))


def check_length(texts, tok, engine, param):
    """Refuse what can't fit: ids, or a text before it is tokenized, for no token is longer than the longest one."""
    for text in texts:
        limit = (engine.max_len - 1) * (int(tok.token_bytes.max()) if isinstance(text, str) else 1)
        expect(len(text) <= limit, f"the prompt has {len(text)} {'characters' if isinstance(text, str) else 'tokens'}; "
               f"this model's context is {engine.max_len} tokens, prompt and answer together", param,
               "context_length_exceeded")


def chat_prompt(messages, tok, engine):
    """OpenAI messages -> ids up to <|assistant_start|>. Content is a text or a list of {"type": "text", "text"} parts;
    an assistant's may hold python and python_output parts, as this server sends them, a user's is never but text."""
    expect(isinstance(messages, list) and messages, "messages: expected a list of at least one message", "messages")
    record, said = [], ""
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        role = message.get("role") if isinstance(message, dict) else None
        role = "system" if role == "developer" else role
        expect(role in ("system", "user", "assistant"), f"{where}: expected the role system, user or assistant", where)
        allowed = ("text", "python", "python_output") if role == "assistant" else ("text",)
        parts = message.get("parts") if role == "assistant" and message.get("parts") else message.get("content")
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        expect(isinstance(parts, list) and all(isinstance(p, dict) and p.get("type") in allowed and
                                               isinstance(p.get("text"), str) for p in parts),
               f"{where}: expected content that is a text or a list of parts of type {' or '.join(allowed)}", where)
        text = "".join(p["text"] for p in parts)
        record.append({"role": role, "content": parts if role == "assistant" else text})
        said += text
    check_length([said], tok, engine, "messages")
    try:
        if merge_system(record)[-1]["role"] != "user":
            raise ValueError("the last message must be the user's")
        return tok.render_for_completion({"messages": record})
    except ValueError as e:
        raise ApiError(400, str(e), param="messages") from None


class Handler(BaseHTTPRequestHandler):
    """One connection. self.server has worker, tok, cfg, settings, model (its name), page, csp."""
    protocol_version, timeout = "HTTP/1.1", SOCKET_TIMEOUT

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        server, worker = self.server, self.server.worker
        model = {"id": server.model, "object": "model", "created": server.created, "owned_by": "tok2chat",
                 "context_length": worker.engine.max_len, "defaults": server.settings}
        health = {"status": "stopping" if worker.stopping else "ok", "model": server.model, "load": worker.load,
                  "max_queue": worker.max_queue}
        self.respond({"/health": lambda: self.send(200, health),
                      "/v1/models": lambda: self.send(200, {"object": "list", "data": [model]}),
                      f"/v1/models/{server.model}": lambda: self.send(200, model),
                      "/": lambda: self.send(200, server.page, "text/html; charset=utf-8", [
                          ("Content-Security-Policy", server.csp), ("Referrer-Policy", "no-referrer")])})

    def do_POST(self):
        self.respond({"/v1/chat/completions": lambda: self.complete(chat=True),
                      "/v1/completions": lambda: self.complete(chat=False)})

    def respond(self, routes):
        server = self.server
        with server.lock:
            server.requests += 1
        try:
            path = self.path.split("?")[0]
            self.keep_alive = not self.close_connection
            self.close_connection |= self.command == "POST"              # until its body is read: it is no next request
            self.check_sender(path)
            if path not in routes:
                raise ApiError(404, f"{self.command} {path[:100]}: no such address here", "not_found")
            routes[path]()
        except ApiError as e:
            self.send(e.status, e.body)
        except OSError:                                                 # the client has gone, or takes nothing any more
            self.close_connection = True
        finally:
            with server.lock:
                server.requests -= 1

    def check_sender(self, path):
        """A page of another site can make a browser send requests here, under our name (cross-site) or under its own
        name that it points to this address (DNS rebinding). Origin gives the first away, the Host header the second."""
        host = self.headers.get("Host", "")
        name = re.sub(r":\d+$", "", host).strip("[]").lower()
        try:
            known = bool(ipaddress.ip_address(name))                         # a rebound name is never an address
        except ValueError:
            known = name == "localhost" or name in self.server.cfg.allow_host.lower().split(",")
        if not known:
            raise ApiError(403, f"Host {host[:100]!r} is not a name of this server (start it with --allow_host NAME)",
                           "bad_host")
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            raise ApiError(403, f"Origin {origin[:100]!r} may not use this server", "bad_origin")
        key = self.server.cfg.api_key
        given = self.headers.get("Authorization", "").encode()
        if key and path.startswith("/v1/") and not hmac.compare_digest(given, f"Bearer {key}".encode()):
            raise ApiError(401, "a wrong API key, or none: send the header Authorization: Bearer KEY",
                           "invalid_api_key")

    def send_head(self, status, kind, headers=()):
        self.send_response(status)
        for name, value in [("Content-Type", kind), ("Cache-Control", "no-store"),
                            ("X-Content-Type-Options", "nosniff"), *headers,
                            *([("Connection", "close")] if self.close_connection else [])]:
            self.send_header(name, value)
        self.end_headers()

    def send(self, status, body, kind="application/json", headers=()):
        """body: bytes, or an object that becomes JSON."""
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        retry = [("Retry-After", "1")] if status == 429 else []
        self.send_head(status, kind, [("Content-Length", str(len(body))), *headers, *retry])
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code, message=None, explain=None):
        """What http.server itself finds wrong, a malformed request line say."""
        self.close_connection = True
        self.send(code, ApiError(code, message or "bad request").body)

    def read_body(self):
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,12}", length) or "Transfer-Encoding" in self.headers:
            raise ApiError(411, "a request needs the header Content-Length", "length_required")
        if int(length) > MAX_BODY:
            remaining = min(int(length), 16 * MAX_BODY)          # most clients read no answer before they have sent all
            while remaining > 0 and (piece := self.rfile.read(min(remaining, 1 << 16))):
                remaining -= len(piece)
            raise ApiError(413, f"a body of {length} bytes, the limit is {MAX_BODY}", "body_too_large")
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise OSError("the client has gone")
        self.close_connection = not self.keep_alive
        if self.headers.get_content_type() != "application/json":            # all that a foreign form can't send
            raise ApiError(415, "expected Content-Type: application/json", "bad_content_type")
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as e:
            raise ApiError(400, f"the body is not valid JSON ({e})", "bad_json") from None
        if not isinstance(body, dict):
            raise ApiError(400, "the body is not a JSON object", "bad_json")
        return body

    def complete(self, chat):
        server, body = self.server, self.read_body()
        model = body.get("model")
        if model not in (None, "", server.model):
            raise ApiError(404, f"the model {str(model)[:100]!r} does not exist here; this server has {server.model!r}",
                           "model_not_found", "model")
        job, stop, stream, usage = read_request(body, server.tok, server.worker.engine, server.cfg, server.settings,
                                                chat)
        choices = [Choice(server.tok, stop) for _ in range(job.size)]
        base = {"id": ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex, "created": int(time.time()),
                "object": ("chat.completion" if chat else "text_completion") + (".chunk" if stream and chat else ""),
                "model": server.model}
        server.worker.submit(job)
        try:
            if stream:
                return self.stream(job, choices, base, chat, usage)
            for _ in self.events(job, choices):
                pass
            whole = []
            for i, choice in enumerate(choices):
                content = content_of(choice.parts)
                answer = {"text": content} if not chat else {
                    "message": {"role": "assistant", "content": content, "refusal": None, "parts": choice.parts}}
                whole.append({"index": i, **answer, "logprobs": None, "finish_reason": choice.finish})
            self.send(200, base | {"choices": whole, "usage": self.usage(job, choices)})
        finally:
            job.cancelled.update(range(job.size))                       # if the client has gone; else it is done anyway

    def events(self, job, choices):
        """Yield {index: new parts} until all choices are finished; what came meanwhile comes together."""
        look = time.monotonic()
        while not all(c.finish for c in choices):
            events, news = [], {}
            try:
                events.append(job.events.get(timeout=0.2))
            except queue.Empty:
                pass
            events += [job.events.get() for _ in range(job.events.qsize())]
            if time.monotonic() - look > 0.2:
                look = time.monotonic()
                readable, _, _ = select.select([self.connection], [], [], 0)
                if readable and not self.connection.recv(1, socket.MSG_PEEK):
                    raise OSError("the client has gone")
            for index, ids, finish in events:
                if finish == "error":
                    raise ApiError(500, "the engine failed; its message is in the server's log", "engine_error")
                if not choices[index].finish:                           # else a stop string ended it before the engine
                    for type, text in choices[index].feed(ids, finish):
                        add_text(news.setdefault(index, []), type, text)
                    if choices[index].finish:
                        job.cancelled.add(index)
                        news.setdefault(index, [])
            yield news

    def usage(self, job, choices):
        prompt, answer = sum(map(len, job.prompts)), sum(c.n_tokens for c in choices)
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    def stream(self, job, choices, base, chat, usage):
        """Server-sent events. What fails half-way comes as an event, too: the status is sent already."""
        self.close_connection = True                                         # the end of the connection ends the stream
        self.send_head(200, "text/event-stream")
        if usage:
            base = base | {"usage": None}

        def send(*objects):
            self.wfile.write(b"".join(b"data: " + json.dumps(o).encode() + b"\n\n" for o in objects))

        def chunk(index, answer, finish=None):
            return base | {"choices": [{"index": index, **answer, "logprobs": None, "finish_reason": finish}]}
        if chat:
            send(*[chunk(i, {"delta": {"role": "assistant", "content": ""}}) for i in range(len(choices))])
        try:
            for news in self.events(job, choices):
                out = []
                for index, parts in news.items():
                    delta = {"content": content_of(parts), "parts": parts}
                    if parts:
                        out.append(chunk(index, {"delta": delta} if chat else {"text": delta["content"]}))
                    if choices[index].finish:
                        out.append(chunk(index, {"delta": {}} if chat else {"text": ""}, choices[index].finish))
                if out:
                    send(*out)
                    time.sleep(FLUSH_SECONDS)
        except ApiError as e:
            return send(e.body)
        if usage:
            send(base | {"choices": [], "usage": self.usage(job, choices)})
        self.wfile.write(b"data: [DONE]\n\n")


class Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 128

    def process_request(self, request, address):
        if threading.active_count() > MAX_CONNECTIONS:
            self.shutdown_request(request)
        else:
            super().process_request(request, address)

    def handle_error(self, request, address):
        traceback.print_exc()


def make_server(engine, tok, cfg, settings, model):
    """Bind the address and start the engine's thread. The caller runs serve_forever(); finish() ends it cleanly."""
    Server.address_family = socket.AF_INET6 if ":" in cfg.host else socket.AF_INET
    try:
        server = Server((cfg.host, cfg.port), Handler)
    except OSError as e:
        raise OSError(f"--host {cfg.host} --port {cfg.port}: {e.strerror or e}; choose another --port") from None
    page = Path(__file__).with_name("serve.html").read_bytes()

    def digest(tag):
        content = re.search(b"<%s>(.*?)</%s>" % (tag, tag), page, re.S)[1]
        return base64.b64encode(hashlib.sha256(content).digest()).decode()
    server.page, server.tok, server.cfg, server.settings, server.model = page, tok, cfg, settings, model
    # only this page's own script and style run, whatever text gets into it, and it talks to this server only
    server.csp = (f"default-src 'none'; script-src 'sha256-{digest(b'script')}'; "
                  f"style-src 'sha256-{digest(b'style')}'; connect-src 'self'; img-src data:; base-uri 'none'; "
                  f"form-action 'none'; frame-ancestors 'none'")
    server.lock, server.requests, server.created = threading.Lock(), 0, int(time.time())
    server.worker = Worker(engine, cfg.max_queue)
    server.worker.start()
    return server


def finish(server):
    """Close the door, then wait until everything that was accepted is answered."""
    server.server_close()
    server.worker.stop()
    server.worker.join()
    end = time.monotonic() + SOCKET_TIMEOUT
    while server.requests and time.monotonic() < end:                        # the last bytes are still on their way out
        time.sleep(0.01)


def serve(engine, tok, cfg, settings, model):
    """Run until Ctrl-C or SIGTERM; a second one ends it at once."""
    server = make_server(engine, tok, cfg, settings, model)
    host, port = server.server_address[:2]
    if not ipaddress.ip_address(host).is_loopback and not cfg.api_key:
        print(f"note: everyone who reaches {host} can use this server; --api_key KEY asks for a key", flush=True)

    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=server.shutdown).start()           # shutdown() waits for serve_forever, which runs here
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"serving {model} on {address}  (Ctrl-C finishes what is running and ends)", flush=True)
    server.serve_forever(poll_interval=0.1)
    print("finishing what is running", flush=True)
    finish(server)
