"""data/grading.py: which number an answer states."""
from decimal import Decimal

import pytest

from data import grading


@pytest.mark.parametrize("text, number", [
    ("so #### 18", "18"), ("#### 1,319", "1319"), ("#### -0.5", "-0.5"), ("#### 72.0", "72"),
    ("#### $18", "18"), ("#### -$18", "-18"), ("#### $-18", "-18"), ("####18", "18"),
    ("#### +5", "5"), ("#### .5", "0.5"), ("#### 18.", "18"),
    ("#### 1,234,567.50 dollars", "1234567.5"), ("#### **42**", "42"), ("#### 50%", "50"),
    ("#### 3\nthat is all", "3"), ("first #### 3\nno, #### 4", "4"), ("#### 007", "7"),
    ("18", None), ("", None), ("####", None), ("#### none", None), ("#### 4\n#### unsure", None),
    ("####\n18", None), ("#### 1/2", None), ("#### 10,20", None), ("#### 1:30", None),
    ("#### 1e5", None), ("#### 1.2.3", None), ("#### -$-18", None), ("#### 1,31", None),
    ("#### 1,3190", None), ("#### 5 + 3 = 8", None), ("#### 12 / 4", None), ("#### 1 1/2", None),
    ("#### 0x10", None), ("#### $12/$4", None), ("#### 12.50 = 25 / 2", None),
    ("#### 1,200-1,300", None), ("#### 5 - it is", "5"), ("#### 5x", "5"),
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


def test_two_numbers_are_compared_by_value():
    assert grading.same_final_number("#### 1,319.00", "1319")
    assert grading.same_final_number("#### 12", "So\n#### 12.0")
    assert not grading.same_final_number("13", "13")
    assert not grading.same_final_number("#### 13", "-13")
    with pytest.raises(ValueError, match="holds no number after ####"):
        grading.same_final_number("#### 1", "many")
