"""
Arithmetic with the tool: the model writes the expression, Python computes it.

`What is 37*48?` is answered with `37*48 = `, a python part and its output, then `#### 1776`, as in
GSM8K. The model need not calculate: it has to read the question, write the expression and copy the
result. An expression has one step (+ - * /) on numbers of up to four digits, or two steps. The
expression decides the split, and 3+4 counts as 4+3. A quotient has at most three decimals.
"""
from data.demo.records import preference, record, run_on_parts
from data.demo.splits import check_split, generator, split_of
from data.grading import same_final_number
from data.lazy import Lazy

# {e} stands for the expression, in symbols or in words.
ASK = [
    "What is {e}?", "What is {e}", "What's {e}?", "what's {e}", "what is {e}?", "How much is {e}?",
    "how much is {e}", "Compute {e}", "Compute {e}.", "Calculate {e}", "Calculate {e}.",
    "Please calculate {e}.", "Please compute {e}.", "Can you compute {e}?",
    "Can you calculate {e} for me?", "Could you work out {e}?", "Work out {e}.", "Evaluate {e}",
    "Evaluate {e}.", "Solve {e}", "{e}", "{e} = ?", "{e}=", "{e}?", "Tell me what {e} is.",
    "Tell me {e}.", "What does {e} equal?", "What do you get for {e}?",
    "What is the result of {e}?", "What is the value of {e}?", "Find {e}.",
    "Find the value of {e}.", "Give me the result of {e}.", "I need to know {e}.",
    "Do you know what {e} is?", "Quick question: what is {e}?", "Use Python to compute {e}.",
    "Help me with {e}.", "How much does {e} make?", "Do the math: {e}", "Was ist {e}?",
    "Berechne {e}.", "Wie viel ist {e}?", "Combien font {e} ?", "Calcule {e}.", "¿Cuánto es {e}?",
]
# One step in words, to be asked for by one of the above.
WORDS = {
    "+": ["{a} plus {b}", "{a} added to {b}", "the sum of {a} and {b}"],
    "-": ["{a} minus {b}", "{a} take away {b}", "the difference of {a} and {b}"],
    "*": ["{a} times {b}", "{a} multiplied by {b}", "the product of {a} and {b}", "{a} x {b}"],
    "/": ["{a} divided by {b}", "{a} over {b}", "the quotient of {a} and {b}"],
}
# Whole sentences that ask for one step.
COMMANDS = {
    "+": ["Add {a} and {b}.", "Add {b} to {a}.", "What do you get if you add {a} and {b}?"],
    "-": ["Subtract {b} from {a}.", "What is left if you take {b} from {a}?"],
    "*": ["Multiply {a} by {b}.", "Multiply {a} and {b}.",
          "What do you get if you multiply {a} by {b}?"],
    "/": ["Divide {a} by {b}.", "What do you get if you divide {a} by {b}?"],
}
# Expressions of two steps, and whole sentences that ask for them.
TWO_STEPS = {
    "({a}+{b})*{c}": ["Add {a} and {b}, then multiply by {c}.",
                      "What is the sum of {a} and {b}, times {c}?"],
    "({a}-{b})*{c}": ["Subtract {b} from {a}, then multiply by {c}."],
    "{a}*{b}+{c}": ["Multiply {a} by {b}, then add {c}.", "What is {a} times {b} plus {c}?"],
    "{a}*{b}-{c}": ["Multiply {a} by {b}, then subtract {c}.", "What is {a} times {b} minus {c}?"],
    "{a}+{b}+{c}": ["Add {a}, {b} and {c}.", "What is the sum of {a}, {b} and {c}?",
                    "What is {a} plus {b} plus {c}?"],
    "{a}+{b}-{c}": ["Add {a} and {b}, then subtract {c}.", "What is {a} plus {b} minus {c}?"],
    "{a}-{b}-{c}": ["What is {a} minus {b} minus {c}?", "Subtract {b} and then {c} from {a}."],
}
# Answers without a number, to be rejected.
EVASIVE = [
    "I am not good at math.", "That is a large number.", "You should use a calculator.",
    "It depends.", "I would rather not say.", "Numbers are hard to work with.",
    "I think you know the answer.", "Let me think about it.", "That is an interesting question.",
]


def number(rng, digits=(15, 35, 30, 20)):
    """A whole number above 0. digits: the weight of one-digit numbers, of two-digit numbers, ..."""
    n = rng.choices(range(1, len(digits) + 1), digits)[0]
    return rng.randrange(10 ** (n - 1), 10 ** n)


