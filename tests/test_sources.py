"""data/download.py against a hub on this machine, and each source's rows in the format in which it is published."""
import gzip
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest

import data.download
import data.fetch
from data.download import SOURCES, download
from data.formats import validate_conversation
from data.published.arc import ARCChallenge, ARCEasy
from data.published.core_tasks import TASKS, CoreTask, Task, build_prompts, encode_prompt
from data.published.gsm8k import GSM8K, to_parts
from data.published.hh import HH
from data.published.mmlu import MMLU
from data.published.smoltalk import SmolTalk
from data.published.source import line_offsets
from data.published.ultrafeedback import UltraFeedback

ROOT = Path(__file__).resolve().parent.parent
U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def text(*said):
    return [{"type": "text", "text": s} for s in said]


# ---- the downloader ----

class Hub(http.server.BaseHTTPRequestHandler):
    """Lists and serves server.files {repo: {path: bytes}} as the hub does; server.trouble is a list of faults."""

    def do_GET(self):
        server, url = self.server, urllib.parse.urlparse(self.path)
        server.requests.append((self.path, self.headers.get("Range")))
        trouble = server.trouble.pop(0) if server.trouble and "resolve" in url.path else None
        if trouble == "busy":
            return self.send_error(503)
        if match := re.fullmatch(r"/api/datasets/(.+)/tree/main", url.path):
            if match[1] not in server.files:
                return self.send_error(404)
            entries = [self.entry(path, content) for path, content in server.files[match[1]].items()]
            start = int(urllib.parse.parse_qs(url.query).get("cursor", ["0"])[0])
            page = entries[start:start + 2]                              # pages of two, as if the data set were large
            page.append({"type": "directory", "path": "data", "oid": "x"})
            link = f'<http://{self.headers["Host"]}{url.path}?cursor={start + 2}>; rel="next"'
            return self.reply(200, json.dumps(page).encode(), {"Link": link} if start + 2 < len(entries) else {})
        repo, path = re.fullmatch(r"/datasets/(.+?/.+?)/resolve/main/(.+)", url.path).groups()
        content = server.files[repo].get(urllib.parse.unquote(path))
        if content is None or trouble == "gone":
            return self.send_error(404)
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if trouble != "no ranges" else 0
        if start >= len(content):
            return self.send_error(416)
        if trouble == "other bytes":
            content = b"?" * len(content)
        self.reply(206 if start else 200, content[start:], {}, cut=trouble == "cut")

    def entry(self, path, content):
        if len(content) > 100:                                           # large files are listed with a sha256
            return {"type": "file", "path": path, "size": len(content), "oid": "pointer",
                    "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}}
        return {"type": "file", "path": path, "size": len(content),
                "oid": hashlib.sha1(b"blob %d\x00" % len(content) + content).hexdigest()}

    def reply(self, status, content, headers, cut=False):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content[:len(content) // 2] if cut else content)

    def log_message(self, *args):
        pass


BIG = bytes(range(256)) * 40_000                                         # 10 MB


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests, server.trouble = [], []
    server.files = {"openai/gsm8k": {"README.md": b"no", "main/train.parquet": BIG, "main/test.parquet": b"small",
                                     "socratic/train.parquet": b"no"},
                    "karpathy/climbmix-400b-shuffle": {f"shard_{i:05d}.parquet": b"shard %d" % i for i in range(7)}}
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data.fetch, "WAITS", (0, 0, 0, 0))
    yield server
    server.shutdown()


def test_download_fetches_verifies_and_does_not_fetch_twice(hub, tmp_path, capsys):
    download("gsm8k", 8, tmp_path)
    folder = tmp_path / "gsm8k"
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.*")} == {"main/test.parquet",
                                                                              "main/train.parquet"}
    assert (folder / "main/train.parquet").read_bytes() == BIG
    assert (folder / "main/test.parquet").read_bytes() == b"small"
    assert "verified" in capsys.readouterr().out
    before = len(hub.requests)
    download("gsm8k", 8, tmp_path)
    assert len(hub.requests) == before + 2                               # the two pages of the listing, and no file
    assert "2 files, 2 there already" in capsys.readouterr().out


