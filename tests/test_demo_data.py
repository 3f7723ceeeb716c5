"""The embedded data: splits, tool outputs, grading, the corpus, and the tasks one by one."""
import ast
import hashlib
import itertools
import json
import operator
import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from data import grading
from data.demo import identity, python_corpus, python_questions, spelling, splits
from data.demo.arithmetic import Arithmetic, item_of
from data.demo.identity import Identity
from data.demo.python_questions import PythonQuestions
from data.demo.spelling import SimpleSpelling, SpellingBee

ROOT = Path(__file__).resolve().parent.parent
TASKS = [PythonQuestions, SimpleSpelling, SpellingBee, Arithmetic, Identity]
SPLITS = ["train", "pairs", "prompts", "test"]


def text_of(content):
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def items(task, n=3000):
    """What the task holds apart: the word, the docstring, the expression in either order, the base wording."""
    if isinstance(task, Arithmetic):
        task.size = n
        return {item_of(*task.draw(i)[:2]) for i in range(n)}
    if isinstance(task, Identity):
        return {identity.plain(wording) for wording, _ in task.wordings}
    return set(task.words) if hasattr(task, "words") else {answer for answer, _ in task.items}


# ---- splits ----

def test_shares_are_kept_and_complete():
    assert sum(splits.SHARES.values()) == sum(identity.SHARES.values()) == 100
    counts = {split: 0 for split in SPLITS}
    for i in range(20_000):
        counts[splits.split_of(f"item {i}")] += 1
    for split, percent in splits.SHARES.items():
        assert abs(counts[split] / 200 - percent) < 1


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_item(task):
    held = {split: items(task(split)) for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert held[one] and held[other] and not held[one] & held[other]
    with pytest.raises(ValueError, match="unknown split 'val'"):
        task("val")


def test_split_seeds_do_not_collide():
    """Trap T31: random.seed(1) == random.seed(-1). Keys here are texts, so no two splits draw the same numbers."""
    draws = {splits.generator("task", split, i).random() for split in SPLITS for i in range(1000)}
    assert len(draws) == 4000


@pytest.mark.parametrize("task", TASKS)
def test_any_size_works_and_records_are_valid(task):
    assert len(task("test", 7)) == 7 and len(list(task("test", 7))) == 7
    with pytest.raises(IndexError):
        task("test", 7)[7]
    big = task("train", 1_000_000)          # lazy: nothing is built until it is read
    assert big[999_999] == big[-1]
    for conversation in [big[i] for i in range(0, 1_000_000, 5003)]:
        messages = conversation["messages"]
        assert len(messages) % 2 == 0 and [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        for message in messages:
            if not isinstance(message["content"], str):
                assert message["role"] == "assistant" and message["content"]
                assert all(set(part) == {"type", "text"} and part["type"] in ("text", "python", "python_output")
                           for part in message["content"])
                kinds = [part["type"] for part in message["content"]]
                assert all(kinds[k - 1] == "python" for k, kind in enumerate(kinds) if kind == "python_output")
            assert text_of(message["content"]).strip() and len(text_of(message["content"])) < 600
        assert json.loads(json.dumps(conversation)) == conversation


@pytest.mark.parametrize("task", TASKS)
def test_questions_vary(task):
    questions = [conversation["messages"][-2]["content"] for conversation in task("train", 2000)]
    assert len(set(questions)) > (1000 if task is Identity else 1900)


def test_at_least_as_many_wordings_as_promised():
    assert len(set(python_questions.ASK)) >= 25 and len(set(spelling.COUNT)) >= 17 and len(set(spelling.SPELL)) >= 12


# ---- the tool's outputs ----

def evaluate(code):
    """Python's own value of the code, by a walk of its own over the syntax tree."""
    operations = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}

    def walk(node):
        if isinstance(node, ast.BinOp):
            return operations[type(node.op)](walk(node.left), walk(node.right))
        if isinstance(node, ast.Call):
            assert node.func.attr == "count"
            return sum(c == node.args[0].value for c in node.func.value.value)
        assert isinstance(node, ast.Constant) and isinstance(node.value, int)
        return node.value
    return walk(ast.parse(code, mode="eval").body)


@pytest.mark.parametrize("task", [SpellingBee, Arithmetic, Identity])
def test_python_outputs_are_what_python_computes(task):
    from talk.tool import run_python  # the tool that answers at chat time must print the same text
    train, pairs, checked = task("train", 1000), task("pairs", 500), 0
    conversations = [train[i] for i in range(1000)] + [pairs.pair(i)["rejected"] for i in range(500)]
    for conversation in conversations:
        for message in conversation["messages"]:
            parts = message["content"] if isinstance(message["content"], list) else []
            for code, output in zip(parts, parts[1:]):
                if code["type"] == "python":
                    value = evaluate(code["text"])
                    exact = float(Decimal(output["text"]))
                    assert output["type"] == "python_output" and abs(exact - value) <= 1e-11 * abs(value)
                    assert output["text"] == run_python(code["text"]) and not output["text"].endswith(".0")
                    checked += 1
    assert checked > (20 if task is Identity else 900)


# ---- grading ----

@pytest.mark.parametrize("text, number", [
    ("so #### 18", "18"), ("#### 1,319", "1319"), ("#### -0.5", "-0.5"), ("#### 72.0", "72"), ("#### $18", "18"),
    ("#### -$18", "-18"), ("#### $-18", "-18"), ("####18", "18"), ("#### +5", "5"), ("#### .5", "0.5"),
    ("#### 18.", "18"),
    ("#### 1,234,567.50 dollars", "1234567.5"), ("#### **42**", "42"), ("#### 50%", "50"), ("#### 3\nthat is all", "3"),
    ("first #### 3\nno, #### 4", "4"), ("#### 007", "7"), ("18", None), ("", None), ("####", None), ("#### none", None),
    ("#### 4\n#### unsure", None), ("####\n18", None), ("#### 1/2", None), ("#### 10,20", None), ("#### 1:30", None),
    ("#### 1e5", None), ("#### 1.2.3", None), ("#### -$-18", None), ("#### 1,31", None), ("#### 1,3190", None),
    ("#### 5 + 3 = 8", None), ("#### 12 / 4", None), ("#### 1 1/2", None), ("#### 0x10", None), ("#### $12/$4", None),
    ("#### 12.50 = 25 / 2", None), ("#### 1,200-1,300", None), ("#### 5 - it is", "5"), ("#### 5x", "5"),
    ("#### **42** 1 of 2", "42"),
])
def test_final_number(text, number):
    assert grading.final_number(text) == (None if number is None else Decimal(number))


def test_only_what_the_model_says_is_graded():
    def parts(*pairs):
        return [{"type": kind, "text": text} for kind, text in pairs]
    assert grading.final_number(parts(("text", "x "), ("python_output", "#### 7"))) is None
    assert grading.final_number(parts(("text", "#### 8"), ("python_output", "#### 7"))) == 8
    tool = ("python", "1+6"), ("python_output", "7")
    assert grading.final_number(parts(("text", "#### "), *tool, ("text", "9"))) is None
    assert grading.final_number(parts(("text", "1+6 = "), *tool, ("text", "\n#### 7"))) == 7
    assert grading.same_final_number("#### 1,319.00", "1319") and grading.same_final_number("#### 12", "So\n#### 12.0")
    assert not grading.same_final_number("13", "13") and not grading.same_final_number("#### 13", "-13")
    with pytest.raises(ValueError, match="holds no number after ####"):
        grading.same_final_number("#### 1", "many")


@pytest.mark.parametrize("task", [SimpleSpelling, SpellingBee, Arithmetic, Identity])
@pytest.mark.parametrize("split", ["pairs", "test"])
def test_grade_accepts_every_gold_answer_and_rejects_every_wrong_one(task, split):
    tasks = task(split, 600)
    right_though_rejected = {"run-on", "no tool"}       # badly given, but the result stands in the answer
    kinds = set()
    for i in range(600):
        pair = tasks.pair(i)
        chosen, rejected = (pair[side]["messages"][-1]["content"] for side in ("chosen", "rejected"))
        assert pair["chosen"] == tasks[i] and pair == tasks.pair(i)
        assert pair["chosen"]["messages"][:-1] == pair["rejected"]["messages"][:-1] and chosen != rejected
        assert tasks.grade(tasks[i], chosen)
        if pair["kind"] not in right_though_rejected:
            assert not tasks.grade(tasks[i], rejected), (pair["kind"], rejected)
        if pair["kind"] == "run-on":
            assert len(text_of(rejected)) > len(text_of(chosen)) + 15
        if pair["kind"] == "no tool":
            assert tasks.grade(tasks[i], rejected) and isinstance(rejected, str)
        kinds.add(pair["kind"])
    assert {"run-on", "evasive"} < kinds and len(kinds) >= 3


# ---- corpus ----

def test_no_document_of_a_held_out_file_is_trained_on():
    train, val = list(python_corpus.documents("train")), list(python_corpus.documents("val"))
    assert len(set(train)) == len(train) and len(set(val)) == len(val) and not set(train) & set(val)
    # Files are held out whole: the path that heads each piece of code never stands on both sides.
    files = [{text.split("\n")[0] for text in texts if re.match(r"# [\w/]+\.py\n", text)} for texts in (train, val)]
    assert files[0] and files[1] and not files[0] & files[1]
    share = len(files[1]) / len(files[0] | files[1])
    assert 0.005 < share < 0.05
    assert all(text.strip() and "\0" not in text for text in train)


def test_corpus_shares_and_counts():
    counts = python_corpus.summary()
    chars = {kind: counts["train"][kind]["chars"] for kind in ("topics", "pages", "code")}
    assert chars["topics"] > 300_000 and chars["pages"] > 1_500_000 and chars["code"] > 5_000_000
    assert counts["skipped"] < 0.02 * counts["files"]
    prose = list(python_corpus.documents("train", code=0))
    assert sum(map(len, prose)) == chars["topics"] + chars["pages"]
    some = list(python_corpus.documents("train", prose=0, code=0.3))
    assert 0.15 < sum(map(len, some)) / chars["code"] < 0.45
    assert set(some) < set(python_corpus.documents("train", prose=0, code=0.6))
    for wrong in (dict(split="test"), dict(split="train", code=1.5), dict(split="train", packages=["no_such_package"])):
        with pytest.raises(ValueError):
            python_corpus.documents(**wrong)


def test_corpus_reads_odd_files_and_runs_none(tmp_path):
    for i in range(300):
        (tmp_path / f"module_{i}.py").write_text(f'"""Module {i} does one thing."""\nraise SystemExit("was run")\n')
    (tmp_path / "latin.py").write_bytes(b"name = '\xe9'\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "nul.py").write_text("a = 1\0\n")
    (tmp_path / "copy_1.py").write_text("import os\n\n\ndef join(a, *p):\n" '    """Join the parts."""\n    return a\n')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "unread.py").write_text("unread = 1\n")
    corpus = python_corpus.load(str(tmp_path))
    texts = [text for split in ("train", "val") for _, text in corpus[split]]
    assert corpus["skipped"] == 3 and corpus["files"] == 304 and len(texts) == 2 * 301
    assert "module_7\n\nModule 7 does one thing." in texts and "copy_1.join(a, *p)\n\nJoin the parts." in texts
    assert not any("unread" in text for text in texts)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="not enough Python source"):
        python_corpus.load(str(tmp_path / "empty"))


