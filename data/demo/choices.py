"""
Multiple choice, half of it in the format of MMLU, whose answer can be computed or is known.

Two to five options: the largest number, the longest word, the word that is spelled c-a-t, what 12*7
is, the module that has a function. Every number of options comes up equally often, and of each
number of options every letter is right equally often.

What is said is the letter alone. Before it, Python looks at every option: which number of "- 9=A"
and "- 4=B" is even says max((9%2==0,'A'),(4%2==0,'B'))[1]. A model this small learns in minutes to
write that; to bind a letter to an option by a single token of loss it does not (dev/LOG.md). Which
module has a function, Python could only say by importing it, so that answer is a letter alone.

A hash of the kind and the wording decides the split, and a hash of the word that of every word that
is asked about. Functions and keywords are the same in all splits: they are to be known, not to be
worked out.
"""
import ast
import functools
import keyword
import re

from data.demo.arithmetic import number
from data.demo.grammar import alternatives, capital, sloppy, spell_out
from data.demo.other_wordings import may_train
from data.demo.python_corpus import read_source, stdlib_folder
from data.demo.records import preference, run_on
from data.demo.spelling import words_of
from data.demo.splits import check_split, generator, split_of
from data.grading import spoken_text
from data.lazy import Lazy
from data.published.source import grade_letter, multiple_choice_record

LETTERS = ["A", "B", "C", "D", "E"]
# From two options to five.
OPTIONS = [2, 3, 4, 5]

