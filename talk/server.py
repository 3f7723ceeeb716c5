"""
The server behind `python chat.py --serve`: a chat page and the OpenAI protocol.
By default it listens on http://127.0.0.1:8000.

GET  /                       the page (page.html)
GET  /health                 {"status": "ok", ...}
GET  /v1/models              the one model that is served
POST /v1/chat/completions    messages -> answer
POST /v1/completions         raw text -> its continuation

    curl http://127.0.0.1:8000/v1/chat/completions -H "Content-Type: application/json" \\
         -d '{"messages": [{"role": "user", "content": "Who are you?"}], "stream": true}'

    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.chat.completions.create(model="sft", messages=[...])

Each connection has its own thread, and one more thread, the Worker, owns the engine. A connection
hands its prompts to the Worker, which decodes the prompts of all connections as one batch, and
reads the new ids from a queue. So a client that reads slowly or vanishes delays nobody else.
openai_protocol.py defines what requests and answers look like.
"""
import base64
import hashlib
import hmac
import ipaddress
import json
import queue
import re
import select
import signal
import socket
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from talk.openai_protocol import Answer, ApiError, read_request

# The largest request body, in bytes.
MAX_BODY = 1 << 20
# Each connection takes a thread. Most of them belong to idle browsers.
MAX_CONNECTIONS = 256
# How long a client may take to send or to receive the next bytes, in seconds.
SOCKET_TIMEOUT = 30
# How often to check that a client is still connected while it waits for its answer, in seconds.
LOOK_SECONDS = 0.2
# Ids that arrive within so many seconds share a write: 50 writes a second look smooth, and more
# would slow the engine down.
FLUSH_SECONDS = 0.02

# --------------------------------------------------------------------------------------------------
# The thread that owns the engine

class Job:
    """A request on its way through the engine: the Worker puts events, the Handler takes them."""

    def __init__(self, request, seconds):
        self.request = request
        self.deadline = time.monotonic() + seconds
        # Each event is (index of a choice, its new ids, why it ends here or "").
        self.events = queue.SimpleQueue()
        # Indices of the choices that nobody waits for any more.
        self.cancelled = set()

    def take(self):
        """All events so far. If there is none, wait up to LOOK_SECONDS for one."""
        try:
            first = self.events.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            return []
        return [first] + [self.events.get() for _ in range(self.events.qsize())]


