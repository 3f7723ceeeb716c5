"""
Grading by the number after `####`: the convention of GSM8K, shared by every task that ends in a number.

Only what the model itself says counts: text parts, never a python part or the tool's output. Of several `####` the
last one is the answer (who corrects himself is judged by the last word); if no number follows it, there is none.
"""
import re
from decimal import Decimal

# What may follow "####" on its line: signs and a currency before the digits ("$18", "-$18", "$-18"), commas between
# groups of three, a decimal part, bold type. "1/2", "1 1/2", "1:30", "10,20", "0x10", "1e5" and "5 + 3 = 8" are other
# kinds of answer and are not read as 1, 10, 0 or 5.
NUMBER = re.compile(r"[ \t*]*([-+]?)[$€£]?[ ]?([-+]?)((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
                    r"(?![\d/]|[.,:]\d|[eE][-+]?\d|[xX][\da-fA-F]|[ \t]*[-+*/=×÷^][ \t]*[$€£]?\d|[ \t]+\d+/\d)")


def spoken_text(answer):
    """The text parts of an answer (a string or a list of parts), one per line, so that no two run into one number."""
    if isinstance(answer, str):
        return answer
    return "\n".join(part["text"] for part in answer if part["type"] == "text")


def final_number(answer):
    """The number after the last #### as a Decimal, or None: "1,319 ... #### $1,319.00" -> Decimal("1319.00").

    answer: a string, or a message's content as a list of parts. Decimals compare by value, 72.0 == 72.
    """
    before, marks, after = spoken_text(answer).rpartition("####")
    match = NUMBER.match(after) if marks else None
    if match is None or (match[1] and match[2]):            # "-$-18" has two signs
        return None
    return Decimal(match[1] + match[2] + match[3].replace(",", ""))


def same_final_number(answer, reference):
    """Whether the answer ends in the same number as the reference, itself an answer or a plain number like "18"."""
    if isinstance(reference, str) and "####" not in reference:
        reference = "#### " + reference
    gold = final_number(reference)
    if gold is None:
        raise ValueError(f"the reference {reference!r} holds no number after ####, so nothing can be graded against it")
    return final_number(answer) == gold