def test_shards_and_the_last_one_for_validation(hub, tmp_path):
    download("climbmix", 2, tmp_path)
    assert sorted(p.name for p in (tmp_path / "climbmix").iterdir()) == [
        "shard_00000.parquet", "shard_00001.parquet", "val_shard_00006.parquet"]
    download("climbmix", 99, tmp_path)
    assert len(list((tmp_path / "climbmix").iterdir())) == 7


@pytest.mark.parametrize("trouble", [["busy", "busy", "busy"], ["cut", "cut"], ["cut", "no ranges"], ["other bytes"],
                                     ["cut", "busy", "other bytes"]])
def test_faults_that_pass_are_survived(hub, tmp_path, trouble):
    hub.trouble = list(trouble)
    hub.files["openai/gsm8k"].pop("main/test.parquet")
    download("gsm8k", 8, tmp_path)
    assert (tmp_path / "gsm8k/main/train.parquet").read_bytes() == BIG
    assert not list(tmp_path.rglob("*.part"))
    if trouble == ["cut", "cut"]:
        ranges = [int(r[6:-1]) for path, r in hub.requests if "resolve" in path and r]
        assert ranges == [len(BIG) // 2, len(BIG) * 3 // 4]              # it went on where it was


def test_a_part_from_an_earlier_run_is_resumed_even_if_it_is_damaged(hub, tmp_path):
    target = tmp_path / "gsm8k/main/train.parquet"
    for part in BIG[:4_000_000], b"other version" * 10, BIG, BIG + b"longer":
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.with_name("train.parquet.part").write_bytes(part)
        download("gsm8k", 8, tmp_path)
        assert target.read_bytes() == BIG and not list(tmp_path.rglob("*.part"))
    target.write_bytes(b"short")                                         # a file with another size is replaced
    download("gsm8k", 8, tmp_path)
    assert target.read_bytes() == BIG


def test_faults_that_stay_are_told_in_one_line(hub, tmp_path):
    hub.files["openai/gsm8k"].pop("main/test.parquet")
    hub.trouble = ["other bytes"] * 2
    with pytest.raises(ValueError,
                       match="the file that came has 10,240,000 bytes and sha256:.*published are 10,240,000"):
        download("gsm8k", 8, tmp_path)
    hub.trouble = ["busy"] * 5
    with pytest.raises(ConnectionError, match="HTTP status 503 Service Unavailable, 5 tries. Run again"):
        download("gsm8k", 8, tmp_path)
    hub.trouble = ["gone"] * 2
    with pytest.raises(ValueError, match="HTTP status 404 Not Found"):
        download("gsm8k", 8, tmp_path)
    with pytest.raises(ValueError, match="cais/mmlu/tree.*HTTP status 404"):
        download("mmlu", 8, tmp_path)
    hub.files["cais/mmlu"] = {"all/../../../escaped.parquet": b"x"}
    with pytest.raises(ValueError, match="a path that leaves its folder"):
        download("mmlu", 8, tmp_path)
    hub.files["cais/mmlu"] = {"new/place.parquet": b"x"}
    with pytest.raises(ValueError, match="none of its 1 files matches all/"):
        download("mmlu", 8, tmp_path)


def test_offline_says_what_to_do_and_takes_a_folder_copied_by_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")              # nobody listens at the discard port
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data.fetch, "WAITS", (0,))
    with pytest.raises(ConnectionError) as e:
        download("gsm8k", 8, tmp_path)
    assert "https://huggingface.co/datasets/openai/gsm8k" in str(e.value)
    assert all(word in str(e.value) for word in ["Offline? Copy main/*.parquet", "by hand", "HF_ENDPOINT",
                                                 str(tmp_path)])
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/train.jsonl").write_text("{}")
    download("gsm8k", 8, tmp_path)
    assert "Using the 1 files" in capsys.readouterr().out
    (tmp_path / "core/some").mkdir(parents=True)
    monkeypatch.setitem(data.download.SOURCES, "core", SOURCES["core"]._replace(repo="http://127.0.0.1:9/x.zip"))
    for file in {task.file for task in TASKS.values()} - {"squad"}:           # all but one: not the whole of it
        (tmp_path / f"core/some/{file}.jsonl").write_text("{}")
    with pytest.raises(ConnectionError):
        download("core", 8, tmp_path)
    (tmp_path / "core/some/squad.jsonl").write_text("{}")
    download("core", 8, tmp_path)
    shutil.rmtree(tmp_path / "core/some")
    (tmp_path / "core/eval_bundle.zip").write_text("")
    download("core", 8, tmp_path)
    assert re.findall(r"core: (\d+) files in .*, nothing to do", capsys.readouterr().out) == ["21", "1"]
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(ValueError, match="HF_ENDPOINT is 'mirror.example', expected an address"):
        download("gsm8k", 8, tmp_path)


