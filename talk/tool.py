"""
The tool that the model may call: run_python, a calculator that also counts letters.

Its input was written by a model, and so in effect by anybody who talks to the model: nothing here
may do more than return a text. Nothing is executed. Python's own parser makes a syntax tree,
evaluate() walks it, and only the operations in this file exist: no names, no loops, no attributes
except .count.

Three bounds hold time and memory: the length of the expression (and with it its depth), the size of
every number on the way, and a look at every power before it is computed.
"""
import ast
import operator
import warnings

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
             ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
             ast.Pow: operator.pow, ast.USub: operator.neg, ast.UAdd: operator.pos}
# In characters. This also bounds the nesting that ast.parse and evaluate recurse into.
MAX_CODE = 400
# Of every integer, so that no operation takes long and every result is short.
MAX_BITS = 512


def run_python(code):
    """'12/60' -> '0.2', '"strawberry".count("r")' -> '3', '1/0' -> 'error: division by zero'.

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
    # Lone surrogates give a UnicodeError.
    except (SyntaxError, UnicodeError, RecursionError, MemoryError):
        return "error: not a valid expression"
    except (ValueError, ArithmeticError) as e:
        return f"error: {e}"
    return number_text(value)


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
    """Arithmetic on int and float literals, and "text".count("part"); else ValueError."""
    match node:
        # type() and not isinstance(), because True is an int for the latter.
        case ast.Constant(value) if type(value) in (int, float):
            return bounded(value)
        case ast.UnaryOp(op, operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](evaluate(operand))
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            left, right = evaluate(left), evaluate(right)
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
    raise ValueError("only arithmetic and str.count on literals")


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
