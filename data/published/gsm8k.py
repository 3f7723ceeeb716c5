"""
GSM8K: school mathematics in words, 7,473 problems to train on and 1,319 to test. Cobbe et al. 2021, arXiv:2110.14168.

Its solutions carry calculator marks, "0.2 x 50 = $<<0.2*50=10>>10." Each becomes a python part and its output:

    "she earned 0.2*50 = "   python "0.2*50"   python_output "10"   "."

The result is not said twice (the output stands where it stood), and an expression written before the mark takes the
calculator's notation, so that the call is a plain copy of what was just said, which is easy to learn. The lines of a
solution become one paragraph, each ended by a full stop; the last, "#### 10", stays alone.
"""
import re
from decimal import Decimal, InvalidOperation

from data.formats import validate_conversation
from data.grading import final_number, same_final_number
from data.published.source import Source

MARK = re.compile(r"<<([^<>]*)>>")
EXPRESSION_BEFORE = re.compile(r"(?:^|(?<=\s))([$\d(.][-$\d(),.+*/x×÷ ]*?) *= *\$?$")      # "... 0.2 x 50 = $"
RESULT_AFTER = re.compile(r" ?\$?((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?!\d|[.,/]\d)")


class GSM8K(Source):
    name = "gsm8k"
    files = {"train": "*train*", "test": "*test*"}

    @staticmethod
    def to_record(row):
        record = {"messages": [{"role": "user", "content": row["question"]},
                               {"role": "assistant", "content": to_parts(row["answer"])}]}
        validate_conversation(record)
        if final_number(record["messages"][1]["content"]) is None:
            raise ValueError("the answer has no number after ####")
        return record

    @staticmethod
    def grade(conversation, answer):
        """Whether the number after the last #### of the answer (list of parts) is the reference's."""
        return same_final_number(answer, conversation["messages"][-1]["content"])


def to_parts(solution):
    """A solution with calculator marks -> parts; see the example above."""
    steps, hashes, final = solution.rpartition("####")
    sentences = [line if line[-1] in ".!?:;," else line + "." for line in map(str.strip, steps.splitlines()) if line]
    text = " ".join(sentences) + f"\n{hashes}{final.rstrip()}" if hashes else solution
    pieces = MARK.split(text)                                # text, mark, text, mark, ..., text
    parts = []
    for said, mark in zip(pieces[::2], [*pieces[1::2], None]):
        if parts:                                            # what follows a mark: the result again
            match = RESULT_AFTER.match(said)
            if match and same_value(match[1], parts[-1]["text"]):
                said = said[match.end():]
        if mark is not None:
            expression, _, result = mark.rpartition("=")
            if not expression:
                raise ValueError(f"the calculator mark <<{mark}>> has no result")
            match = EXPRESSION_BEFORE.search(said)
            if match and in_calculator_notation(match[1]) == in_calculator_notation(expression):
                said = said[:match.start()] + expression + " = "
            said = said.removesuffix("$")
        if said:
            parts.append({"type": "text", "text": said})
        if mark is not None:
            parts += [{"type": "python", "text": expression}, {"type": "python_output", "text": result}]
    return parts


def same_value(a, b):
    """Whether two numbers as written are equal: "1,200.0" and "1200"."""
    try:
        return Decimal(a.replace(",", "")) == Decimal(b.replace(",", ""))
    except InvalidOperation:
        return False


def in_calculator_notation(expression):
    """ "$0.2 x 50" -> "0.2*50"."""
    return re.sub(r"[ $,]", "", expression).replace("x", "*").replace("×", "*").replace("÷", "/")