class Worker(threading.Thread):
    """The thread that owns the engine. Generations join and leave between two of its steps."""

    def __init__(self, engine, max_queue):
        super().__init__(daemon=True)
        self.engine = engine
        self.max_queue = max_queue
        self.n_threads = torch.get_num_threads()
        # Guards stopping, new and load, and wakes the Worker when there is something to do.
        self.wake = threading.Condition()
        self.stopping = False
        # Choices that wait for the Worker, as pairs (job, index of the choice).
        self.new = []
        # {Generation: (job, index of the choice)}
        self.running = {}
        # How many choices are new or running.
        self.load = 0

    def submit(self, job):
        """Queue the choices of a job. ApiError 429: the queue is full; 503: shutting down."""
        with self.wake:
            if self.stopping:
                raise ApiError(503, "the server is shutting down", "shutting_down")
            size = job.request.size
            if self.load + size > self.max_queue:
                raise ApiError(429, f"{self.load} answers are running or waiting, the limit is "
                                    f"{self.max_queue}: try again later", "queue_full")
            self.load += size
            self.new += [(job, index) for index in range(size)]
            self.wake.notify()

    def stop(self):
        """Accept no more jobs and finish those that were accepted."""
        with self.wake:
            self.stopping = True
            self.wake.notify()

    def run(self):
        # Both of these settings hold for one thread only, so this thread makes them anew.
        torch.set_flush_denormal(True)
        torch.set_num_threads(self.n_threads)
        device = self.engine.specials.device
        if device.type == "cuda":
            # Without this, CUDA graphs would be recorded on the first GPU.
            torch.cuda.set_device(device)

        while True:
            with self.wake:
                self.wake.wait_for(lambda: self.new or self.running or self.stopping)
                new, self.new = self.new, []
                if self.stopping and not new and not self.running:
                    return
            try:
                self.step(new)
            except Exception:
                # Out of memory, for example: these answers fail, but the server lives on.
                traceback.print_exc()
                for job, index in [*new, *self.running.values()]:
                    self.finish(job, index, [], "error")
                self.running = {}
                self.engine.reset()

    def step(self, new):
        """One round: start the new choices, end the cancelled and late ones, step the rest.

        new: pairs (job, index of the choice), which leave this list as they start. If submit()
        raises, those that have not started are still in the list.
        """
        while new:
            job, index = new[0]
            request = job.request
            prompt = request.prompts[index // request.n]
            generation = self.engine.submit(prompt, request.max_tokens, request.sampling,
                                            raw=not request.chat, copy=index % request.n)
            self.running[generation] = new.pop(0)

        now = time.monotonic()
        for generation, (job, index) in list(self.running.items()):
            if index in job.cancelled or now > job.deadline:
                self.engine.cancel(generation)
                del self.running[generation]
                self.finish(job, index, [], "length")

        for generation, ids in self.engine.step():
            job, index = self.running[generation]
            if generation.finish:
                del self.running[generation]
                self.finish(job, index, ids, generation.finish)
            else:
                job.events.put((index, ids, ""))

    def finish(self, job, index, ids, why):
        """Send a choice its last ids."""
        with self.wake:
            self.load -= 1
        job.events.put((index, ids, why))

# --------------------------------------------------------------------------------------------------
# HTTP

class Handler(BaseHTTPRequestHandler):
    """One connection, in its own thread. self.server is the Server below."""
    protocol_version = "HTTP/1.1"
    timeout = SOCKET_TIMEOUT

    def log_message(self, format, *args):
        """Print nothing: http.server would print a line for each request."""

    def do_GET(self):
        server = self.server
        worker = server.worker
        model = {"id": server.model, "object": "model", "created": server.created,
                 "owned_by": "tok2chat", "context_length": worker.engine.max_len,
                 "defaults": server.settings}
        health = {"status": "stopping" if worker.stopping else "ok", "model": server.model,
                  "load": worker.load, "max_queue": worker.max_queue}
        self.respond({
            "/": lambda: self.send(200, server.page, "text/html; charset=utf-8",
                                   server.page_headers),
            "/health": lambda: self.send(200, health),
            "/v1/models": lambda: self.send(200, {"object": "list", "data": [model]}),
            f"/v1/models/{server.model}": lambda: self.send(200, model)})

    def do_POST(self):
        self.respond({"/v1/chat/completions": lambda: self.complete(chat=True),
                      "/v1/completions": lambda: self.complete(chat=False)})

    def respond(self, routes):
        """Send the answer of one route, or an error in OpenAI's shape.

        routes: {path: function that sends the answer}. An OSError means that the client has gone.
        """
        self.server.count_requests(1)
        try:
            path = self.path.split("?")[0]
            self.keep_alive = not self.close_connection
            if self.command == "POST":
                # Until read_body() has read the body, the connection can't be kept: the body would
                # be taken for the next request.
                self.close_connection = True
            self.check_sender(path)
            if path not in routes:
                raise ApiError(404, f"{self.command} {path[:100]}: no such address here",
                               "not_found")
            routes[path]()
        except ApiError as e:
            self.send(e.status, e.body)
        except OSError:
            # The client has gone, or has stopped reading.
            self.close_connection = True
        finally:
            self.server.count_requests(-1)

    def check_sender(self, path):
        """ApiError 403 for what another site's page makes a browser send here, 401 without the key.

        Such a page can use our own name (a cross-site request): the Origin header reveals it.
        Or it can let its name point to our address (DNS rebinding): the Host header reveals it.
        """
        cfg = self.server.cfg
        host = self.headers.get("Host", "")
        name = re.sub(r":\d+$", "", host).strip("[]").lower()
        our_names = ["localhost", *re.findall("[^ ,]+", cfg.allow_host.lower())]
        if not is_address(name) and name not in our_names:
            raise ApiError(403, f"Host {host[:100]!r} is not a name of this server "
                                f"(start it with --allow_host NAME)", "bad_host")

        # Requests of other programs than browsers have no Origin.
        origin = self.headers.get("Origin")
        our_origins = [f"http://{host}".lower(), f"https://{host}".lower()]
        if origin is not None and origin.lower() not in our_origins:
            raise ApiError(403, f"Origin {origin[:100]!r} may not use this server", "bad_origin")

        if cfg.api_key and path.startswith("/v1/"):
            given = self.headers.get("Authorization", "").encode()
            # This comparison takes equally long wherever the first difference is.
            if not hmac.compare_digest(given, f"Bearer {cfg.api_key}".encode()):
                raise ApiError(401, "the API key is missing or wrong: send the header "
                                    "Authorization: Bearer KEY", "invalid_api_key")

    def read_body(self):
        """The JSON object of a POST. ApiError says what is wrong with it."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,12}", length) or "Transfer-Encoding" in self.headers:
            raise ApiError(411, "a request needs the header Content-Length", "length_required")
        length = int(length)
        if length > MAX_BODY:
            self.skip_body(length)
            raise ApiError(413, f"the body has {length} bytes, the limit is {MAX_BODY}",
                           "body_too_large")
        data = self.rfile.read(length)
        if len(data) < length:
            raise OSError("the client has gone")
        self.close_connection = not self.keep_alive
        # A form on a page of another site can send every content type but this one without
        # asking us first.
        if self.headers.get_content_type() != "application/json":
            raise ApiError(415, "expected Content-Type: application/json", "bad_content_type")
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as e:
            raise ApiError(400, f"the body is not valid JSON ({e})", "bad_json") from None
        if not isinstance(body, dict):
            raise ApiError(400, "the body is not a JSON object", "bad_json")
        return body

    def skip_body(self, length):
        """Read and drop a body that is too large, up to 16 times the limit.

        Most clients read no answer before they have sent everything.
        """
        remaining = min(length, 16 * MAX_BODY)
        while remaining > 0 and (piece := self.rfile.read(min(remaining, 1 << 16))):
            remaining -= len(piece)

    def send_head(self, status, content_type, headers=()):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def send(self, status, body, content_type="application/json", headers=()):
        """Send a whole answer. body: bytes, or an object that becomes JSON."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = [("Content-Length", str(len(body))), *headers]
        if status == 429:
            headers.append(("Retry-After", "1"))
        self.send_head(status, content_type, headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code, message=None, explain=None):
        """For what http.server itself refuses, such as a malformed request line."""
        self.close_connection = True
        self.send(code, ApiError(code, message or "bad request").body)

    def complete(self, chat):
        """Answer a POST: a conversation (chat), or a raw text to continue."""
        server = self.server
        body = self.read_body()
        model = body.get("model")
        if model not in (None, "", server.model):
            raise ApiError(404, f"the model {str(model)[:100]!r} does not exist here; this server "
                                f"has {server.model!r}", "model_not_found", "model")
        request = read_request(body, chat, server.tok, server.worker.engine.max_len,
                               server.cfg.max_tokens, server.settings)
        job = Job(request, server.cfg.time_limit)
        answer = Answer(request, server.tok, server.model)
        server.worker.submit(job)
        try:
            if request.stream:
                self.stream(job, answer)
            else:
                for _ in self.news(job, answer):
                    pass
                self.send(200, answer.whole())
        finally:
            # This ends the work if the client has gone. Else the choices have finished already.
            job.cancelled.update(range(request.size))

    def news(self, job, answer):
        """Feed events to the answer until it has finished. Yields what Answer.feed() returns."""
        last_look = time.monotonic()
        while not answer.finished:
            events = job.take()
            if time.monotonic() - last_look > LOOK_SECONDS:
                last_look = time.monotonic()
                self.check_client()
            if any(finish == "error" for _, _, finish in events):
                raise ApiError(500, "the engine failed; its message is in the server's log",
                               "engine_error")
            news = answer.feed(events)
            for index in news:
                if answer.choices[index].finish:
                    # A choice that a stop string has finished still runs in the engine.
                    job.cancelled.add(index)
            yield news

    def check_client(self):
        """OSError if the client has closed the connection."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        if readable and not self.connection.recv(1, socket.MSG_PEEK):
            raise OSError("the client has gone")

    def stream(self, job, answer):
        """Send the answer as server-sent events, piece by piece.

        An error on the way is sent as an event as well, because the status has gone out already.
        """
        # The end of the stream is the end of the connection.
        self.close_connection = True
        self.send_head(200, "text/event-stream")

        def send_events(chunks):
            events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
            self.wfile.write(b"".join(events))

        send_events(answer.first_chunks())
        try:
            for news in self.news(job, answer):
                chunks = answer.chunks(news)
                if chunks:
                    send_events(chunks)
                    time.sleep(FLUSH_SECONDS)
        except ApiError as e:
            send_events([e.body])
            return
        send_events(answer.last_chunks())
        self.wfile.write(b"data: [DONE]\n\n")


def is_address(name):
    """Whether it is an IP address. DNS rebinding needs a name, so an address is safe."""
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return False


class Server(ThreadingHTTPServer):
    """Binds the address and starts the Worker. serve_forever() runs it, finish() ends it."""
    # Connections may stay open and idle, so neither closing the server nor the end of the process
    # waits for their threads.
    daemon_threads = True
    block_on_close = False
    # How many connections may wait until they are accepted.
    request_queue_size = 128

    def __init__(self, engine, tok, cfg, settings, model):
        """OSError if the address can't be bound.

        cfg: the Config of chat.py. model: the name of the model.
        settings: {field of Sampling: value}, used where a request leaves a field out.
        """
        self.address_family = socket.AF_INET6 if ":" in cfg.host else socket.AF_INET
        try:
            super().__init__((cfg.host, cfg.port), Handler)
        except OSError as e:
            raise OSError(f"--host {cfg.host} --port {cfg.port}: {e.strerror or e}; "
                          f"choose another --port") from None
        self.tok = tok
        self.cfg = cfg
        self.settings = settings
        self.model = model
        self.created = int(time.time())
        self.page = Path(__file__).with_name("page.html").read_bytes()
        self.page_headers = [("Content-Security-Policy", content_security_policy(self.page)),
                             ("Referrer-Policy", "no-referrer")]
        # How many requests are being answered.
        self.requests = 0
        self.lock = threading.Lock()
        self.worker = Worker(engine, cfg.max_queue)
        self.worker.start()

    def count_requests(self, change):
        with self.lock:
            self.requests += change

    def process_request(self, request, address):
        """Start the thread of a new connection. One too many is closed without a word."""
        if threading.active_count() > MAX_CONNECTIONS:
            self.shutdown_request(request)
        else:
            super().process_request(request, address)

    def handle_error(self, request, address):
        traceback.print_exc()

    def finish(self):
        """Accept no more connections, then wait until every accepted request is answered."""
        self.server_close()
        self.worker.stop()
        self.worker.join()
        end = time.monotonic() + SOCKET_TIMEOUT
        # The threads of the connections may still be writing the last bytes.
        while self.requests and time.monotonic() < end:
            time.sleep(0.01)


def content_security_policy(page):
    """The header that lets only the page's own script and style run, whatever text gets into it.

    page: bytes. Its script may talk to this server only.
    """
    def digest(tag):
        content = re.search(b"<%s>(.*?)</%s>" % (tag, tag), page, re.S)[1]
        return base64.b64encode(hashlib.sha256(content).digest()).decode()

    return (f"default-src 'none'; script-src 'sha256-{digest(b'script')}'; "
            f"style-src 'sha256-{digest(b'style')}'; connect-src 'self'; img-src data:; "
            f"base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def serve(engine, tok, cfg, settings, model):
    """Run the server until Ctrl-C or SIGTERM. A second one ends it at once."""
    server = Server(engine, tok, cfg, settings, model)
    host, port = server.server_address[:2]
    if not ipaddress.ip_address(host).is_loopback and not cfg.api_key:
        print(f"note: everyone who can reach {host} can use this server, "
              f"unless --api_key KEY asks for a key", flush=True)

    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)
        # shutdown() waits until serve_forever() returns, which runs in this very thread.
        threading.Thread(target=server.shutdown).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    # An IPv6 address stands in brackets in a URL.
    if ":" in host:
        host = f"[{host}]"
    print(f"serving {model} on http://{host}:{port}  "
          f"(Ctrl-C finishes the running answers, then ends the server)", flush=True)
    server.serve_forever(poll_interval=0.1)
    print("finishing the running answers", flush=True)
    server.finish()
