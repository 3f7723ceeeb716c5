"""data/demo/arithmetic.py: what the questions say and the expressions that answer them."""
import re

from data.demo.arithmetic import KINDS, Arithmetic, item_of
from data.demo.grammar import alternatives, spell_out
from talk.tool import run_python


def test_sums_mean_what_they_ask():
    task = Arithmetic("train", 4000)
    seen = set()
    claims = []
    for conversation in task:
        question = conversation["messages"][0]["content"].replace(",", "")
        code = conversation["expression"]
        assert run_python(code) == conversation["answer"]
        assert len(conversation["answer"].partition(".")[2]) <= 4
        seen.update(re.findall(r"\*\*|//|[-+*/(%.]", code))
        if match := re.search(r"[Ss]ubtract (\d+) from (\d+)$", question):
            assert code == f"{match[2]}-{match[1]}"
        if "claim" in conversation:
            claims.append(conversation["claim"])
            said = conversation["messages"][1]["content"][-1]["text"]
            assert said == ("\nYes." if claims[-1] else f"\nNo, it is {conversation['answer']}.")
    assert seen == {*"-+*/(%.", "**", "//"}
    assert 300 < len(claims) < 500 and 0.4 < sum(claims) / len(claims) < 0.6
    assert item_of("{a}+{b}", {"a": 3, "b": 4}) == item_of("{a}+{b}", {"a": 4, "b": 3})
    assert item_of("{a}-{b}", {"a": 3, "b": 4}) != item_of("{a}-{b}", {"a": 4, "b": 3})
    assert len({task[i]["expression"] for i in range(200)}) > 185


def test_every_wording_names_all_numbers():
    for kind in KINDS:
        names = set(re.findall(r"\{(\w)\}", kind.code))
        for line in alternatives(kind.phrases) + alternatives(kind.commands):
            for sentence in spell_out(line):
                assert "{list}" in sentence or set(re.findall(r"\{(\w)\}", sentence)) == names, (
                    kind.code, sentence)