# What stands for the parts that many of the wordings share.
SHARED = {
    "number": "[number/value/one/option/of these/of these numbers/of the following/"
              "of the numbers below/number in the list]",
    "word": "[word/one/option/of these/of these words/of the following/of the words below/"
            "word in the list]",
    "module": "[module/Python module/one/of these modules/of the following/of the modules below]",
    "function": "[function/one/of these/of these functions/of the following/"
                "of the functions below]",
    "expression": "[expression/one/of these/of these expressions/of the following]",
    "pick": "[pick/choose/find/select/name/mark/tell me/give me/point out]",
}
# The wordings of each kind of question. {n}, {q} and so on come from its function below.
ASK = {
    "largest": """
which <number> is the [largest/biggest/greatest/highest]?
what is the [largest/biggest/greatest/highest] [number/value/number here/of these numbers]?
<pick> the [largest/biggest/greatest/highest] [number/value/of these].
[which/which number/which one] is [greater/bigger/higher/larger] than all [the others/others]?
which <number> is the maximum? | the [largest/biggest/highest] [number/value] is:
no [number/option] here is [larger/bigger/higher] than which?
""",
    "smallest": """
which <number> is the [smallest/lowest/least]?
what is the [smallest/lowest/least] [number/value/number here/of these numbers]?
<pick> the [smallest/lowest/least] [number/value/of these].
[which/which number/which one] is [less/smaller/lower] than all [the others/others]?
which <number> is the minimum? | the [smallest/lowest/least] [number/value] is:
no [number/option] here is [smaller/lower] than which?
""",
    "even": """
which <number> is even? | which is [an/the] even number?
<pick> the [even number/number that is even/even one].
which <number> can be [divided/split] by [2/two] [without a rest/evenly/exactly]?
which <number> is a multiple of [2/two]? | the [even number/even one] is:
which <number> is not odd? | what is the even number [here/of these/in this list]?
""",
    "odd": """
which <number> is odd? | which is [an/the] odd number?
<pick> the [odd number/number that is odd/odd one].
which <number> can't be [divided/split] by [2/two] [without a rest/evenly/exactly]?
which <number> is no multiple of [2/two]? | the [odd number/odd one] is:
which <number> is not even? | what is the odd number [here/of these/in this list]?
""",
    "multiple": """
which <number> is a multiple of {n}? | the multiple of {n} is:
which <number> is divisible by {n}? | <pick> the multiple of {n}.
which <number> can be divided by {n} [without a rest/evenly/exactly]?
{n} times a whole number makes [which/which of these]? | into which <number> does {n} go?
which <number> leaves no [rest/remainder] when [divided/you divide it] by {n}?
what is a multiple of {n} [here/in this list/among these]?
""",
    "above": """
which <number> is [greater/larger/bigger/more/higher] than {n}?
<pick> the number [above/over/greater than/larger than] {n}.
which <number> is [above/over] {n}? | what is [more/larger/greater] than {n}?
which <number> comes after {n} when you count [/up]? | more than {n} is only:
{n} is [less/smaller] than which <number>?
""",
    "below": """
which <number> is [less/smaller/lower] than {n}?
<pick> the number [below/under/less than/smaller than] {n}.
which <number> is [below/under] {n}? | what is [less/smaller/lower] than {n}?
which <number> comes before {n} when you count [/up]? | less than {n} is only:
{n} is [more/greater/larger] than which <number>?
""",
    "between": """
which <number> is between {m} and {n}? | what lies between {m} and {n}?
which <number> is [more/greater/larger] than {m} and [less/smaller] than {n}?
<pick> the number [between/that lies between/that is between] {m} and {n}.
which <number> [comes/stands] after {m} and before {n}? | between {m} and {n} is:
where {m} is too [small/low] and {n} too [large/high], which <number> fits?
""",
    "longest": """
which <word> is the longest? | which <word> has the [most letters/greatest length]?
what is the longest word [/here/of these/in this list]? | the longest word [here/of these] is:
<pick> the [longest word/word with the most letters/longest one/longest of these words].
which <word> has more letters than [all/any of] the others? | the most letters are in:
which <word> takes the most [letters/space/time] to write? | which <word> is the longest to write?
count the letters: which <word> has the most? | which <word> is longer than all the others?
""",
    "shortest": """
which <word> is the shortest? | which <word> has the [fewest letters/smallest length]?
what is the shortest word [/here/of these/in this list]? | the shortest word [here/of these] is:
<pick> the [shortest word/word with the fewest letters/shortest one/shortest of these words].
which <word> has fewer letters than [all/any of] the others? | the fewest letters are in:
which <word> takes the least [space/time] to write? | which <word> is the shortest to write?
count the letters: which <word> has the fewest? | which <word> is shorter than all the others?
""",
    "contains": """
which <word> [contains/has/includes] [the letter/a letter/an/a] {q}?
<pick> the word [with/that has/that contains] [the letter/a letter] {q}.
in which <word> is [there a/the letter/a letter] {q}?
where do you [see/find/need] the letter {q}? | {q} [is/occurs/appears] in which <word>?
which <word> is [written/spelled] with [the letter/a letter/an] {q}?
""",
    "lacks": """
which <word> does not [contain/have] [the letter/a letter/an/a] {q}?
<pick> the word [without/that lacks] [the letter/a letter/an/a] {q}.
in which <word> is there no [letter/] {q}? | no {q} is in:
which <word> is [written/spelled] without [the letter/a letter/an/a] {q}?
{q} is missing in which <word>? | which <word> has no [letter/] {q}?
""",
    "starts": """
which <word> [starts/begins] with [the letter/a letter/an/] {q}?
<pick> the word that [starts/begins] with [the letter/] {q}.
which <word> has {q} as its first letter? | {q} is the first letter of which <word>?
the first letter of which <word> is {q}? | {q} [opens/begins] which <word>?
where is {q} the first letter? | which <word> has a {q} at the [start/beginning/front]?
""",
    "ends": """
which <word> [ends/stops] [with/in] [the letter/a letter/an/] {q}?
<pick> the word that ends [with/in] [the letter/] {q}.
which <word> has {q} as its last letter? | {q} is the last letter of which <word>?
the last letter of which <word> is {q}? | {q} [closes/ends] which <word>?
where is {q} the last letter? | which <word> has a {q} at [the end/its end]?
""",
    "has letters": """
which <word> [has/counts] [exactly/] {n} letters? | {n} letters [has only/are in]:
<pick> the word [with/of/that has] [exactly/] {n} letters. | which <word> is {n} letters long?
{n} letters make up which <word>? | which <word> is [written/spelled] with {n} letters?
the [word/one] [of/with] {n} letters is: | count the letters: which <word> has {n}?
what [word/] has {n} letters? | which <word> has a length of {n} [letters/]?
""",
    "letters of": """
how many [letters/characters] does [the word/] {q} have? | of how many letters is {q} made?
how many [letters/characters] are [/there] in [the word/] {q}? | {q} [has/counts] how many letters?
how many [letters/characters] long is [the word/] {q}? | how long is [the word/] {q}, in letters?
what is the [number of letters/letter count/length] [in/of] [the word/] {q}?
[count/add up/number] [the/all] letters [of/in] [the word/] {q}.
how many letters [make up/are needed for/do you need to write] [the word/] {q}?
if you [spell/write] {q}, how many letters [is that/do you use/do you need]?
""",
    "count of": """
how [often/many times] does [the letter/] {l} [occur/appear/come up/stand] in [the word/] {q}?
how many {l} [are/are there/do you see/do you find] in [the word/] {q}? | {q} has how many {l}?
how many letters {l} does {q} have? | how [often/many times] is {l} in [the word/] {q}?
what is the [number/count] of [the letter/] {l} in [the word/] {q}?
[count/find/add up] [the letter/all/the] {l} in [the word/] {q}.
[in/inside] [the word/] {q}, how [often/many times] do you [see/find/read/write] {l}?
how many of the letters [of/in] {q} are {l}? | the letter {l} is in {q} how [often/many times]?
""",
    "spelled": """
which <word> is spelled {s}? | what [word/] is spelled {s}?
which <word> do the letters {s} [make/give/form/spell]?
<pick> the word [spelled/that is spelled/with the letters] {s}.
{s} spells [what/which word/which of these]? | {s}: which word is [that/it/this]?
the letters {s} [make/spell/form] [which word/which of these]? | what do you [read/get] from {s}?
""",
    "compute": """
what is {e}? | how much is {e}? | what does {e} [equal/make/give/come to]? | {e} = ? | {e} is:
[compute/calculate/work out/evaluate/solve/find] {e}. | which <number> [is/equals/makes] {e}?
what [do you get/is the result/comes out/is the answer] for {e}?
the [result/value/answer] of {e} is: | [calculating/computing] {e} gives:
what is the [result/value] of {e}? | <pick> the [result/value] [of/for] {e}.
<pick> the answer to {e}. | which <number> is the answer to {e}?
[which/which one/what] of these is [the result of/equal to/the same as] {e}?
how much [do you get/results/is it] for {e}? | {e}: [how much/which one/what] is [it/that]?
""",
    "equals": """
which <expression> [is/makes/gives/equals] {n}? | {n} is the result of which <expression>?
<pick> [the expression that/the one that/what] [is/makes/gives/equals] {n}. | {n} equals:
what [makes/gives/equals] {n}? | {n} is the same as [what/which of these]? | how do you get {n}?
[where/for which of these] is {n} the [result/answer/value]? | {n} [comes out of/comes from]:
which <expression> has the [value/result] {n}? | which <expression> is worth {n}?
""",
    "alphabet first": """
which <word> comes first in [the alphabet/alphabetical order]?
which <word> [stands/is] first in [a dictionary/an index/a sorted list]?
<pick> the word that comes first in [the alphabet/a dictionary].
if you sort these [words/] from a to z, [which/which word] is [first/the first]?
in [alphabetical order/the alphabet/a dictionary], which <word> is [first/on top]?
""",
    "alphabet last": """
which <word> comes last in [the alphabet/alphabetical order]?
which <word> [stands/is] last in [a dictionary/an index/a sorted list]?
<pick> the word that comes last in [the alphabet/a dictionary].
if you sort these [words/] from a to z, [which/which word] is [last/the last]?
in [alphabetical order/the alphabet/a dictionary], which <word> is [last/at the end]?
""",
    "keyword": """
which <word> is a [Python keyword/keyword in Python/keyword of Python]?
<pick> the [Python keyword/keyword of Python/reserved word in Python].
which <word> is reserved in Python? | which <word> can't name a Python variable?
which <word> [belongs to the syntax of Python/has a meaning of its own in Python]?
what is a [Python keyword/reserved word of Python/keyword of Python] [here/among these/below]?
<pick> the one that [is/works as] a [keyword/reserved word] [in/of] Python.
""",
    "no keyword": """
which <word> is not a [Python keyword/keyword in Python]?
<pick> the word that is [no/not a] [Python keyword/keyword of Python].
which <word> is not reserved in Python? | which <word> can name a variable?
which <word> is free to be the name of a Python variable? | no Python keyword is:
[all/all of these] but one are Python keywords: which [is not/one is not/is the other one]?
which <word> [could/can/may] be [the name of a variable/a variable's name] in Python?
""",
    "module": """
which <module> has [the function/a function/] {f}?
in which <module> is [the function/] {f} [/defined]?
[where/in which module] do you find [the function/] {f}? | {f} is a function of which module?
<pick> the module [with/that has/that defines] [the function/] {f}.
which module [must/do] you import [for/to call/to use] {f}? | {f} [belongs to/is part of]:
which <module> [does {f} come from/offers {f}/provides {f}]?
""",
    "function": """
which <function> is in [the module/the Python module/] {m}?
which <function> [does/can be found in] [the module/] {m} [/have]?
<pick> the function [of/in/that belongs to] [the module/] {m}.
which <function> do you get [from/by importing] [the module/] {m}?
[the module/] {m} has which <function>? | what is part of {m}?
""",
}
# Well-known modules. The docstrings of their functions are in the corpus.
MODULES = """
argparse ast base64 bisect calendar colorsys copy csv difflib dis fileinput fnmatch functools getopt
getpass glob gzip heapq hmac html imaplib importlib inspect json keyword linecache locale logging
mimetypes operator os pickle pkgutil platform pprint profile queue quopri random re sched secrets
shlex shutil signal socket ssl stat statistics string subprocess sysconfig tarfile tempfile textwrap
threading timeit token tokenize trace traceback types uuid warnings wave weakref webbrowser zipfile
""".split()
QUOTES = ["{}", "{}", "{}", "'{}'", '"{}"']