def test_command_line(monkeypatch, capsys):
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["download.py", *args])
        data.download.main()
    run("--list")
    assert set(SOURCES) <= set(capsys.readouterr().out.split())
    for args, message in [((), "name at least one source"), (("imagenet",), "no source is called 'imagenet'"),
                          (("gsm8k", "--shards", "0"), "--shards must be at least 1")]:
        with pytest.raises(ValueError, match=message):
            run(*args)
    failed = subprocess.run([sys.executable, "data/download.py", "--frob"], cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 2 and "unrecognized" in failed.stderr and failed.stderr.count("\n") == 1


# ---- the sources' rows ----

def put(tmp_path, path, rows):
    """Write rows where download.py would: .parquet (skipped without pyarrow), .jsonl or .jsonl.gz."""
    path = tmp_path / path
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8").write(lines)


def test_smoltalk(tmp_path, capsys):
    system = {"role": "system", "content": "Be kind"}
    rows = [{"messages": [U, A], "source": "x"}, {"messages": [system, U, A, U, A], "source": "x"},
            {"messages": [A, U], "source": "x"}, {"messages": [system, U], "source": "x"}]
    put(tmp_path, "smoltalk/data/train-00000-of-00002.parquet", rows)
    put(tmp_path, "smoltalk/data/train-00001-of-00002.parquet", rows[:1] * 50)
    put(tmp_path, "smoltalk/data/test-00000-of-00001.parquet", rows[:1])
    task = SmolTalk("train", dest=tmp_path)
    assert len(task) == 52 and {"messages": [system, U, A, U, A]} in list(task)
    assert "kept 52 rows, left out 2" in capsys.readouterr().err
    assert len(SmolTalk("test", dest=tmp_path)) == 1 and len(SmolTalk("train", 7, dest=tmp_path)) == 7
    assert list(SmolTalk("train", dest=tmp_path)) == list(task) and capsys.readouterr().err == ""      # prepared once
    assert [task[i] for i in range(7)] == list(SmolTalk("train", 7, dest=tmp_path))


def test_a_source_that_is_not_on_disk_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="Download it: python data/download.py smoltalk"):
        SmolTalk("train", dest=tmp_path)
    with pytest.raises(ValueError, match="mmlu has the splits train, test, validation, dev, not 'val'"):
        MMLU("val", dest=tmp_path)
    put(tmp_path, "gsm8k/train.jsonl", [{"prompt": "x"}])
    with pytest.raises(ValueError, match="train.jsonl:1: not a row of gsm8k .*'question'"):
        GSM8K("train", dest=tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


def test_files_copied_again_are_prepared_again(tmp_path):
    row = {"question": "1+1?", "answer": "It is <<1+1=2>>2.\n#### 2"}
    put(tmp_path, "gsm8k/train.jsonl", [row])
    assert len(GSM8K("train", dest=tmp_path)) == 1
    for n, (path, when) in enumerate([("train.jsonl", 2e9), ("train-2.jsonl", 1e9), ("train.jsonl", 1e9)], 2):
        put(tmp_path, "gsm8k/" + path, [row] * (n - n // 3))               # 2, 2 + 2, 3 + 2 rows; older ones, too
        os.utime(tmp_path / "gsm8k" / path, (when, when))
        assert len(GSM8K("train", dest=tmp_path)) == (2, 4, 5)[n - 2]
    (tmp_path / "gsm8k/train-2.jsonl").unlink()
    assert len(GSM8K("train", dest=tmp_path)) == 3 and len(list(tmp_path.glob("gsm8k/prepared/*"))) == 1


def test_mmlu_prompt_letters_and_subject(tmp_path):
    row = {"question": "What is the capital of France?", "subject": "geography",
           "choices": ["Berlin", "Rome", "Paris", "Madrid"], "answer": 2}
    put(tmp_path, "mmlu/all/test-00000-of-00001.parquet", [row])
    put(tmp_path, "mmlu/all/auxiliary_train-00000-of-00001.parquet", [{"train": {**row, "subject": "", "answer": 0}}])
    record = MMLU("test", dest=tmp_path)[0]
    assert record == {"messages": [
        {"role": "user", "content": "Multiple Choice question: What is the capital of France?\n- Berlin=A\n- Rome=B\n"
                                    "- Paris=C\n- Madrid=D\n\nRespond only with the letter of the correct answer."},
        {"role": "assistant", "content": "C"}], "letters": ["A", "B", "C", "D"], "subject": "geography"}
    assert MMLU("train", dest=tmp_path)[0]["messages"][1]["content"] == "A"
    assert MMLU.grade(record, text("C")) and MMLU.grade(record, text(" c.\n"))
    assert not MMLU.grade(record, text("A")) and not MMLU.grade(record, text(""))
    assert not MMLU.grade(record, text("C or D"))


def test_arc_numbers_become_letters_and_bad_rows_are_left_out(tmp_path, capsys):
    rows = [{"id": "a", "question": "Why?", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]},
             "answerKey": "3"},
            {"id": "b", "question": "Why?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "E"}]
    put(tmp_path, "arc/ARC-Easy/train-00000-of-00001.parquet", rows)
    put(tmp_path, "arc/ARC-Challenge/train-00000-of-00001.parquet", rows[:1] * 3)
    record = ARCEasy("train", dest=tmp_path)[0]
    assert record["letters"] == ["A", "B", "C"] and record["messages"][1]["content"] == "C"
    assert record["subject"] == "ARC-Easy" and "kept 1 rows, left out 1" in capsys.readouterr().err
    assert len(ARCChallenge("train", dest=tmp_path)) == 3
    assert ARCChallenge("train", dest=tmp_path)[0]["subject"] == "ARC-Challenge"


def test_preferences(tmp_path, capsys):
    bad = {"role": "assistant", "content": "Go"}
    put(tmp_path, "ultrafeedback/data/train_prefs-00000-of-00001.parquet", [
        {"prompt": "Hi", "prompt_id": "1", "chosen": [U, A], "rejected": [U, bad], "messages": [U, A],
         "score_chosen": 8.0,
         "score_rejected": 3.0}, {"prompt": "Hi", "chosen": [U, A], "rejected": [U, A]}])
    task = UltraFeedback("pairs", dest=tmp_path)
    assert len(task) == 1 and task.pair(0) == {"chosen": {"messages": [U, A]}, "rejected": {"messages": [U, bad]}}
    assert task[0] == {"messages": [U, A]} and "left out 1; the first" in capsys.readouterr().err
    begin = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Hi\n\nAssistant:"
    for subset in "helpful-base", "harmless-base":
        put(tmp_path, f"hh/{subset}/train.jsonl.gz", [{"chosen": begin + " Hello", "rejected": begin + " Go"},
                                                      {"chosen": begin, "rejected": begin + " Go"}])
    task = HH("pairs", dest=tmp_path)
    assert len(task) == 2 and task.pair(1)["rejected"]["messages"] == [U, A, U, bad]


# ---- GSM8K's calculator marks and grading ----

FIXTURE = ROOT / "tests/fixtures/gsm8k.jsonl"


def test_gsm8k_rows_become_parts_as_in_the_worked_example():
    rows = [json.loads(line) for line in FIXTURE.read_text().splitlines()]
    assert GSM8K.to_record(rows[1]) == json.loads((ROOT / "tests/fixtures/weng.json").read_text())
    assert GSM8K.to_record(rows[0])["messages"][1]["content"] == [
        {"type": "text", "text": "Mia gives away 48/2 = "}, {"type": "python", "text": "48/2"},
        {"type": "python_output", "text": "24"}, {"type": "text", "text": " marbles. Tom then has 24+24 = "},
        {"type": "python", "text": "24+24"}, {"type": "python_output", "text": "48"},
        {"type": "text", "text": " marbles. Together they have 48+24 = "}, {"type": "python", "text": "48+24"},
        {"type": "python_output", "text": "72"}, {"type": "text", "text": " marbles.\n#### 72"}]
    assert GSM8K.to_record(rows[2])["messages"][1]["content"][0]["text"] == "Both cost 1250.50+68.50 = "
    for row in rows:
        validate_conversation(GSM8K.to_record(row))


@pytest.mark.parametrize("solution, said", [
    ("So $<<2*600=1200>>1,200.00 left\n#### 1,200", ["So ", " left.\n#### 1,200"]),          # equal in value
    ("So <<10/3=3.3333>>3.33 left\n#### 3", ["So ", "3.33 left.\n#### 3"]),                  # rounded: both are said
    ("5*2=$<<5*2=10>>10\n#### 10", ["5*2 = ", ".\n#### 10"]),
    ("<<1+1=2>><<2+1=3>>3\n#### 3", [".\n#### 3"]),                                           # two marks in a row
    ("There are <<3*4=12>>12 12-packs\n#### 12", ["There are ", " 12-packs.\n#### 12"]),
    ("Only 7 + 1 = <<2+1=3>>3\n#### 3", ["Only 7 + 1 = ", ".\n#### 3"]),                      # not the same expression
    ("No mark\n#### 5", ["No mark.\n#### 5"]),
    ("No hashes <<1+1=2>>2", ["No hashes "]),
])
def test_gsm8k_marks(solution, said):
    assert [part["text"] for part in to_parts(solution) if part["type"] == "text"] == said


def test_gsm8k_bad_rows():
    for answer, reason in [("<<5>>5\n#### 5", "has no result"), ("It is 5", "no number after ####"),
                           ("", "the content is empty")]:
        with pytest.raises(ValueError, match=reason):
            GSM8K.to_record({"question": "?", "answer": answer})


@pytest.mark.parametrize("answer, right", [
    (text("#### 1,319"), True), (text("#### 1319.0"), True), (text("#### $1319"), True), (text("It is 1319"), False),
    (text("#### 7 no, #### 1319"), True), (text("#### 1319 no, #### 7"), False), (text("#### -1319"), False),
    (text("####"), False),
    ([{"type": "python", "text": "1"}, {"type": "python_output", "text": "#### 1319"}], False),
    (text("####") + [{"type": "python_output", "text": "1319"}], False), ([], False),
])
def test_gsm8k_grading(answer, right):
    assert GSM8K.grade({"messages": [U, {"role": "assistant", "content": text("so\n#### 1319")}]}, answer) is right


def test_line_offsets(tmp_path):
    for content, offsets in [(b"", []), (b"a\n", [0]), (b"a\n\nbc\n", [0, 2, 3]),
                             (b"x" * (1 << 24) + b"\ny\n", [0, (1 << 24) + 1])]:
        (tmp_path / "f").write_bytes(content)
        assert line_offsets(tmp_path / "f").tolist() == offsets


# ---- CORE ----

ROWS = {"multiple_choice": {"query": "Roses are", "choices": ["red", "fast", "loud"], "gold": 0},
        "schema": {"context_options": ["The cup leaked because the cup", "The cup leaked because the tea"],
                   "continuation": "was cracked.", "gold": 0},
        "language_modeling": {"context": "The capital of France is ", "continuation": "Paris"}}


def put_core(tmp_path, archive=False):
    import zipfile
    contents = {f"eval_bundle/eval_data/some/{t.file}.jsonl": "".join(
        json.dumps({**ROWS[t.kind], "n": i}) + "\n" for i in range(t.n_shot + 2)) for t in TASKS.values()}
    (tmp_path / "core").mkdir()
    if archive:
        with zipfile.ZipFile(tmp_path / "core/eval_bundle.zip", "w") as bundle:
            for path, content in contents.items():
                bundle.writestr(path, content)
    for path, content in {} if archive else contents.items():
        (tmp_path / "core" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "core" / path).write_text(content)


def test_core_formats():
    choice, schema, lm = Task("x", "multiple_choice", 1, 0.25, "\nAnswer: "), Task("x", "schema", 1, 0.5), Task(
        "x", "language_modeling", 1, 0.0)
    row = ROWS["multiple_choice"]
    assert build_prompts(choice, row, []) == ([("Roses are\nAnswer:", " red"), ("Roses are\nAnswer:", " fast"),
                                               ("Roses are\nAnswer:", " loud")], 0)
    prompts, gold = build_prompts(choice, row, [{"query": "Grass is", "choices": ["a", "green"], "gold": 1}])
    assert prompts[1] == ("Grass is\nAnswer: green\n\nRoses are\nAnswer:", " fast")
    prompts, gold = build_prompts(schema, {**ROWS["schema"], "gold": 1}, [ROWS["schema"]])
    assert gold == 1
    assert prompts[1] == ("The cup leaked because the cup was cracked.\n\nThe cup leaked because the tea",
                          " was cracked.")
    prompts, gold = build_prompts(lm, ROWS["language_modeling"], [{"context": " 1, 2,\n", "continuation": "3"}])
    assert (prompts, gold) == ([("1, 2, 3\n\nThe capital of France is", " Paris")], 0)


def test_core_scored_span_is_the_continuation_and_long_contexts_lose_their_beginning():
    class Bytes:                                                         # a tokenizer of single bytes
        def special(self, name):
            return 256

        def encode(self, said):
            return list(said.encode())
    ids, start = encode_prompt(Bytes(), "ab", " cd", 100)
    assert ids == [256, *b"ab cd"] and ids[start:] == list(b" cd")
    ids, start = encode_prompt(Bytes(), "0123456789", " cd", 6)
    assert bytes(ids) == b"789 cd" and start == 3
    with pytest.raises(ValueError, match="nothing is left for its context"):
        encode_prompt(Bytes(), "ab", "123456", 6)


@pytest.mark.parametrize("archive", [False, True])
def test_core_reads_all_22_tasks(tmp_path, archive):
    put_core(tmp_path, archive)
    assert len(TASKS) == 22 and len({t.file for t in TASKS.values()}) == 21
    for name, info in TASKS.items():
        task = CoreTask(name, dest=tmp_path)
        assert len(task) >= info.n_shot + 2
        prompts, gold = task.prompts(1)
        assert len(prompts) == {"multiple_choice": 3, "schema": 2, "language_modeling": 1}[info.kind] and gold == 0
        assert prompts[0][0].count("\n\n") == info.n_shot and prompts == task.prompts(1)[0]
        assert task.centred(1.0) == 1.0 and task.centred(info.chance) == 0.0
    assert len(CoreTask("copa", 1, dest=tmp_path)) == 1


def test_core_examples_are_never_the_question_itself(tmp_path):
    put_core(tmp_path)
    path = next((tmp_path / "core").rglob("jeopardy_all.jsonl"))
    path.write_text("".join(json.dumps({"context": f"Q{i}.", "continuation": f"A{i}."}) + "\n" for i in range(12)))
    task = CoreTask("jeopardy", dest=tmp_path)
    for i in range(12):
        prompts, _ = task.prompts(i)
        assert task[i]["continuation"] not in prompts[0][0] and prompts[0][0].count("\nAnswer: A") == 10


def test_core_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="python data/download.py core"):
        CoreTask("copa", dest=tmp_path)
    with pytest.raises(ValueError, match="CORE has no task 'cola'"):
        CoreTask("cola", dest=tmp_path)
    put_core(tmp_path)
    path = next((tmp_path / "core").rglob("copa.jsonl"))
    for row, reason in [({"query": "x"}, r"copa.jsonl:1: .*\(no choices\)"),
                        ({**ROWS["multiple_choice"], "gold": 3}, "gold 3 of 3")]:
        path.write_text(json.dumps(row))
        with pytest.raises(ValueError, match=reason):
            CoreTask("copa", dest=tmp_path)
    path.write_text(json.dumps(ROWS["multiple_choice"])[:-5])
    with pytest.raises(ValueError, match="copa.jsonl:1: broken JSON"):
        CoreTask("copa", dest=tmp_path)