def test_duplicates_are_dropped_from_train_too(tmp_path):
    for i in range(300):                    # whatever the hash holds out, its text stands in train as well
        (tmp_path / f"m{i}.py").write_text("import os\n")
        (tmp_path / f"m{i}" ).mkdir()
        (tmp_path / f"m{i}" / "a.py").write_text(f"def f():\n    '''Text {i % 10}.'''\n")
    corpus = python_corpus.load(str(tmp_path))
    assert not {text for _, text in corpus["train"]} & {text for _, text in corpus["val"]}


def test_comments_in_strings_are_no_comments():
    source = '"""\n# not\n# a\n# comment\n"""\n# This is one\n# and it goes on\n# for three lines\nx = 1  # nor this\n'
    assert list(python_corpus.comment_blocks(source, ast.parse(source))) == [
        (6, "This is one\nand it goes on\nfor three lines")]


def digest():
    """A hash of the corpus's first documents and of conversations of each task and split; run by the test below."""
    h = hashlib.sha256()
    for split in ("train", "val"):
        for text in itertools.islice(python_corpus.documents(split, code=0.5), 200):
            h.update(text.encode("utf-8", "surrogatepass"))
    for task in TASKS:
        for split in SPLITS:
            some = task(split, 300)
            h.update(json.dumps([some[i] for i in range(0, 300, 17)] + [some.pair(i) for i in range(5)]).encode())
    return h.hexdigest()