# --------------------------------------------------------------------------------------------------
# Kinds of questions. Each function returns ({slot: text} for the wording and for TESTS, the right
# option, a list of wrong options); `words` are those of the split.

def numbers(rng, n):
    """n different numbers, of about the same size."""
    most = rng.choice([20, 100, 100, 1000, 10_000])
    return rng.sample(range(1, most), n)


def largest(rng, n, words):
    right, *wrong = sorted(numbers(rng, n), reverse=True)
    return {}, right, wrong


def smallest(rng, n, words):
    right, *wrong = sorted(numbers(rng, n))
    return {}, right, wrong


def by_test(test):
    """The kind of question whose right option alone passes test(number, slots)."""
    def kind(rng, n, words):
        while True:
            low, high = sorted(numbers(rng, 2))
            divisor = rng.randint(3, 12)
            slots = {"m": low, "n": high, "divisor": divisor}
            drawn = [rng.randint(1, max(100, 2 * high)) for _ in range(40)]
            right = [x for x in drawn if test(x, slots)]
            wrong = sorted({x for x in drawn if not test(x, slots)})
            if right and len(wrong) >= n - 1:
                return slots, right[0], rng.sample(wrong, n - 1)
    return kind


def multiple(rng, n, words):
    slots, right, wrong = by_test(lambda x, slots: x % slots["divisor"] == 0)(rng, n, words)
    return {"n": slots["divisor"]}, right, wrong


