"""What the calculator computes, and that it refuses everything else at once, in a short text."""
import subprocess
import sys
import time
from pathlib import Path

import pytest

from talk.tool import run_python


@pytest.mark.parametrize("code, result", [
    ("12/60", "0.2"), ("0.2*50", "10"), ("0.1+0.2", "0.3"), ("-7//2", "-4"), ("7%-4", "-1"),
    ("2**10", "1024"), ("2**-1", "0.5"), ("(1+2)*3", "9"), (" 37*48 ", "1776"), ("+5", "5"),
    ("1e3", "1000"), ("10**12/7", "142857142857"), ("(-1)**9999999", "-1"),
    ("'strawberry'.count('r')", "3"), ('"aaaa".count("aa")', "2"), ("'abc'.count('')", "4"),
    ("'b'.count('b')+1", "2"), ("len('word')", "4"), ("len('')", "0"), ("2*len('ab')", "4"),
    ("'word'[::-1]", "drow"), ("'word'[0]", "w"), ("'word'[-1]", "d"), ("'word'[1+1]", "r"),
    ("7*8 == 54", "False"), ("7*8 != 54", "True"), ("0.5<1", "True"), ("3>=4", "False"),
    ("len('ab') <= 2", "True"), ("round(2.345, 1)", "2.3"), ("round(7/2)", "4"),
    ("max(3, 5*8)", "40"), ("min(3)", "3"), ("abs(3-5)", "2"), ("max(1, 2.5)+1", "3.5"),
    ("1<2<3", "True"), ("1<2>3", "False"), ("'a'=='a'", "True"), ("'a' in 'cat'", "True"),
    ("'at' not in 'cat'", "False"), ("'cat'[0]=='c'", "True"), ("'a'==1", "False"),
    ("iskeyword('for')", "True"), ("iskeyword('four')", "False"),
    ("max((3%2==0,'A'),(4%2==0,'B'))[1]", "B"), ("min((12,'A'),(5,'B'),(40,'C'))[1]", "B"),
    ("max((len('cat'),'A'),(len('horse'),'B'))[1]", "B"), ("min(('dog','A'),('cat','B'))[1]", "B"),
    ("min((iskeyword('for'),'A'),(iskeyword('x'),'B'))[1]", "B")])
def test_run_python_computes(code, result):
    assert run_python(code) == result


@pytest.mark.parametrize("code, result", [
    ("1234567890123/1", "1234567890123"), ("9007199254740993/1", "9007199254740993"),
    ("10**40/10**20", "1" + "0" * 20),
    ("0.5*2469135780247", "1234567890123.5"), ("123456789.123456*1", "123456789.123456"),
    ("4503599627370497.0*1", "4503599627370497"), ("1e12", "1000000000000")])
def test_run_python_rounds_no_digit_away_that_is_right(code, result):
    assert run_python(code) == result


@pytest.mark.parametrize("code", ["-0.0", "0*-1.5", "0/-3", "-0.0//1", "-1e-300*1e-300", "-0",
                                  "-2.0%2"])
def test_zero_has_no_sign(code):
    assert run_python(code) == "0"


@pytest.mark.parametrize("code, result", [
    ("1.15-1.05", "0.1"), ("4.35*100", "435"), ("1-0.9", "0.1"), ("1/3", "0.333333333333"),
    ("-2/3", "-0.666666666667"), ("1.1*1.1", "1.21")])
def test_run_python_hides_rounding_errors(code, result):
    assert run_python(code) == result


REFUSED = {
    "no number": ["1/0", "1%0", "0**-1", "(-8)**0.5", "1j", "1e999-1e999"],
    "too large": ["1e308*10", "1e400", "9**9**9", "9**9**9**9", "2**100000", "10**200*10**200",
                  "1.5**1e9", "(-1.5)**1e9", "9" * 400, "9" * 155 + "%7**9**9"],
    "too long": ["1" + "+1" * 500, "'" + "a" * 500 + "'.count('a')"],
    "too deep": ["(" * 300, "-" * 399, "1+" * 199 + "1+"],
    "not in the text": ["'abc'[3]", "''[0]", "'abc'[-4]", "'abc'[9**99]", "'abc'[0.5]",
                        "'abc'['a']", "'abc'[::2]", "'abc'[1:]", "'abc'[::-1][0]", "'abc'[::-1]*2",
                        "'abc'[1:2:-1]", "'a' < 1", "'abc'[0]+'b'", "(1<2)+1", "(1<2)<3",
                        "1 in 'abc'", "'a' in 5"],
    "not an expression": ["", "2+", "1\n2", "import os", "\0", "\ud800", "'\ud800'.count('a')",
                          r"'\ud800'[0]", r"'\ud800'[::-1]",
                          r"max((1,'\ud800'),(2,'\ud800'))[1]"],
    "other operations": ["'a'*3", "'a'", "'\\d'", "True", "x", "x:=1", "1 if 1 else 2", "1 is 1",
                         "~1", "1<<9", "[1]", "1,2", "lambda: 1", "(1)(2)", "f'{1}'.count('1')"],
    "other calls": ["__import__('os')", "open('/etc/passwd')", "().__class__", "(1).real",
                    "'a'.upper()", "'a'.count()", "len()", "len(5)", "len('a', 'b')", "max()",
                    "max('ab')", "max(*'ab')", "round('a')", "round(1, 2, 3)", "round(1, 0.5)",
                    "abs(1, 2)", "sum('ab')", "print('a')", "eval('1')",
                    "max(1, key=abs)", "len(len('a'))", "iskeyword(1)", "iskeyword('a', 'b')",
                    "max((1,'A'),(2,'B'))", "max((1,'A'),(2,'B'))[0]", "max((1,2),(2,3))[1]",
                    "max((1,'A'),2)[1]", "max((1,'A'))[1]", "max((1,'A'),('a','B'))[1]",
                    "max((1,'A','B'),(2,'B','C'))[1]", "abs((1,'A'),(2,'B'))[1]",
                    "max((1,'A'),(max((1,'A'),(2,'B'))[1],'B'))[1]",
                    "'a'.count('a', 0)", "'a'.count(1)",
                    "'a'.count(*'a')", "'a'.count('a').real", "'a'.count('a', x=1)",
                    "'a'.count(b'a')"]}


@pytest.mark.parametrize("code", [code for codes in REFUSED.values() for code in codes])
def test_run_python_refuses_in_a_short_text_at_once(code):
    start = time.process_time()
    result = run_python(code)
    assert result.startswith("error: ") and len(result) < 80 and time.process_time() - start < 0.2


def test_run_python_survives_the_deepest_nesting():
    # Which of the two depends on the stack that the parser has.
    assert run_python("-" * 399 + "1") in ("-1", "error: not a valid expression")


def test_run_python_results_are_bounded():
    assert run_python("2**511*2-1").startswith("error") and len(run_python("2**511")) == 154


def test_the_tool_needs_the_standard_library_alone():
    code = "import sys, talk.tool; print(*{'torch', 'numpy', 'common', 'chat'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            cwd=Path(__file__).parent.parent)
    assert loaded.stdout == "\n", loaded.stderr