def test_same_data_whatever_the_hash_seed():
    """Sets of strings iterate in another order in every process; nothing may depend on it."""
    code = "from tests.test_demo_data import digest; print(digest())"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                         env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)})
    assert run.stdout.strip() == digest(), run.stderr


# ---- questions about Python ----

@pytest.mark.parametrize("doc, sentence", [
    ("Return the value.", "Return the value."),
    ("S.find(sub[, start]) -> int\n\nReturn the lowest index in S.", "Return the lowest index in S."),
    ("D.update(E) -> None.  Update D from E and F.", "Update D from E and F."),
    ("repeat(object [,times]) -> create an iterator which returns the object\nfor the given number of times.",
     "Create an iterator which returns the object for the given number of times."),
    ("Join :func:`~os.path.join` and ``two`` *more* parts.\n\nLong text.", "Join os.path.join and two more parts."),
    ("compute the sum of the\n    two numbers", "Compute the sum of the two numbers."),
    ("Write e.g. a tree to text. The second sentence.", "Write e.g. a tree to text. The second sentence."),
    ("One " + "two " * 30 + "three. Then " + "more " * 30 + "words.", "One " + "two " * 30 + "three."),
    (" ".join(["word"] * 60) + ".", None), ("Usage: >>> f(1)", None), ("x", None), (None, None), ("", None),
])
def test_first_sentences(doc, sentence):
    assert python_questions.first_sentences(doc) == sentence