def by_length(sign):
    """The longest word (sign 1) or the shortest one (sign -1); no other is as long."""
    def kind(rng, n, words):
        while True:
            drawn = rng.sample(words, n)
            drawn.sort(key=lambda word: -sign * len(word))
            if len(drawn[0]) != len(drawn[1]):
                return {}, drawn[0], drawn[1:]
    return kind


def by_letter(test):
    """The kind of question whose right option alone passes test(word, letter)."""
    def kind(rng, n, words):
        while True:
            drawn = rng.sample(words, 30)
            letter = rng.choice(rng.choice(drawn))
            right = [word for word in drawn if test(word, letter)]
            wrong = [word for word in drawn if not test(word, letter)]
            if right and len(wrong) >= n - 1:
                return ({"q": quoted(letter, rng), "letter": letter}, right[0],
                        wrong[:n - 1])
    return kind


def has_letters(rng, n, words):
    right = rng.choice(words)
    wrong = [word for word in rng.sample(words, 30) if len(word) != len(right)]
    return {"n": len(right)}, right, wrong[:n - 1]


def letters_of(rng, n, words):
    word = rng.choice(words)
    return ({"q": quoted(word, rng), "word": word}, len(word),
            others_near(len(word), n - 1, rng))


def count_of(rng, n, words):
    word = rng.choice(words)
    letter = rng.choice(word)
    count = word.count(letter)
    slots = {"q": quoted(word, rng), "l": quoted(letter, rng), "word": word, "letter": letter}
    return slots, count, others_near(count, n - 1, rng, lowest=0)


