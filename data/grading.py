"""
Grading by the number after `####`: the convention of GSM8K, for every task that ends in a number.

Only what the model itself says counts: text parts, never a python part or the output of the tool.
If the model corrects itself, its last answer counts: the number after the last `####`. If no number
follows that one, there is no answer.
"""
import re
from decimal import Decimal

# A number after "####" may have a sign and a currency before its digits ("$18", "-$18", "$-18"),
# commas between groups of three, and a decimal part, and it may stand in bold type. What is not a
# plain number is not read as one: not "1/2", "1 1/2", "1:30", "10,20", "0x10", "1e5", "5 + 3 = 8".
NUMBER = re.compile(r"[ \t*]*([-+]?)[$€£]?[ ]?([-+]?)((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
                    r"(?![\d/]|[.,:]\d|[eE][-+]?\d|[xX][\da-fA-F]"
                    r"|[ \t]*[-+*/=×÷^][ \t]*[$€£]?\d|[ \t]+\d+/\d)")


def spoken_text(answer):
    """The text parts of an answer, one a line, so that two of them never join into one number.

    answer: a string or a list of parts.
    """
    if isinstance(answer, str):
        return answer
    return "\n".join(part["text"] for part in answer if part["type"] == "text")


def final_number(answer):
    """The number after the last ####, or None: "So ... #### $1,319.00" -> Decimal("1319.00").

    answer: a string or a list of parts. Decimals compare by value: 72.0 == 72.
    """
    before, marks, after = spoken_text(answer).rpartition("####")
    match = NUMBER.match(after) if marks else None
    # "-$-18" has two signs and is no number.
    if match is None or (match[1] and match[2]):
        return None
    return Decimal(match[1] + match[2] + match[3].replace(",", ""))


def same_final_number(answer, reference):
    """Whether the answer ends in the same number as the reference.

    reference: an answer with ####, or a plain number like "18".
    """
    if isinstance(reference, str) and "####" not in reference:
        reference = "#### " + reference
    gold = final_number(reference)
    if gold is None:
        raise ValueError(f"the reference {reference!r} holds no number after ####, "
                         f"so nothing can be graded against it")
    return final_number(answer) == gold