def test_answers_are_short_and_right():
    known = {name: answer for answer, names in python_questions.symbols().items() for name in names}
    assert known["os.path.join"].startswith("Join two or more pathname components") and len(known) > 3000
    assert known["len"] == "Return the number of items in a container." and "asyncio.run" in known
    for answer in known.values():
        assert len(answer.split()) <= python_questions.MAX_WORDS and "\n" not in answer and answer.isascii()
        assert answer[-1] in ".!?" and answer[0].isupper() | answer[0].isdigit() and "`" not in answer


def test_question_names_the_symbol_and_its_docstring_answers():
    known = python_questions.symbols()
    for conversation in PythonQuestions("test", 300):
        assert conversation["symbol"] in conversation["messages"][0]["content"]
        assert conversation["symbol"] in known[conversation["messages"][1]["content"]]


def test_question_pairs():
    task, kinds = PythonQuestions("pairs", 200), set()
    for i in range(200):
        pair = task.pair(i)
        right, wrong = (pair[side]["messages"][1]["content"] for side in ("chosen", "rejected"))
        assert right != wrong and (pair["kind"] == "run-on") == wrong.startswith(right) and pair["chosen"] == task[i]
        kinds.add(pair["kind"])
    assert kinds == {"evasive", "another function", "run-on"}


# ---- spelling ----

def test_words():
    found = spelling.words()
    assert len(found) == len(set(found)) >= 5000 and all(re.fullmatch("[a-z]{3,14}", word) for word in found)
    assert {"strawberry", "function", "python"} < set(found)


def test_words_of_a_list(tmp_path):
    good = [f"{a}{b}{c}{end}" for a in "abcdefghij" for b in "abcdefghij" for c in "abcdefghij" for end in ("o", "er")]
    bad = ["Paris", "it's", "xyz1", "ooo", "a", "naïve", "bcdf", "overlongwordsaretoolong"]
    (tmp_path / "words").write_text("\n".join(bad + good), encoding="utf-8")
    assert set(spelling.words(str(tmp_path / "words"))) == set(good)
    (tmp_path / "few").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match="only 2 words"):
        spelling.words(str(tmp_path / "few"))


def test_spelling_bee_by_hand():
    assert [part["text"] for part in SpellingBee.answer("strawberry", "r")] == [
        "strawberry:s,t,r,a,w,b,e,r,r,y\nCount r: s:0 t:0 r:1 a:1 w:1 b:1 e:1 r:2 r:3 y:3\nBy hand 3, by Python ",
        "'strawberry'.count('r')", "3", "\n#### 3"]
    assert spelling.spelled("apple") == "apple:a,p,p,l,e"
    bee, absent = SpellingBee("train", 3000), 0
    for conversation in bee:
        question, word, letter = conversation["messages"][0]["content"], conversation["word"], conversation["letter"]
        assert word in question and len(letter) == 1 and conversation["answer"] == str(word.count(letter))
        absent += letter not in word
    assert 0.10 < absent / 3000 < 0.16
    assert len(SimpleSpelling("train", 200_000)) == 200_000 and len(SpellingBee("train", 80_000)) == 80_000


def test_spelling_is_graded_exactly():
    task = SimpleSpelling("test", 1)
    word = task[0]["word"]
    answer = [{"type": "text", "text": f"{word}:{','.join(word)}\n"}]
    assert task.grade(task[0], answer) and not task.grade(task[0], [{"type": "text", "text": answer[0]["text"] + ",s"}])
    assert not task.grade(task[0], ",".join(word)) and not task.grade(task[0], [])