def spelled(rng, n, words):
    right = rng.choice(words)
    joint = rng.choice(["-", "-", ",", ", ", " "])
    return {"s": joint.join(right), "word": right}, right, similar_words(right, words, n - 1, rng)


def compute(rng, n, words):
    code, value = small_expression(rng)
    return {"e": shown(code, rng), "code": code}, value, others_near(value, n - 1, rng)


def equals(rng, n, words):
    found = {}
    while len(found) < n:
        code, value = small_expression(rng)
        found[value] = code
    value, *others = rng.sample(list(found), n)
    return {"n": value}, found[value], [found[other] for other in others]


def alphabet_first(rng, n, words):
    right, *wrong = sorted(rng.sample(words, n))
    return {}, right, wrong


def alphabet_last(rng, n, words):
    *wrong, right = sorted(rng.sample(words, n))
    return {}, right, wrong


def python_keyword(rng, n, words):
    wrong = [word for word in rng.sample(words, 20) if not keyword.iskeyword(word)]
    return {}, rng.choice(keyword.kwlist), wrong[:n - 1]


def no_keyword(rng, n, words):
    right = next(word for word in rng.sample(words, 20) if not keyword.iskeyword(word))
    return {}, right, rng.sample(keyword.kwlist, n - 1)


def module_of(rng, n, words):
    module = rng.choice(list(functions()))
    function = rng.choice(functions()[module])
    lacking = [other for other in MODULES if function not in names_in(other)]
    shown_as = rng.choice(["{}", "{}", "{}()", "`{}`"])
    return {"f": shown_as.format(function)}, module, rng.sample(lacking, n - 1)


def function_of(rng, n, words):
    module = rng.choice(list(functions()))
    right = rng.choice(functions()[module])
    wrong = set()
    while len(wrong) < n - 1:
        function = rng.choice(functions()[rng.choice(list(functions()))])
        if function not in names_in(module):
            wrong.add(function)
    return {"m": module}, right, sorted(wrong)


KINDS = {
    "largest": largest,
    "smallest": smallest,
    "even": by_test(lambda x, slots: x % 2 == 0),
    "odd": by_test(lambda x, slots: x % 2 == 1),
    "multiple": multiple,
    "above": by_test(lambda x, slots: x > slots["n"]),
    "below": by_test(lambda x, slots: x < slots["n"]),
    "between": by_test(lambda x, slots: slots["m"] < x < slots["n"]),
    "longest": by_length(1),
    "shortest": by_length(-1),
    "contains": by_letter(lambda word, letter: letter in word),
    "lacks": by_letter(lambda word, letter: letter not in word),
    "starts": by_letter(lambda word, letter: word[0] == letter),
    "ends": by_letter(lambda word, letter: word[-1] == letter),
    "has letters": has_letters,
    "letters of": letters_of,
    "count of": count_of,
    "spelled": spelled,
    "compute": compute,
    "equals": equals,
    "alphabet first": alphabet_first,
    "alphabet last": alphabet_last,
    "keyword": python_keyword,
    "no keyword": no_keyword,
    "module": module_of,
    "function": function_of,
}
# What Python asks about each option {o}: the right one is that with the greatest or least value.
# A test that is true is greater than one that is false.
TESTS = {
    "largest": ("max", "{o}"),
    "smallest": ("min", "{o}"),
    "even": ("max", "{o}%2==0"),
    "odd": ("max", "{o}%2==1"),
    "multiple": ("max", "{o}%{n}==0"),
    "above": ("max", "{o}>{n}"),
    "below": ("max", "{o}<{n}"),
    "between": ("max", "{m}<{o}<{n}"),
    "longest": ("max", "len('{o}')"),
    "shortest": ("min", "len('{o}')"),
    "contains": ("max", "'{letter}' in '{o}'"),
    "lacks": ("max", "'{letter}' not in '{o}'"),
    "starts": ("max", "'{o}'[0]=='{letter}'"),
    "ends": ("max", "'{o}'[-1]=='{letter}'"),
    "has letters": ("max", "len('{o}')=={n}"),
    "letters of": ("max", "len('{word}')=={o}"),
    "count of": ("max", "'{word}'.count('{letter}')=={o}"),
    "spelled": ("max", "'{word}'=='{o}'"),
    "compute": ("max", "{code}=={o}"),
    "equals": ("max", "{o}=={n}"),
    "alphabet first": ("min", "'{o}'"),
    "alphabet last": ("max", "'{o}'"),
    "keyword": ("max", "iskeyword('{o}')"),
    "no keyword": ("min", "iskeyword('{o}')"),
}


