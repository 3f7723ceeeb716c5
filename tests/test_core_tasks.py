"""data/published/core_tasks.py: the prompts of CORE's tasks, and their rows on disk."""
import json
import zipfile

import pytest

from data.published.core_tasks import TASKS, CoreTask, Task, build_prompts, encode_prompt

ROWS = {"multiple_choice": {"query": "Roses are", "choices": ["red", "fast", "loud"], "gold": 0},
        "schema": {"context_options": ["The cup leaked because the cup",
                                       "The cup leaked because the tea"],
                   "continuation": "was cracked.", "gold": 0},
        "language_modeling": {"context": "The capital of France is ", "continuation": "Paris"}}


def put_core(tmp_path, archive=False):
    """Write rows for all tasks to tmp_path/core, in an archive or unpacked."""
    contents = {}
    for task in TASKS.values():
        lines = [json.dumps({**ROWS[task.kind], "n": i}) + "\n" for i in range(task.n_shot + 2)]
        contents[f"eval_bundle/eval_data/some/{task.file}.jsonl"] = "".join(lines)
    folder = tmp_path / "core"
    folder.mkdir()
    if archive:
        with zipfile.ZipFile(folder / "eval_bundle.zip", "w") as bundle:
            for path, content in contents.items():
                bundle.writestr(path, content)
        return
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)


def test_core_formats():
    choice = Task("x", "multiple_choice", 1, 0.25, "\nAnswer: ")
    schema = Task("x", "schema", 1, 0.5)
    modeling = Task("x", "language_modeling", 1, 0.0)

    row = ROWS["multiple_choice"]
    prompts = [("Roses are\nAnswer:", " red"), ("Roses are\nAnswer:", " fast"),
               ("Roses are\nAnswer:", " loud")]
    assert build_prompts(choice, row, []) == (prompts, 0)
    example = {"query": "Grass is", "choices": ["a", "green"], "gold": 1}
    prompts, gold = build_prompts(choice, row, [example])
    assert prompts[1] == ("Grass is\nAnswer: green\n\nRoses are\nAnswer:", " fast")

    prompts, gold = build_prompts(schema, {**ROWS["schema"], "gold": 1}, [ROWS["schema"]])
    assert gold == 1
    assert prompts[1] == (
        "The cup leaked because the cup was cracked.\n\nThe cup leaked because the tea",
        " was cracked.")

    example = {"context": " 1, 2,\n", "continuation": "3"}
    prompts, gold = build_prompts(modeling, ROWS["language_modeling"], [example])
    assert (prompts, gold) == ([("1, 2, 3\n\nThe capital of France is", " Paris")], 0)


def test_core_scored_span_is_the_continuation_and_long_contexts_lose_their_beginning():
    class Bytes:
        """A tokenizer of single bytes."""

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
    assert len(TASKS) == 22 and len({task.file for task in TASKS.values()}) == 21
    n_options = {"multiple_choice": 3, "schema": 2, "language_modeling": 1}
    for name, info in TASKS.items():
        task = CoreTask(name, dest=tmp_path)
        assert len(task) >= info.n_shot + 2
        prompts, gold = task.prompts(1)
        assert len(prompts) == n_options[info.kind] and gold == 0
        assert prompts[0][0].count("\n\n") == info.n_shot and prompts == task.prompts(1)[0]
        assert task.centred(1.0) == 1.0 and task.centred(info.chance) == 0.0
    assert len(CoreTask("copa", 1, dest=tmp_path)) == 1


def test_core_examples_are_never_the_question_itself(tmp_path):
    put_core(tmp_path)
    path = next((tmp_path / "core").rglob("jeopardy_all.jsonl"))
    path.write_text("".join(
        json.dumps({"context": f"Q{i}.", "continuation": f"A{i}."}) + "\n" for i in range(12)))
    task = CoreTask("jeopardy", dest=tmp_path)
    for i in range(12):
        prompts, _ = task.prompts(i)
        assert task[i]["continuation"] not in prompts[0][0]
        assert prompts[0][0].count("\nAnswer: A") == 10


def test_core_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="python data/download.py core"):
        CoreTask("copa", dest=tmp_path)
    with pytest.raises(ValueError, match="CORE has no task 'cola'"):
        CoreTask("cola", dest=tmp_path)
    put_core(tmp_path)
    path = next((tmp_path / "core").rglob("copa.jsonl"))
    row = ROWS["multiple_choice"]
    for content, reason in [(json.dumps({"query": "x"}), r"copa.jsonl:1: .*\(no choices\)"),
                            (json.dumps({**row, "gold": 3}), "gold 3 of 3"),
                            (json.dumps(row)[:-5], "copa.jsonl:1: broken JSON")]:
        path.write_text(content)
        with pytest.raises(ValueError, match=reason):
            CoreTask("copa", dest=tmp_path)