def expression(rng):
    """Draw (template, numbers): ("{a}*{b}", {"a": 37, "b": 48})."""
    kind = rng.choices(["+", "-", "*", "/", "two steps"], [26, 24, 24, 12, 14])[0]
    if kind == "two steps":
        template = rng.choice(list(TWO_STEPS))
        digits = (40, 60) if "*" in template else (20, 45, 35)
        return template, {name: number(rng, digits) for name in "abc"}

    template = "{a}" + kind + "{b}"
    if kind != "/":
        return template, {"a": number(rng), "b": number(rng)}
    # Three quotients in four are whole numbers.
    if rng.random() < 0.75:
        b = max(2, number(rng, (50, 50)))
        a = b * rng.randrange(1, 9999 // b + 1)
    else:
        b = rng.choice([2, 4, 5, 8, 10])
        a = b * rng.randrange(1, 9999 // b) + rng.randrange(1, b)
    return template, {"a": a, "b": b}


def item_of(template, numbers):
    """The text that decides the split; it is the same for a+b and b+a."""
    if template in ("{a}+{b}", "{a}*{b}", "{a}+{b}+{c}"):
        numbers = dict(zip(numbers, sorted(numbers.values())))
    return template.format(**numbers)


def result(template, numbers):
    """What the tool prints for the expression: 37*48 -> "1776", 84/7 -> "12".

    A float has up to 12 significant digits and no needless .0, as run_python in talk/tool.py
    writes it.
    """
    # eval() sees nothing but a template from above and whole numbers.
    value = eval(template.format(**numbers))
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def question(template, numbers, rng):
    """Ask for the expression: as a command, in words, or in symbols with or without spaces."""
    two_steps = template in TWO_STEPS
    # In a template of one step the sign follows "{a}".
    sign = template[3]
    form = rng.random()
    if form < 0.2:
        commands = TWO_STEPS[template] if two_steps else COMMANDS[sign]
        return rng.choice(commands).format(**numbers)

    if form < 0.5 and not two_steps:
        ask = rng.choice(ASK)
        return ask.format(e=rng.choice(WORDS[sign]).format(**numbers))

    symbols = template.format(**numbers)
    if rng.random() < 0.6:
        symbols = "".join(f" {c} " if c in "+-*/" else c for c in symbols)
    return rng.choice(ASK).format(e=symbols)


def solution(code, output):
    """The answer as parts, in the manner of GSM8K."""
    return [{"type": "text", "text": f"{code} = "},
            {"type": "python", "text": code},
            {"type": "python_output", "text": output},
            {"type": "text", "text": f"\n#### {output}"}]


class Arithmetic(Lazy):
    """Each index draws an expression of its own.

    size: any number of conversations. None stands for 10,000 in train and 500 in the other splits.
    """

    def __init__(self, split, size=None):
        check_split(split)
        if size is None:
            size = 10_000 if split == "train" else 500
        self.split = split
        self.size = size

    def __len__(self):
        return self.size

    def draw(self, i):
        """The i-th expression of the split, and the generator for what else item i needs.

        Returns (template, numbers, generator). Draws until the hash says that the expression
        belongs to the split.
        """
        rng = generator("Arithmetic", self.split, i)
        while True:
            template, numbers = expression(rng)
            if split_of(item_of(template, numbers)) == self.split:
                return template, numbers, rng

    def get(self, i):
        template, numbers, rng = self.draw(i)
        code = template.format(**numbers)
        output = result(template, numbers)
        return record(question(template, numbers, rng), solution(code, output),
                      expression=code, answer=output)

    def grade(self, conversation, answer):
        """Whether the number after the last #### is the result."""
        return same_final_number(answer, conversation["answer"])

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The kind says what is wrong with the rejected answer:
        in the head  does without the tool and states a wrong number, one digit off
        misread      computes another expression, with one digit changed
        miscopied    computes the right expression but states another number
        no tool      states the right number, but does without the tool
        run-on       is right, but never stops
        evasive      states no number at all
        """
        chosen = self[i]
        code, answer = chosen["expression"], chosen["answer"]
        right = chosen["messages"][1]["content"]

        rng = generator("Arithmetic pair", self.split, i)
        kind = rng.choice(
            ["in the head", "in the head", "misread", "miscopied", "no tool", "run-on", "evasive"])
        if kind == "in the head":
            wrong = one_digit_off(answer, rng)
            content = rng.choice([f"{code} = {wrong}\n#### {wrong}", f"#### {wrong}"])
        elif kind == "misread":
            content = self.misread(i, answer, rng)
        elif kind == "miscopied":
            last = {"type": "text", "text": f"\n#### {one_digit_off(answer, rng)}"}
            content = right[:-1] + [last]
        elif kind == "no tool":
            content = f"{code} = {answer}\n#### {answer}"
        elif kind == "run-on":
            content = run_on_parts(right, rng)
        else:
            content = rng.choice(EVASIVE)
        return preference(chosen, content, kind)

    def misread(self, i, answer, rng):
        """The solution of expression i with one digit changed, and so with another result."""
        template, numbers, _ = self.draw(i % self.size)
        while True:
            changed = dict(numbers)
            name = rng.choice(list(changed))
            changed[name] = int(one_digit_off(str(changed[name]), rng))
            if result(template, changed) != answer:
                return solution(template.format(**changed), result(template, changed))


def one_digit_off(text, rng):
    """Change one digit: "1776" -> "1716". A leading digit never becomes 0."""
    at = rng.choice([k for k, c in enumerate(text) if c.isdigit()])
    leads = at == 0 or not text[at - 1].isdigit()
    digits = "123456789" if leads else "0123456789"
    other = rng.choice([d for d in digits if d != text[at]])
    return text[:at] + other + text[at + 1:]