def python_for(kind, slots, options, letters):
    """The code that finds the letter, or "" if Python cannot."""
    if kind not in TESTS:
        return ""
    function, test = TESTS[kind]
    pairs = [f"({test.format(o=option, **slots)},'{letter}')"
             for option, letter in zip(options, letters)]
    return f"{function}({','.join(pairs)})[1]"


# --------------------------------------------------------------------------------------------------
# Numbers, words and functions

def quoted(text, rng):
    return rng.choice(QUOTES).format(text)


def small_expression(rng):
    """Draw (code, value): a sum, difference, product or quotient with a whole value above 0."""
    sign = rng.choice("+-**/")
    a, b = number(rng, (30, 50, 20)), number(rng, (40, 60))
    if sign == "-":
        a, b = max(a, b) + 1, min(a, b)
    elif sign == "*":
        a, b = rng.randint(2, 30), rng.randint(2, 20)
    elif sign == "/":
        b = rng.randint(2, 12)
        return f"{b * a}/{b}", a
    return f"{a}{sign}{b}", {"+": a + b, "-": a - b, "*": a * b}[sign]


def shown(code, rng):
    """An expression as people write it: "12*7", "12 * 7", "12 x 7" or "12 times 7"."""
    spaced = "".join(f" {c} " if c in "+-*/" else c for c in code)
    words = {"+": "plus", "-": "minus", "*": rng.choice(["times", "x"]), "/": "divided by"}
    said = " ".join(words.get(piece, piece) for piece in spaced.split())
    return rng.choice([code, code, spaced, said])


def others_near(value, n, rng, lowest=1):
    """n other numbers that a slip could give, none below `lowest`."""
    near = {value + step for step in (-3, -2, -1, 1, 2, 3, 4)}
    if value > 12:
        near |= {value + step for step in (-20, -10, 10, 20)}
    return rng.sample(sorted(x for x in near if x >= lowest), n)


def similar_words(word, words, n, rng):
    """n other words, half of the time with the same first letter as far as there are any."""
    if rng.random() < 0.5:
        return [other for other in rng.sample(words, n + 1) if other != word][:n]
    same = [other for other in rng.sample(words, min(200, len(words)))
            if other[0] == word[0] and other != word]
    others = [other for other in rng.sample(words, 2 * n + 2)
              if other != word and other not in same]
    return (same + others)[:n]


@functools.cache
def names_by_module():
    """{module: (its public functions, all names that its file binds at the top level)}"""
    found = {}
    for module in MODULES:
        paths = [f"{module}.py", f"{module}/__init__.py"]
        parsed = next(filter(None, (read_source(stdlib_folder(), path) for path in paths)), None)
        if parsed is None:
            continue
        functions = []
        names = set()
        for node in ast.walk(parsed[1]):
            if isinstance(node, ast.ImportFrom):
                names.update(alias.asname or alias.name for alias in node.names)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
        for node in parsed[1].body:
            if isinstance(node, ast.FunctionDef) and is_known(node):
                functions.append(node.name)
        found[module] = (functions, names)
    return found


def is_known(function):
    """Whether a function is public and has a docstring, so that the corpus tells of it."""
    return not function.name.startswith("_") and ast.get_docstring(function) is not None


@functools.cache
def functions():
    """{module: [public functions]} of the well-known modules that define any."""
    return {module: own for module, (own, _) in names_by_module().items() if own}


def names_in(module):
    """All names in a module that could be mistaken for one of its functions."""
    return names_by_module().get(module, ((), ()))[1]


# --------------------------------------------------------------------------------------------------
# Questions