# ---- arithmetic ----

def test_sums_mean_what_they_ask():
    task, seen = Arithmetic("train", 4000), set()
    for conversation in task:
        question, code = conversation["messages"][0]["content"], conversation["expression"]
        numbers = re.findall(r"\d+", code)
        assert sorted(re.findall(r"\d+", question)) == sorted(numbers) and all(int(n) <= 9999 for n in numbers)
        assert 2 <= len(numbers) <= 3 and len(conversation["answer"].partition(".")[2]) <= 3
        seen.update(re.findall(r"[-+*/(]", code))
        if match := re.search(r"[Ss]ubtract (\d+) from (\d+)\.", question):
            assert code == f"{match[2]}-{match[1]}"
        if match := re.search(r"(\d+) divided by (\d+)", question):
            assert code == f"{match[1]}/{match[2]}"
    assert seen == set("-+*/(")
    assert item_of("{a}+{b}", {"a": 3, "b": 4}) == item_of("{a}+{b}", {"a": 4, "b": 3})
    assert item_of("{a}-{b}", {"a": 3, "b": 4}) != item_of("{a}-{b}", {"a": 4, "b": 3})
    assert len({task[i]["expression"] for i in range(200)}) > 190


# ---- identity ----

def test_every_intent_is_in_every_split_and_its_answers_state_its_facts():
    for split in SPLITS:
        assert {intent for _, intent in identity.wordings(split)} == set(identity.INTENTS)
    asked = [(identity.plain(wording), intent) for split in SPLITS for wording, intent in identity.wordings(split)]
    assert len({wording for wording, _ in asked}) == len(set(asked))        # no wording belongs to two intents
    for group, least in {"identity": 150, "small talk": 60, "unknown": 60}.items():     # 150 measure to +-5 points
        assert len(identity.wordings("test", group)) >= least
    for intent, its in identity.INTENTS.items():
        group, answers = its["group"], its["answers"]
        assert group in ("identity", "small talk", "unknown") and len(answers) >= 2
        assert all(identity.states_facts(intent, answer) for answer in answers)
        assert not any(identity.states_facts(intent, wrong) for wrong in identity.EVASIVE + identity.INVENTED[group])


def test_no_split_asks_in_a_wording_of_another():
    """Not by way of the paraphrases either, nor by a prefix that turns one wording into another."""
    split_of = {identity.plain(wording): split for split in SPLITS for wording, _ in identity.wordings(split)}
    for split, n in {"train": 10_000, "pairs": 2000, "prompts": 2000}.items():
        asked = {identity.plain(m["content"]) for c in Identity(split, n) for m in c["messages"][::2]}
        assert {split_of.get(wording, split) for wording in asked} == {split} and len(asked) > n / 3


def test_paraphrases():
    owner = {identity.plain(wording): (intent, split)
             for split in SPLITS for wording, intent in identity.wordings(split)}
    for intent in identity.INTENTS:
        for split in SPLITS:
            found = [wording for some in identity.paraphrases(intent, split) for wording in some]
            assert len(found) >= (100 if split == "train" else 5)
            for wording in found:                                           # of one intent and one split alone
                assert owner.setdefault(identity.plain(wording), (intent, split)) == (intent, split), wording
                assert wording[0].isupper() and not set(wording) & set("[]{}/|\n") and "  " not in wording
    spelled_out = {wording for split in SPLITS for some in identity.paraphrases("thanks", split) for wording in some}
    assert {"Thanks", "Thank you very much for the answer", "Great job, thanks", "I am grateful."} <= spelled_out
    framed = {wording for split in SPLITS for some in identity.paraphrases("name", split) for wording in some}
    assert {"I wonder what your name is.", "Tell me about your full name."} <= framed


def test_groups_turns_and_facts():
    assert {c["group"] for c in Identity("test", group="unknown")} == {"unknown"}
    with pytest.raises(ValueError, match="no wordings in group 'none'"):
        Identity("test", group="none")
    turns = [len(c["messages"]) // 2 for c in Identity("train", 2000)]
    assert 0.15 < sum(n > 1 for n in turns) / 2000 < 0.35 and max(turns) == 3
    assert identity.states_facts("who", [{"type": "text", "text": "I'm Tok2Chat."}])
    assert identity.states_facts("weather", "I do not know. I can\u2019t see it.")
    assert not identity.states_facts("who", "I am tok2chatter")
    assert not identity.states_facts("not other", "I am tok2chat.")
