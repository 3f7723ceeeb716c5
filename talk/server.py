"""
The server behind `python chat.py --serve`: a chat page and the OpenAI protocol.
By default it listens on http://127.0.0.1:8000.

GET  /                       the page (page.html)
GET  /health                 {"status": "ok", ...}
GET  /v1/models              the stages that are served: every checkpoint in --out
POST /v1/chat/completions    messages -> answer
POST /v1/completions         raw text -> its continuation
POST /v1/responses           the same as chat completions, in OpenAI's newer objects
POST /v1/attention           {"model", "ids", "layer"} -> what its heads look at, for the page

    curl http://127.0.0.1:8000/v1/chat/completions -H "Content-Type: application/json" \\
         -d '{"messages": [{"role": "user", "content": "Who are you?"}], "stream": true}'

    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.chat.completions.create(model="sft", messages=[...])

Each connection has its own thread, and one more thread, the Worker, owns the engine. A connection
hands its prompts to the Worker, which decodes the prompts of all connections as one batch, and
reads the new ids from a queue. So a client that reads slowly or vanishes delays nobody else.
openai_protocol.py defines what requests and answers look like.

A request without a "model" is for the stage that chat.py names. Every other stage is loaded when
it is first asked for, by the thread of that connection, and has a Worker of its own. At most
--max_models are in memory: the one that nobody has used for the longest time makes room. A name
that is no stage's gets status 404, as from OpenAI.

A page of another site may use this server if --allow_origin names that site. Behind nginx, which
adds HTTPS, the public name goes into --allow_host chat.example.com:

    server {
        listen 443 ssl;
        server_name chat.example.com;
        ssl_certificate     /etc/ssl/chat.example.com.pem;
        ssl_certificate_key /etc/ssl/chat.example.com.key;
        location / {
            proxy_pass http://127.0.0.1:8000;
            proxy_read_timeout 150s;
        }
    }
"""
import base64
import gc
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
import urllib.parse
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from common import STAGES, load_checkpoint, read_meta
from talk.attention import attention_picture
from talk.openai_protocol import Answer, ApiError, expect, read_request
from talk.openai_responses import ResponseAnswer, chat_body

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
        # Each event is (index of a choice, its new ids, why it ends here or "", and the first id's
        # log-probability with the likeliest ids there, or None if the request does not ask).
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
        # What goes wrong with one answer must not end those of other people.
        engine.isolate_errors = True
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

        new: pairs (job, index of the choice), which leave this list as they start.
        """
        while new:
            job, index = new.pop(0)
            request = job.request
            prompt = request.prompts[index // request.n]
            try:
                generation = self.engine.submit(prompt, request.max_tokens, request.sampling,
                                                raw=not request.chat, copy=index % request.n,
                                                is_call=request.is_call, **request.scores)
            except Exception as e:
                self.fail(job, index, e)
                continue
            self.running[generation] = (job, index)

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
            if generation.finish == "error":
                self.fail(job, index, generation.error)
            elif generation.finish:
                self.finish(job, index, ids, generation.finish, generation.score)
            else:
                job.events.put((index, ids, "", generation.score))

    def fail(self, job, index, error):
        """End a choice because of an error, which goes to the log."""
        traceback.print_exception(error)
        self.finish(job, index, [], "error")

    def finish(self, job, index, ids, why, score=None):
        """Send a choice its last ids."""
        with self.wake:
            self.load -= 1
        job.events.put((index, ids, why, score))

# --------------------------------------------------------------------------------------------------
# The stages

class Stage:
    """A checkpoint that can be asked. The fields are guarded by Stages.changed."""

    def __init__(self):
        # None while it is not in memory.
        self.worker = None
        self.is_loading = False
        # How many requests use it or wait for it, and when the last one ended.
        self.users = 0
        self.used = 0.0


class Stages:
    """The checkpoints that are served, of which at most max_models are in memory."""

    def __init__(self, load, paths, cfg):
        """load(path) -> an Engine. paths() -> {name: path of a checkpoint}."""
        self.load = load
        self.paths = paths
        self.cfg = cfg
        self.stages = {}
        # Wakes those who wait for a stage.
        self.changed = threading.Condition()
        # Workers that have been told to stop, and whose memory is still taken.
        self.leaving = []
        self.stopping = False

    @contextmanager
    def use(self, name, look=lambda: None):
        """The Worker of a stage, which stays in memory within the `with`.

        look() is called while it waits, and may raise. ApiError 503 if it can't be had.
        """
        stage = self.borrow(name, look)
        try:
            yield stage.worker
        finally:
            with self.changed:
                stage.users -= 1
                stage.used = time.monotonic()
                self.changed.notify_all()

    def borrow(self, name, look):
        """Count one more user of a stage, which is loaded if it is not in memory."""
        end = time.monotonic() + self.cfg.time_limit
        with self.changed:
            stage = self.stages.setdefault(name, Stage())
            while stage.worker is None:
                if not stage.is_loading and self.make_room():
                    break
                look()
                if time.monotonic() > end:
                    raise ApiError(503, f"{name} is not in memory, and the {self.cfg.max_models} "
                                        f"models that are (--max_models) are all in use: try "
                                        f"again later", "model_busy", "model")
                self.changed.wait(LOOK_SECONDS)
            stage.users += 1
            if stage.worker is not None:
                return stage
            stage.is_loading = True
            leaving, self.leaving = self.leaving, []

        # Without the lock: whoever asks for a stage that is in memory does not wait for this.
        worker = None
        try:
            while leaving:
                leaving.pop().join()
            gc.collect()
            worker = Worker(self.load(self.paths()[name]), self.cfg.max_queue)
        except (OSError, KeyError, ValueError, torch.OutOfMemoryError) as e:
            traceback.print_exc()
            raise ApiError(503, f"{name} can't be loaded; the reason is in the server's log",
                           "model_not_loaded", "model") from e
        finally:
            with self.changed:
                stage.is_loading = False
                stage.worker = worker
                if worker is None:
                    stage.users -= 1
                else:
                    worker.start()
                    if self.stopping:
                        worker.stop()
                self.changed.notify_all()
        return stage

    def preload(self, name):
        """Load the first stage, with the errors of load()."""
        stage = self.stages[name] = Stage()
        stage.worker = Worker(self.load(self.paths()[name]), self.cfg.max_queue)
        stage.worker.start()

    def make_room(self):
        """Whether one more stage may be in memory, if need be in the place of one without users."""
        loaded = [stage for stage in self.stages.values() if stage.worker or stage.is_loading]
        if len(loaded) < self.cfg.max_models:
            return True
        idle = [stage for stage in loaded if stage.worker and not stage.users]
        if not idle:
            return False
        least = min(idle, key=lambda stage: stage.used)
        least.worker.stop()
        self.leaving.append(least.worker)
        least.worker = None
        return True

    def workers(self):
        """{name: Worker} of the stages in memory."""
        with self.changed:
            return {name: stage.worker for name, stage in self.stages.items() if stage.worker}

    def stop(self):
        """Load nothing any more, and finish what was accepted."""
        with self.changed:
            self.stopping = True
        workers = self.workers().values()
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()


def find_stages(out):
    """{name: path} of the checkpoints in a folder: first those of STAGES, in their order."""
    names = {path.parent.name: path.parent for path in sorted(Path(out).glob("*/meta.json"))}
    order = [name for name in STAGES if name in names]
    return {name: names[name] for name in [*order, *names]}

# --------------------------------------------------------------------------------------------------
# HTTP

class Handler(BaseHTTPRequestHandler):
    """One connection, in its own thread. self.server is the Server below.

    Every answer, and every piece of a stream, is one write. With two, or without TCP_NODELAY, the
    second waits until the client has acknowledged the first, which takes 40 ms on Linux (Nagle's
    algorithm against delayed acknowledgements, RFC 896 and RFC 1122).
    """
    protocol_version = "HTTP/1.1"
    timeout = SOCKET_TIMEOUT
    # TCP_NODELAY
    disable_nagle_algorithm = True
    # What the present request has led to: whether the head of the answer has gone out, whether the
    # body is still to be read, and headers for a page of another site.
    head_sent = False
    body_unread = False
    cors = ()

    def log_message(self, format, *args):
        """Print nothing: http.server would print a line for each request."""

    def routes(self):
        """{path without /v1: (its method, function that sends the answer)}"""
        server = self.server
        return {
            "/": ("GET", lambda: self.send(200, server.page, "text/html; charset=utf-8",
                                           server.page_headers)),
            "/health": ("GET", lambda: self.send(200, server.health())),
            "/models": ("GET", lambda: self.send(200, {"object": "list",
                                                       "data": server.models()})),
            "/chat/completions": ("POST", lambda: self.complete("chat")),
            "/completions": ("POST", lambda: self.complete("text")),
            "/responses": ("POST", lambda: self.complete("responses")),
            "/attention": ("POST", self.attention)}

    def respond(self):
        """Send the answer to a request, or an error in OpenAI's shape.

        An OSError means that the client has gone.
        """
        self.server.count_requests(1)
        self.head_sent = False
        self.cors = ()
        self.keep_alive = not self.close_connection
        length = self.headers.get("Content-Length", "0")
        self.body_unread = (self.command == "POST" or length != "0"
                            or "Transfer-Encoding" in self.headers)
        if self.body_unread:
            # Until read_body() has read the body, the connection can't be kept: the body would be
            # taken for the next request.
            self.close_connection = True
        try:
            self.route()
        except ApiError as e:
            self.send_failure(e)
        except OSError:
            # The client has gone, or has stopped reading.
            self.close_connection = True
        except Exception:
            traceback.print_exc()
            self.send_failure(ApiError(500, "the server failed; its message is in the server's log",
                                       "server_error"))
        except BaseException as e:
            # What tiktoken raises where its regular expressions run out of stack is no Exception.
            if type(e).__name__ != "PanicException":
                raise
            self.send_failure(ApiError(400, "the tokenizer can't read this text: it may have a "
                                            "million spaces in a row", "bad_text"))
        finally:
            self.server.count_requests(-1)

    do_GET = respond
    do_HEAD = respond
    do_POST = respond
    do_OPTIONS = respond

    def route(self):
        """Answer a request by its path and method. ApiError says what is wrong with it."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        # The address that clients are given may or may not end with /v1, and with a slash.
        path = re.sub("/+", "/", path)
        path = re.sub("^(/v1)+(?=/|$)", "", path).rstrip("/") or "/"
        self.check_sender()
        if self.command == "OPTIONS":
            self.send_options()
            return
        if path not in ("/", "/health"):
            self.check_key()
        if path.startswith("/models/") and self.command in ("GET", "HEAD"):
            self.send_model(path.removeprefix("/models/"))
            return
        method, answer = self.routes().get(path, ("", None))
        if method != self.command.replace("HEAD", "GET"):
            raise ApiError(404, f"{self.command} {self.path[:100]}: no such address here",
                           "not_found")
        answer()

    def check_sender(self):
        """ApiError 403 for what another site's page makes a browser send here.

        Such a page can use our own name (a cross-site request): the Origin header reveals it.
        Or it can let its name point to our address (DNS rebinding): the Host header reveals it.
        """
        server = self.server
        hosts = self.headers.get_all("Host", [])
        if len(hosts) > 1:
            raise ApiError(400, "more than one header Host", "bad_host")
        host = hosts[0] if hosts else None
        if host is None and self.request_version == "HTTP/1.0":
            # No browser is that old.
            host = "localhost"
        host = host or ""
        # A name may end in a dot, as in localhost.
        name = re.sub(r":\d+$", "", host).strip("[]").rstrip(".").lower()
        if not is_address(name) and name not in server.names:
            raise ApiError(403, f"Host {host[:100]!r} is not a name of this server "
                                f"(start it with --allow_host NAME)", "bad_host")

        # Requests of other programs than browsers have no Origin.
        origin = self.headers.get("Origin")
        if server.origins:
            self.cors = [("Vary", "Origin")]
        if origin is None:
            return
        if server.origins & {"*", origin.lower()}:
            self.cors.append(("Access-Control-Allow-Origin", origin))
            return
        # A proxy may put its own name for us into Host, while the browser knows the public name.
        _, _, public_name = origin.lower().partition("://")
        if public_name != host.lower() and public_name not in server.public_names:
            raise ApiError(403, f"Origin {origin[:100]!r} may not use this server "
                                f"(start it with --allow_origin {origin[:100]})", "bad_origin")

    def check_key(self):
        """ApiError 401 without the key of --api_key."""
        keys = self.server.keys
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        # http.server takes every byte of a header for a character. This strips no more than the
        # spaces, because other bytes of a key may look like white space in that way.
        given = given.strip(" ").encode("latin-1")
        # This comparison takes equally long wherever the first difference is.
        right = [hmac.compare_digest(given, key) for key in keys]
        if keys and not (scheme.lower() == "bearer" and any(right)):
            raise ApiError(401, "the API key is missing or wrong: send the header "
                                "Authorization: Bearer KEY", "invalid_api_key")

    def send_options(self):
        """Tell a browser what a page of an allowed site may send here (CORS)."""
        headers = [("Allow", "GET, HEAD, POST, OPTIONS")]
        if len(self.cors) > 1:
            wanted = self.headers.get("Access-Control-Request-Headers")
            headers += [("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS"),
                        ("Access-Control-Allow-Headers", wanted or "Authorization, Content-Type"),
                        ("Access-Control-Allow-Private-Network", "true"),
                        ("Access-Control-Max-Age", "600")]
        self.wfile.write(self.head(204, headers))

    def read_body(self):
        """The JSON object of a POST. ApiError says what is wrong with it."""
        data = self.read_data()
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

    def read_data(self):
        """The bytes of a body, which come in chunks or with their length.

        Both at once, or two lengths, is how a request is smuggled past a proxy.
        """
        self.body_unread = False
        lengths = self.headers.get_all("Content-Length", [])
        codings = self.headers.get_all("Transfer-Encoding", [])
        if codings:
            if lengths or [c.strip().lower() for c in codings] != ["chunked"]:
                raise ApiError(400, "expected Transfer-Encoding: chunked alone", "bad_length")
            return b"".join(self.read_chunks())
        if len(set(lengths)) != 1 or not re.fullmatch("[0-9]{1,12}", lengths[0]):
            raise ApiError(411, "a request needs the header Content-Length", "length_required")
        length = int(lengths[0])
        if length > MAX_BODY:
            self.skip_body(length)
            raise too_large(length)
        data = self.rfile.read(length)
        if len(data) < length:
            raise OSError("the client has gone")
        return data

    def read_chunks(self):
        """The pieces of a chunked body (RFC 9112, 7.1)."""
        pieces = []
        total = 0
        while True:
            line = self.rfile.readline(1000)
            if not line:
                raise OSError("the client has gone")
            size = line.partition(b";")[0].strip()
            if not re.fullmatch(b"[0-9a-fA-F]{1,8}", size) or not line.endswith(b"\n"):
                raise ApiError(400, "the body is not in chunks, as its header says", "bad_chunks")
            size = int(size, 16)
            if size == 0:
                break
            total += size
            if total > MAX_BODY:
                raise too_large(total)
            # Each chunk ends with an empty line.
            piece = self.rfile.read(size + 2)
            if len(piece) < size + 2:
                raise OSError("the client has gone")
            if piece[size:] != b"\r\n":
                raise ApiError(400, "a chunk of the body has another length than it says",
                               "bad_chunks")
            pieces.append(piece[:size])
        # Headers may follow, up to an empty line.
        for _ in range(100):
            if self.rfile.readline(1000) in (b"\r\n", b"\n", b""):
                return pieces
        raise ApiError(400, "too many headers behind the body", "bad_chunks")

    def skip_body(self, length):
        """Read and drop a body that is not wanted, up to 16 times the limit.

        Most clients read no answer before they have sent everything.
        """
        remaining = min(length, 16 * MAX_BODY)
        while remaining > 0 and (piece := self.rfile.read(min(remaining, 1 << 16))):
            remaining -= len(piece)

    def head(self, status, headers=()):
        """The status line and the headers of an answer, as bytes."""
        self.head_sent = True
        headers = [("Server", "tok2chat"), ("Date", self.date_time_string()),
                   ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"),
                   *headers, *self.cors]
        if self.close_connection:
            headers.append(("Connection", "close"))
        elif self.request_version == "HTTP/1.0":
            headers.append(("Connection", "keep-alive"))
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def send(self, status, body, content_type="application/json", headers=()):
        """Send a whole answer. body: bytes, or an object that becomes JSON."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), *headers]
        if status == 429:
            headers.append(("Retry-After", "1"))
        data = self.head(status, headers)
        if self.command != "HEAD":
            data += body
        self.wfile.write(data)

    def send_failure(self, error):
        """Send an ApiError, if the head of another answer has not gone out."""
        if self.head_sent:
            # A stream that ends without its last chunk is an error for the client.
            self.close_connection = True
            return
        try:
            # Closing a connection with unread bytes may take the answer from the client.
            if self.body_unread:
                self.read_data()
        except ApiError:
            pass
        except OSError:
            return
        try:
            self.send(error.status, error.body)
        except OSError:
            self.close_connection = True

    def send_error(self, code, message=None, explain=None):
        """For what http.server itself refuses, such as a malformed request line."""
        self.close_connection = True
        self.cors = ()
        self.send(code, ApiError(code, message or "bad request").body)

    def send_model(self, name):
        """Tell about one model. ApiError 404 if there is none of this name."""
        for model in self.server.models():
            if model["id"] == name:
                self.send(200, model)
                return
        raise self.server.unknown_model(name)

    def complete(self, kind):
        """Answer a POST: a conversation (chat, responses), or a raw text to continue."""
        server = self.server
        body = self.read_body()
        model = server.model_of(body)
        with server.stages.use(model, self.check_client) as worker:
            self.complete_by(worker, model, kind, body)

    def complete_by(self, worker, model, kind, body):
        """complete() by the Worker of the model."""
        cfg = self.server.cfg
        tok = worker.engine.tok
        asked = chat_body(body) if kind == "responses" else body
        request = read_request(asked, kind != "text", tok, worker.engine.max_len, cfg.max_tokens,
                               self.server.settings)
        job = Job(request, cfg.time_limit)
        if kind == "responses":
            answer = ResponseAnswer(request, tok, model, body)
        else:
            answer = Answer(request, tok, model)
        if request.max_tokens:
            worker.submit(job)
        else:
            # The prompt alone comes back.
            for index in range(request.size):
                job.events.put((index, [], "length", None))
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

    def attention(self):
        """Send what the heads of a layer look at in a text of ids."""
        server = self.server
        body = self.read_body()
        name = server.model_of(body)
        # One at a time, as each takes the memory of a model. The engines keep their weights in a
        # layout of their own, so this reads the checkpoint.
        if not server.looking.acquire(timeout=server.cfg.time_limit):
            raise ApiError(503, "others look at attention: try again later", "busy")
        try:
            model = server.load_model(server.stages.paths()[name])
            config = model.config
            ids, layer = body.get("ids"), body.get("layer", 0)
            are_ids = isinstance(ids, list) and all(
                type(id) is int and 0 <= id < config.vocab_size for id in ids)
            expect(are_ids and 0 < len(ids) <= config.seq_len,
                   f"ids: expected 1 to {config.seq_len} of them, each below {config.vocab_size}",
                   "ids")
            expect(type(layer) is int and 0 <= layer < config.n_layer,
                   f"layer: expected 0 to {config.n_layer - 1}", "layer")
            picture = attention_picture(model, ids, layer)
        except (OSError, KeyError, ValueError) as e:
            traceback.print_exc()
            raise ApiError(503, f"{name} can't be loaded; the reason is in the server's log",
                           "model_not_loaded", "model") from e
        finally:
            server.looking.release()
        self.send(200, picture)

    def news(self, job, answer):
        """Feed events to the answer until it has finished. Yields what Answer.feed() returns."""
        last_look = time.monotonic()
        while not answer.finished:
            events = job.take()
            if time.monotonic() - last_look > LOOK_SECONDS:
                last_look = time.monotonic()
                self.check_client()
            if any(finish == "error" for _, _, finish, _ in events):
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
        Each piece is a chunk (RFC 9112, 7.1), so that a client can tell the end of the answer from
        the end of this server. A client of HTTP/1.0 knows no chunks.
        """
        chunked = self.request_version != "HTTP/1.0"
        headers = [("Content-Type", "text/event-stream"),
                   # nginx would collect the pieces.
                   ("X-Accel-Buffering", "no")]
        if chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        else:
            self.close_connection = True

        def piece(objects, end=b""):
            data = b"".join(map(event, objects)) + end
            if chunked and data:
                return b"%x\r\n%s\r\n" % (len(data), data)
            return data

        self.wfile.write(self.head(200, headers) + piece(answer.first_chunks()))
        last_chunk = b"0\r\n\r\n" if chunked else b""
        try:
            for news in self.news(job, answer):
                chunks = answer.chunks(news)
                if chunks:
                    self.wfile.write(piece(chunks))
                    time.sleep(FLUSH_SECONDS)
        except ApiError as e:
            self.wfile.write(piece([answer.error_chunk(e)]) + last_chunk)
            return
        self.wfile.write(piece(answer.last_chunks(), answer.end) + last_chunk)