@functools.cache
def wordings(kind, split):
    """The wordings of a kind of question that the hash gives to this split."""
    grammar = re.sub("<([a-z]+)>", lambda match: SHARED[match[1]], ASK[kind])
    sentences = [sentence for line in alternatives(grammar) for sentence in spell_out(line)]
    return [sentence for sentence in dict.fromkeys(sentences)
            if split_of(f"{kind}\n{sentence}") == split and may_train("choices", sentence)]


class Choices(Lazy):
    """Questions with two to five options, of all kinds in turn at random.

    size: any number of conversations. None stands for 10,000 in train and 500 in the other splits.
    """

    def __init__(self, split, size=None):
        check_split(split)
        if size is None:
            size = 10_000 if split == "train" else 500
        self.split = split
        self.size = size
        self.kinds = [kind for kind in KINDS if wordings(kind, split)]

    def __len__(self):
        return self.size

    def get(self, i):
        rng = generator("Choices", self.split, i)
        kind = rng.choice(self.kinds)
        # Walk through all numbers of options and then through all places of the right one.
        n = OPTIONS[i % len(OPTIONS)]
        place = i // len(OPTIONS) % n
        slots, right, wrong = KINDS[kind](rng, n, words_of(self.split))
        options = [str(option) for option in wrong]
        rng.shuffle(options)
        options.insert(place, str(right))

        # A word that stands first stays as it is.
        question = capital(rng.choice(wordings(kind, self.split))).format(**slots)
        if rng.random() < 0.1:
            question = sloppy(question, rng)
        letters = LETTERS[:n]
        conversation = multiple_choice_record(question, letters, options, letters[place], kind)
        if rng.random() < 0.5:
            conversation["messages"][0]["content"] = informal(question, letters, options, rng)
        code = python_for(kind, slots, options, letters)
        if code:
            conversation["messages"][1]["content"] = with_python(code, letters[place])
        return conversation

    def grade(self, conversation, answer):
        """Whether the answer says the right letter and nothing else."""
        return grade_letter(conversation, answer)

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The rejected answer says another letter than Python has found or without asking it, asks
        with two options mixed up, says the right letter with talk around it, is evasive, or never
        stops.
        """
        chosen = self[i]
        letters = chosen["letters"]
        content = chosen["messages"][1]["content"]
        letter = spoken_text(content)
        rng = generator("Choices pair", self.split, i)
        kind = rng.choice(["other letter", "guess", "mixed up", "talk", "run-on", "evasive"])
        wrong = rng.choice([other for other in letters if other != letter])
        if isinstance(content, str):
            code = ""
            if kind == "mixed up":
                kind = "guess"
        else:
            code = content[0]["text"]

        said = letter
        if kind in ("other letter", "guess"):
            said = wrong
        elif kind == "talk":
            said = rng.choice(["The answer is {}.", "I think it is {}.", "{} is right.",
                               "{}, since the others are wrong."]).format(letter)
        elif kind == "run-on":
            said = run_on(letter)
        elif kind == "evasive":
            said = rng.choice(["It depends.", "All of them.", "None of these.", "I am not sure.",
                               "That is hard to say.", "Let me think about it."])
        if not code or kind in ("guess", "evasive"):
            return preference(chosen, said, kind)
        if kind == "mixed up":
            swap = {f"'{letter}')": f"'{wrong}')", f"'{wrong}')": f"'{letter}')"}
            code = re.sub("'[A-E]'\\)", lambda match: swap.get(match[0], match[0]), code)
            return preference(chosen, with_python(code, wrong), kind)
        answer = with_python(code, letter)
        answer[-1]["text"] = said
        return preference(chosen, answer, kind)


def with_python(code, letter):
    """The parts of an answer whose letter Python has found."""
    return [{"type": "python", "text": code}, {"type": "python_output", "text": letter},
            {"type": "text", "text": letter}]


def informal(question, letters, options, rng):
    """The question with its options as people write them: each letter before its option."""
    mark = rng.choice(["{}) {}", "{}) {}", "{}. {}", "({}) {}", "{}: {}", "{} {}"])
    joint = rng.choice(["\n", "\n", "\n", ", ", "; ", " "])
    listed = joint.join(mark.format(*pair) for pair in zip(letters, options))
    start = "\n" if joint == "\n" else rng.choice([" ", "\n"])
    end = rng.choice(["", "", "", "\nAnswer with the letter.", "\nWhich letter is right?",
                      "\nA letter:"])
    return f"{question}{start}{listed}{end}"
