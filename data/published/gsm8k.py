"""
GSM8K: school mathematics in words, 7,473 problems to train on and 1,319 to test.

Cobbe et al. 2021, arXiv:2110.14168. The solutions have calculator marks, as in
"she earned 0.2 x 50 = $<<0.2*50=10>>10." Each mark becomes a python part and its output:

    "she earned 0.2*50 = "   python "0.2*50"   python_output "10"   "."

The output takes the place of the result after the mark, so that it is not said twice. An expression
before the mark takes the notation of the calculator: then the python part is a plain copy of what
was just said, which is easy to learn. The lines of a solution become one paragraph of sentences;
the last line, "#### 10", keeps a line of its own.
"""
import re
from decimal import Decimal, InvalidOperation

from data.formats import validate_conversation
from data.grading import final_number, same_final_number
from data.published.source import Source

MARK = re.compile(r"<<([^<>]*)>>")
# "0.2 x 50" at the end of "she earned 0.2 x 50 = $".
EXPRESSION_BEFORE = re.compile(r"(?:^|(?<=\s))([$\d(.][-$\d(),.+*/x×÷ ]*?) *= *\$?$")
# "1,200.00" at the beginning of "1,200.00 left".
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
        """Whether the answer, a list of parts, has the reference's number after its last ####."""
        return same_final_number(answer, conversation["messages"][-1]["content"])


def to_parts(solution):
    """The parts of a solution with calculator marks; see the example above."""
    # Text, mark, text, mark, ..., text. No mark follows the last text.
    pieces = MARK.split(one_paragraph(solution))
    parts = []
    for said, mark in zip(pieces[::2], [*pieces[1::2], None]):
        # After a mark the text repeats the result.
        if parts:
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
            parts.append({"type": "python", "text": expression})
            parts.append({"type": "python_output", "text": result})
    return parts


def one_paragraph(solution):
    """A solution whose lines are joined, each ended by a full stop; "#### 10" stays a line."""
    steps, hashes, final = solution.rpartition("####")
    if not hashes:
        return solution
    sentences = []
    for line in map(str.strip, steps.splitlines()):
        if line:
            sentences.append(line if line[-1] in ".!?:;," else line + ".")
    return " ".join(sentences) + f"\n####{final.rstrip()}"


def same_value(a, b):
    """Whether two numbers have the same value: "1,200.0" and "1200"."""
    try:
        return Decimal(a.replace(",", "")) == Decimal(b.replace(",", ""))
    except InvalidOperation:
        return False


def in_calculator_notation(expression):
    """Rewrite an expression: "$0.2 x 50" -> "0.2*50"."""
    expression = re.sub(r"[ $,]", "", expression)
    return expression.replace("x", "*").replace("×", "*").replace("÷", "/")
