"""data/demo/arithmetic.py: what the questions say and the expressions that answer them."""
import re

from data.demo.arithmetic import Arithmetic, item_of


def test_sums_mean_what_they_ask():
    task = Arithmetic("train", 4000)
    seen = set()
    for conversation in task:
        question = conversation["messages"][0]["content"]
        code = conversation["expression"]
        numbers = re.findall(r"\d+", code)
        assert sorted(re.findall(r"\d+", question)) == sorted(numbers)
        assert all(int(n) <= 9999 for n in numbers) and 2 <= len(numbers) <= 3
        assert len(conversation["answer"].partition(".")[2]) <= 3
        seen.update(re.findall(r"[-+*/(]", code))
        if match := re.search(r"[Ss]ubtract (\d+) from (\d+)\.", question):
            assert code == f"{match[2]}-{match[1]}"
        if match := re.search(r"(\d+) divided by (\d+)", question):
            assert code == f"{match[1]}/{match[2]}"
    assert seen == set("-+*/(")
    assert item_of("{a}+{b}", {"a": 3, "b": 4}) == item_of("{a}+{b}", {"a": 4, "b": 3})
    assert item_of("{a}-{b}", {"a": 3, "b": 4}) != item_of("{a}-{b}", {"a": 4, "b": 3})
    assert len({task[i]["expression"] for i in range(200)}) > 190