def event(chunk):
    """A JSON object -> a server-sent event. The objects of the Responses API say their type."""
    name = f"event: {chunk['type']}\n" if "type" in chunk else ""
    return f"{name}data: {json.dumps(chunk)}\n\n".encode()


def too_large(length):
    return ApiError(413, f"the body has {length} bytes, the limit is {MAX_BODY}", "body_too_large")


def is_address(name):
    """Whether it is an IP address. DNS rebinding needs a name, so an address is safe."""
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return False


class Server(ThreadingHTTPServer):
    """Binds the address and loads a stage. serve_forever() runs it, finish() ends it."""
    # Connections may stay open and idle, so neither closing the server nor the end of the process
    # waits for their threads.
    daemon_threads = True
    block_on_close = False
    # How many connections may wait until they are accepted.
    request_queue_size = 128

    def __init__(self, load, paths, cfg, settings, model):
        """OSError if the address can't be bound, ValueError if --allow_origin names no site.

        load(path) -> an Engine. paths() -> {name: path of a checkpoint}. cfg: the Config of
        chat.py. settings: {field of Sampling: value}, used where a request leaves a field out.
        model: the name of the stage for requests that name none.
        """
        self.stages = Stages(load, paths, cfg)
        self.address_family = socket.AF_INET6 if ":" in cfg.host else socket.AF_INET
        try:
            super().__init__((cfg.host, cfg.port), Handler)
        except OSError as e:
            raise OSError(f"--host {cfg.host} --port {cfg.port}: {e.strerror or e}; "
                          f"choose another --port") from None
        self.cfg = cfg
        self.settings = settings
        self.model = model
        # path -> a GPT on the CPU; held while one is in use.
        self.load_model = lambda path: load_checkpoint(path)[0]
        self.looking = threading.Lock()
        self.created = int(time.time())
        # Names by which others know this server, with a port if one is written there.
        self.public_names = set(re.findall("[^ ,]+", cfg.allow_host.lower()))
        self.names = {"localhost"} | {re.sub(r":\d+$", "", name) for name in self.public_names}
        self.origins = read_origins(cfg.allow_origin)
        self.keys = encodings(cfg.api_key)
        self.page = Path(__file__).with_name("page.html").read_bytes()
        self.page_headers = [("Content-Security-Policy", content_security_policy(self.page)),
                             ("Referrer-Policy", "no-referrer")]
        # How many requests are being answered.
        self.requests = 0
        self.lock = threading.Lock()
        try:
            self.stages.preload(model)
        except BaseException:
            self.server_close()
            raise

    @property
    def worker(self):
        """The Worker of the default stage, None while that is not in memory."""
        return self.stages.workers().get(self.model)

    def models(self):
        """The objects of /v1/models: the default stage first, then all others in their order."""
        loaded = self.stages.workers()
        paths = self.stages.paths()
        out = []
        for order, (name, path) in enumerate(paths.items()):
            try:
                if name in loaded:
                    length = loaded[name].engine.max_len
                else:
                    length = read_meta(path)["model"]["seq_len"]
            except (OSError, ValueError, KeyError, TypeError):
                # A folder that holds something else, or a checkpoint that is just being replaced.
                continue
            out.append({"id": name, "object": "model", "created": self.created,
                        "owned_by": "tok2chat", "context_length": length,
                        "defaults": self.settings, "order": order, "loaded": name in loaded,
                        # What has seen no conversation can only continue text.
                        "chat": name != "pretrain"})
        return sorted(out, key=lambda model: model["id"] != self.model)

    def model_of(self, body):
        """The name of the model that a request is for. ApiError 404 if there is none of it."""
        name = body.get("model")
        if name in (None, ""):
            return self.model
        if name != self.model and name not in list(self.stages.paths()):
            raise self.unknown_model(name)
        return name

    def unknown_model(self, name):
        """The ApiError about a model that is not there."""
        names = ", ".join(self.stages.paths())
        return ApiError(404, f"the model {str(name)[:100]!r} does not exist here; this server has "
                             f"{names}", "model_not_found", "model")

    def health(self):
        """The object of /health."""
        workers = self.stages.workers().values()
        return {"status": "stopping" if self.stages.stopping else "ok", "model": self.model,
                "load": sum(worker.load for worker in workers), "max_queue": self.cfg.max_queue}

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
        self.stages.stop()
        end = time.monotonic() + SOCKET_TIMEOUT
        # The threads of the connections may still be writing the last bytes.
        while self.requests and time.monotonic() < end:
            time.sleep(0.01)


def encodings(key):
    """The bytes that clients may send for --api_key: UTF-8, or Latin-1 where that has all of it."""
    key = key.strip(" ")
    if not key:
        return []
    found = [key.encode(errors="surrogateescape")]
    try:
        return found + [key.encode("latin-1")]
    except UnicodeEncodeError:
        return found


def read_origins(text):
    """The sites of --allow_origin, in lower case and as browsers send them, or {"*"}."""
    origins = {origin.rstrip("/") for origin in re.findall("[^ ,]+", text.lower())}
    for origin in origins:
        if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/]+", origin):
            raise ValueError(f"--allow_origin {origin}: expected sites like https://example.com "
                             f"or http://localhost:3000, separated by commas, or * for all")
    return origins


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


def serve(load, path, cfg, settings):
    """Run the server until Ctrl-C or SIGTERM. A second one ends it at once.

    load(path) -> an Engine. path: of the checkpoint for requests that name no model.
    """
    model = path.name

    def paths():
        found = find_stages(cfg.out)
        # A checkpoint of another folder may have a name that is in this one, too.
        return found | {model: path}

    server = Server(load, paths, cfg, settings, model)
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
