"""
The tool that the model may call: run_python, a calculator that also looks at letters.

What it knows: + - * / // % ** and parentheses; comparisons (7*8 == 54); round, min, max and abs; of
a text in quotes 'word'.count('w'), len('word'), 'word'[0], 'word'[-1], 'word'[::-1], 'w' in 'word'
and iskeyword('word'), which is that of Python's module keyword. The option whose value is the
largest, or whose test alone is true: max((3%2==0,'A'),(4%2==0,'B'))[1], and the same with min.

Its input was written by a model, and so in effect by anybody who talks to the model: nothing here
may do more than return a text. Nothing is executed. Python's own parser makes a syntax tree,
evaluate() walks it, and only the operations in this file exist: no variables, no loops, no
attributes except .count.

Three bounds hold time and memory: the length of the expression (and with it its depth), the size of
every number on the way, and a look at every power before it is computed.
"""
import ast
import keyword
import operator
import warnings

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
             ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
             ast.Pow: operator.pow, ast.USub: operator.neg, ast.UAdd: operator.pos}
COMPARISONS = {ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt,
               ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
               ast.In: lambda part, text: part in text,
               ast.NotIn: lambda part, text: part not in text}
FUNCTIONS = {"round": round, "min": min, "max": max, "abs": abs}
# In characters. This also bounds the nesting that ast.parse and evaluate recurse into.
MAX_CODE = 400
# Of every integer, so that no operation takes long and every result is short.
MAX_BITS = 512


def run_python(code):
    """'12/60' -> '0.2', '"strawberry".count("r")' -> '3', '1/0' -> 'error: division by zero'.

    'cat'[::-1] gives tac, without quotes, and 7*8 == 54 gives False.

    Never raises, and takes less than 1 ms.
    """
    code = code.strip()
    if len(code) > MAX_CODE:
        return f"error: more than {MAX_CODE} characters"
    try:
        with warnings.catch_warnings():
            # Python would print a warning about "\d" in a string.
            warnings.simplefilter("ignore")
            value = evaluate(ast.parse(code, mode="eval").body)
        # A text may hold half of a surrogate pair, which nothing can print: '\\ud800'[0].
        str(value).encode()
    # Lone surrogates give a UnicodeError.
    except (SyntaxError, UnicodeError, RecursionError, MemoryError):
        return "error: not a valid expression"
    except (ValueError, ArithmeticError, IndexError) as e:
        return f"error: {e}"
    return str(value) if type(value) in (str, bool) else number_text(value)


def number_text(value):
    """A number as people write it: 0.2*50 -> '10', 0.1+0.2 -> '0.3', 0*-1.5 -> '0'."""
    if type(value) is int:
        return str(value)
    # Up to 2**53 a float holds every whole number exactly. This also turns -0.0 into 0.
    if value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    # A decimal number of up to 15 digits survives in a float. More digits come from rounding errors
    # (0.1+0.2 is 0.30000000000000004) or have no end, and twelve of them are enough.
    text = f"{value:.15g}"
    return text if float(text) == value else f"{value:.12g}"


def evaluate(node):
    """The value of what the docstring above lists: a number, a text, True or False."""
    match node:
        case ast.Subscript(ast.Call(ast.Name("min" | "max" as name), [ast.Tuple(), _, *_] as pairs,
                                    []), ast.Constant(1)):
            return best(name, pairs)
        case ast.Subscript(ast.Constant(str(text)), ast.Slice(None, None, step)):
            if number(step) != -1:
                raise ValueError("of slices only [::-1] is known")
            return text[::-1]
        case ast.Subscript(ast.Constant(str())):
            return text_or_number(node)
    return test_or_value(node, number)


def best(name, pairs):
    """max((7,'A'),(9,'B'))[1] -> 'B': of the least or the greatest pair the second part."""
    values = []
    for pair in pairs:
        match pair:
            case ast.Tuple([first, ast.Constant(str(label))]):
                values.append((test_or_value(first, text_or_number), label))
            case _:
                raise ValueError("expected pairs like (7,'A')")
    try:
        return (min if name == "min" else max)(values)[1]
    except TypeError as e:
        raise ValueError("numbers and texts have no order") from e


def test_or_value(node, value):
    """Whether a comparison is true, or iskeyword() is; else value(node)."""
    match node:
        case ast.Compare(left, ops, rights) if all(type(op) in COMPARISONS for op in ops):
            values = [text_or_number(operand) for operand in (left, *rights)]
            try:
                return all(COMPARISONS[type(op)](a, b)
                           for op, a, b in zip(ops, values, values[1:]))
            except TypeError as e:
                raise ValueError("these cannot be compared") from e
        case ast.Call(ast.Name("iskeyword"), [ast.Constant(str(text))], []):
            return keyword.iskeyword(text)
    return value(node)


def text_or_number(node):
    """The value of a text in quotes, of one of its characters, or of a number."""
    match node:
        case ast.Constant(str(text)):
            return text
        case ast.Subscript(ast.Constant(str(text)), place):
            place = number(place)
            if type(place) is not int:
                raise ValueError("a place in a text is a whole number")
            return text[place]
    return number(node)


def number(node):
    """The value of a part that is a number: arithmetic, and counts in a text; else ValueError."""
    match node:
        # type() and not isinstance(), because True is an int for the latter.
        case ast.Constant(value) if type(value) in (int, float):
            return bounded(value)
        case ast.UnaryOp(op, operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](number(operand))
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            left, right = number(left), number(right)
            whole = type(left) is int and type(right) is int
            # Refuse 9**9**9 before Python starts to compute it.
            if type(op) is ast.Pow and whole and (left.bit_length() - 1) * right > MAX_BITS:
                raise ValueError("number too large")
            # A float would round a large quotient even where nothing remains.
            if type(op) is ast.Div and whole and right and left % right == 0:
                return left // right
            return bounded(OPERATORS[type(op)](left, right))
        case ast.Call(ast.Attribute(ast.Constant(str(text)), "count"), [ast.Constant(str(part))],
                      []):
            return text.count(part)
        case ast.Call(ast.Name("len"), [ast.Constant(str(text))], []):
            return len(text)
        case ast.Call(ast.Name(name), arguments, []) if name in FUNCTIONS and arguments:
            return call(name, [number(argument) for argument in arguments])
    raise ValueError("only arithmetic on numbers, and counts and places in a text in quotes")


def call(name, values):
    """round, min, max or abs of numbers; ValueError if the function does not take these."""
    try:
        # The largest of one number is that number.
        return bounded(FUNCTIONS[name](values) if name in ("min", "max")
                       else FUNCTIONS[name](*values))
    except TypeError as e:
        raise ValueError(f"{name}() takes other arguments") from e


def bounded(value):
    """The value itself if it is a real number of bounded size; else ValueError."""
    # (-8)**0.5 is complex, and inf-inf is NaN, which does not equal itself.
    if type(value) not in (int, float) or value != value:
        raise ValueError("not a real number")
    if type(value) is int:
        too_large = value.bit_length() > MAX_BITS
    else:
        too_large = abs(value) == float("inf")
    if too_large:
        raise ValueError("number too large")
    return value
