"""
What else one asks about the letters of a word: how many, which one, backwards, vowels, a pair.

The answer spells the word first, so that each letter is a token of its own, and leaves the rest to
Python where Python can do it: `orange:o,r,a,n,g,e`, then `'orange'[2]` for the third letter.
"""
from data.demo.grammar import capital, draw
from data.demo.other_wordings import may_train
from data.demo.records import preference, record, run_on_parts
from data.demo.spelling import EVASIVE, LETTERS, QUOTES, WordQuestions, spelled, word_for
from data.demo.splits import generator
from data.grading import same_final_number, spoken_text

# A line is a grammar: see data/demo/grammar.py. {w} is the word, bare or quoted.
ASK = {
    "length": """
how many letters [does/do/did/would] [/the word] {w} [have/has/contain/need/use]?
how many letters [are/are there/do you see/can you count/do you count] in [/the word] {w}?
how many letters in [/the word] {w}[/?/ please/ pls] | letters in {w} | {w} has how many letters?
how long is [/the word] {w}[/?/ in letters/, in letters/ counted in letters]
[what is/what's/tell me/give me/find/I need] the [length/letter count/number of letters/
    number of characters/size] of [/the word] {w}[/./?]
length of [/the word] {w} | {w} length[/?] | {w}: [how many letters/length/number of letters]?
[count/please count/can you count/could you count/let's count] [the/all/all the/
    its] [letters/characters] [of/in] [/the word] {w}[/.]
how many [characters/chars/signs/single letters/letters altogether/letters in total] [has/are in/
    make up/does one type for/do I type for] [/the word] {w}?
[I have/here is/take/look at/consider/given] [/the word] {w}. how [many letters/
    many letters is that/many letters are there/long is it/many letters does it have]?
[in/for/with] [/the word] {w}, how many letters [are there/do I count/do we have]?
[my son/my teacher/a friend/the quiz/somebody] [says/asks/wants to know/wonders] how [long {w} is/
    many letters {w} has/many letters are in {w}]
[how many boxes/how many squares/how many fields] do I need [in a crossword/in the puzzle/
    in scrabble] for {w}?
of how many letters [is/does] [/the word] {w} [made/consist]? | number of letters in {w}
[does/do] {w} have many letters? how many? | the number of letters of {w}, please
{w} [how long/how many letters/letter count/how many chars/number of characters/letters?]
how many letters [long/big] is [/the word] {w}? | how many letter in {w} | {w}, letters?
[how many keys/how many letters/how many key presses] do I [type/press/hit/write] [for/to write/
    to get] {w}?
[if/when] [I/you/we] [write/spell/type/print] {w}, how many letters [is that/are there/do I need/
    does it take]?
[letter count/count letters/word length/number of letters/how long]: {w}[/?]
[is {w} a long word/is {w} long/is {w} short]? how many letters [has it/does it have/are there]?
[my word is/the word is/next word:/today's word is] {w}. [how many letters/how long is it/
    its length/
    count its letters/letters in all]?
[for a sign/for a crossword/for my game/for a label] I [need/want/must know] [the length of/
    how many letters are in/the number of letters in] {w}
I [count/counted/try to count] the letters [of/in] {w}. [how many/what do you get/
    how many are there]?
[say/tell me/find out/check] how [many letters {w} has/long {w} is/many letters are in {w}/
    many characters {w} has][/ please]
{w} has ___ letters | there are ___ letters in {w} | {w} = how many letters
[every/each/all] letter of {w} counted[, how many/, total/: how many is it]?
""",
    "backwards": """
[spell/write/say/type/read/print/show/put] [/the word/me] {w} [backwards/backward/in reverse/
    the other way around/from the end/from back to front/from right to left/reversed/
    in reverse order][/ please/.]
[can you/could you/please/would you] [spell/write/say/reverse] {w} [backwards/backward/in reverse/
    from the end][/ please/?]
[reverse/flip/turn around/mirror/invert] [/the word/this word:/the letters of/
    the order of the letters of] {w}[/ please/.]
what [is/comes out for/do I get for/would be/becomes of] [/the word] {w} [backwards/in reverse/
    reversed/spelled backwards/read backwards/written backwards/when I reverse it/
    when read from the end/if you turn it around]?
{w} [backwards/in reverse/reversed/backward/the other way around][/?/ please/ pls]
how [do you/does one/would you/do I] [spell/write/read/say] {w} [backwards/in reverse/from the end]?
how [does/would] {w} [look/read/sound/be spelled] [backwards/in reverse/from right to left/
    from the last letter to the first]?
backwards: {w} | reverse: {w} | in reverse: {w} | {w}[::-1] | [now/and] backwards: {w}
[what are/give me/list/tell me/I want/I'd like] the letters of {w} [in reverse order/backwards/
    from the last to the first/from the end to the start/in reversed order]
[start/begin] [at/with] the [end/last letter] and [spell/write] {w}
[the word is/take/look at/I have] {w}. [spell it backwards/write it in reverse/reverse it/
    what is it backwards/how does it read backwards/now backwards please].
{w} [from behind/back to front/written from the end/mirrored/reverse/in backwards order/
    backwards pls/
    but backwards/turned around/flipped][/?/ please]
[what/how] is {w} [backwards/in reverse/the other way round/read from the end/turned around]?
[write/give me/say/type/show/print] the [reverse/reversed word/mirror word/backward spelling] of {w}
[the reverse/reverse/reversal/backwards spelling/mirror image] of [/the word] {w}[/?/ please]
[my word is/next word:/the word is/here is] {w}. [reverse/backwards/now backwards/read it backwards/
    from the end please/turn it around]
if I [read/write/spell/say] {w} [from the end/backwards/from right to left], [what comes out/
    what do I get/what is it/what do I read]?
[read/spell/write/say] {w} from [the last letter to the first/right to left/the end/back to front][/
    , please/.]
[for a game/for a secret code/for fun/for a riddle] I [need/want/write] {w} backwards[/. how is it/
    . what is it/ please]
[last letter first/starting with the last letter/from the end], [spell/write/what is] {w}[/?]
[swap/change/turn] the order of the letters [in/of] {w}[/ please/: what is it/, from last to first]
{w} backwards is ___ | {w} -> backwards | backwards -> {w} | reversed {w} | reverse {w}
""",
    "position": """
[what is/what's/which is/tell me/give me/name/find/I need/say] the {n} letter [of/in] [/the word/
    this word:] {w}[/?/./ please]
which letter [is the {n}/comes {n}/is {n}/stands {n}] in [/the word] {w}?
the {n} letter [of/in] {w}[/ is/?/ please/ is which] | {n} letter of {w} | {w}, {n} letter?
{w}: [the {n} letter/{n} letter/which letter is {n}][/?/ please]
[in/of/for] [/the word] {w}[,/] [what is/which is/what's/tell me] the {n} letter?
what [letter/character] [comes {n}/is {n}/is the {n} one] in {w}?
[the word is/take/look at/I wrote/here is] {w}. [what is its {n} letter/which letter is the {n}/
    tell me the {n} letter/the {n} letter is]?
[my son/my kid/my teacher/a friend/the quiz] [asks/wants to know/needs] the {n} letter of {w}
[do you know/can you tell me/could you find/I want to know] the {n} letter [of/in] {w}[/?]
{n} [character/char] [of/in/from] [/the string/the word/the text] {w}
{w} [{n} letter/the {n} letter/{n} one/{n} letter which][/?/ please]
[the {n} one/number {n}] of the letters [in/of] {w}[/?/ is which/, please]
[counting/when I count/if you count] from the [start/beginning/left], [which/
    what] letter is {n} in {w}?
[my word is/next word:/today's word is/our word is] {w}. [its {n} letter/the {n} letter please/
    which one is {n}/what letter comes {n}]?
[if/when] [I/you/we] [spell/write/read] {w}, [which/what] letter [comes {n}/is {n}/is the {n} one]?
in {w} the {n} letter is ___ | the {n} letter of {w} is ___ | {n} letter: {w} | {n} in {w}
[for a crossword/for a puzzle/for a game/for a code] I [need/want/must know] the {n} letter of {w}
[look up/check/pick/take/read out/point at] the {n} letter [of/in/from] {w}[/ please]
[I need/please/give me/just] the {n} letter, [the word is/word:/of] {w}
""",
    "place": """
which letter is [at/in/on] [place/position/number/spot] {k} [in/of] [/the word] {w}?
letter [number/no./nr./#] {k} [of/in] [/the word] {w}[/?/ please] | letter {k} of {w}
{w}, letter [number/no./] {k}? | {w}, position {k} | [position/place/letter] {k} in {w}
what [is/stands/comes] [at/in/on] [place/position] {k} [in/of] {w}?
[tell me/give me/name/find] letter [number/] {k} of [/the word] {w}
{w}, [what/which letter] is [at/on] [place/position/spot/number] {k}?
[position/place/spot/letter/number] {k} [of/in] [/the word] {w}[/?/ is which letter/ please]
[if/when] I number the letters of {w}, [which/what] [one/letter] is [number/no.] {k}?
[the word is/my word is/take/next word:] {w}. [letter number {k}/which letter has number {k}/
    letter {k}/
    place {k}]?
[what/which] letter of {w} [has/gets] [the number/place/position/number] {k}?
letter {k} of {w} is ___ | {w}: letter {k} | {w} [{k}. letter/letter no {k}/place {k}]
[count to {k} in/go to place {k} in/look at place {k} in] {w}. [which letter/what letter is it]?
""",
    "ends": """
[which/what] letter does [/the word] {w} {start}? | {w} {starts} [which/what] letter?
[what/which letter] does {w} {start}? | {w} {starts}[ what/...] | {starts} which letter: {w}
[with/in] [which/what] letter does [/the word] {w} {verb}?
[tell me/say/I want to know/do you know/can you tell me] [which/what] letter {w} {starts}
{w} {starts} ___ | the word {w} {starts} [which/what] letter? | {w} {starts} which one?
[if/when] [I/you] write {w}, [which/what] letter does it {start}?
[my word is/the word is/take/next word:] {w}. [what letter/which letter] does it {start}?
[name/give me/find/I need] the letter that {w} {starts}[/ please]
[my child/my teacher/a friend/the quiz] [asks/wants to know/wonders] [which/
    what] letter {w} {starts}
""",
    "vowels": """
how many {v} [are/are there/do you see/can you find/do you count] in [/the word] {w}?
how many {v} [does/has/are there in/in] [/the word] {w}[/ have/ contain]?
[count/please count/can you count/find/number of/tell me the number of/give me the number of/
    what is the number of] [the/all/all the/] {v} [in/of] [/the word] {w}[/.]
{v} in [/the word] {w}[/?/: how many?/, how many] | {w}: [how many {v}/count the {v}/{v}/
    number of {v}]?
[in/for/take/look at] [/the word] {w}[, how many {v} are there/. how many {v}/. count the {v}/
    , how many {v}]?
{w} has how many {v}? | how many of the letters in {w} are {v}?
{w} [how many {v}/{v} how many/number of {v}/count of {v}/{v}?/{v} count]
how many [of the letters of/of the letters in/letters of/letters in] {w} are {v}?
[my word is/next word:/the word is/today's word is] {w}. [how many {v}/count the {v}/number of {v}/
    how many {v} does it have]?
[if/when] [I/you/we] [spell/write/read] {w}, how many {v} [are there/come up/do you see/do I use]?
[{v} of/all {v} of/all the {v} in/{v} inside] [/the word] {w}[, how many/: number/, count/, total]?
[say/tell me/find out/check/see] how many {v} [{w} has/are in {w}/there are in {w}/you see in {w}]
{w} has ___ {v} | there are ___ {v} in {w} | {v}: {w} | count {v}: {w} | {v} {w} how many
[my child/my teacher/a friend/the quiz] [asks/wants to know/wonders] how many {v} {w} has
[go through/spell/read/check] {w} and count the {v}[/ please]
""",
    "group": """
how [many times/often] [does/is/do you see/can you find] {g} [in/occur in/appear in/come up in/
    found in] [/the word] {w}?
how many {g} [are/are there/do you see] in [/the word] {w}? | how many times {g} in {w}
[count/please count/find/number of/count the number of times] {g} in [/the word] {w}
[the pair/the letters/the letter pair/the group/the part] {g} [shows up/occurs/comes up/
    appears] how [often/many times] in {w}?
{w}.count({g}) | {g} in {w}, how [often/many times]? | [in/for] {w}, how often do we see {g}?
how often [do/does] the letters {g} [stand together/follow each other/come] in {w}?
{w} [how often {g}/how many {g}/{g} how many times/count {g}][/?/ please]
[the word is/my word is/next word:/take] {w}. [how often is {g} in it/how many {g}/count {g}/
    how many times {g}]?
[tell me/say/find out/check] how [many times {g} is/often {g} comes/many {g} are/
    often {g} stands] in {w}
[occurrences of/how many occurrences of/number of times] {g} in [/the word] {w}[/?]
{g} is ___ times in {w} | {g} [times/how often/count] in {w} | {w}: {g} how often?
is {g} in {w}, and how [often/many times]? | [if/when] I write {w}, how often do I write {g}?
""",
    "two letters": """
how many {l} and {m} [are/are there/do you see] in [/the word] {w}[/ together/ altogether/
    , in total/ all in all]?
how many {l} or {m} [are/are there/does one find] in [/the word] {w}?
[count/please count/number of/tell me the number of] [the/all/both/] {l} and {m} in [/the word] {w}
{l} and {m} in {w}[/ together/ altogether][/?/, how many?] | {w}: how many {l} and {m} together?
[how many/count the] letters of {w} [that are/are/which are] {l} or {m}[/?]
{w} [how many {l} and {m}/{l} and {m} how many/count {l} and {m}/number of {l} and {m}][/?/
    , together]
[the word is/my word is/next word:/take] {w}. [how many {l} and {m} together/count {l} and {m}/
    how many are {l} or {m}]?
[tell me/say/find out/check] how many [{l} and {m} are/{l} or {m} there are/
    letters {l} and {m} are] in {w}[/ together]
[sum/total/number] of {l} and {m} in [/the word] {w}[/?] | {l} plus {m} in {w}[/, how many]?
[if/when] I write {w}, how many {l} and {m} do I [write/need/use] [in all/together]?
there are ___ letters in {w} that are {l} or {m} | {l} and {m} together in {w}: ___
""",
}
KINDS = list(ASK)
VOWELS = "aeiou"
ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
            "tenth", "eleventh", "twelfth"]
FROM_THE_END = {-1: ["last", "last", "final", "very last"],
                -2: ["second to last", "last but one", "next to last", "penultimate"]}
STARTS = {0: [("start with", "starts with", "start"), ("begin with", "begins with", "begin")],
          -1: [("end with", "ends with", "end"), ("end in", "ends in", "end"),
               ("finish with", "finishes with", "finish")]}


def ordinal(k):
    """The place k in words or digits: 0 -> first, 1st, number one is 0, -1 is the last one."""
    if k < 0:
        return FROM_THE_END[k]
    ending = "th" if k % 100 in (10, 11, 12) else {0: "st", 1: "nd", 2: "rd"}.get(k % 10, "th")
    digits = [f"{k + 1}{ending}"]
    return digits + ORDINALS[k:k + 1]


def asked(kind, split, rng, holes):
    """A question of one kind that is near no test wording of the two skills with letters."""
    while True:
        wording = draw(ASK[kind], "spelling", split, rng)
        if may_train("counting", wording):
            return wording.format(**holes)


def by_python(word, before, code, output, after):
    """The spelling, a line that ends with a calculation by Python, and what is said after it."""
    return [{"type": "text", "text": f"{spelled(word)}\n{before} "},
            {"type": "python", "text": code},
            {"type": "python_output", "text": output},
            {"type": "text", "text": f"\n{after}"}]


def by_hand(word, name, counted):
    """The spelling, and below it how many of the letters that count there were so far."""
    n = 0
    steps = []
    for c in word:
        n += c in counted
        steps.append(f" {c}:{n}")
    return f"{spelled(word)}\n{name}:{''.join(steps)}\n#### {n}"


def draw_place(kind, word, rng):
    """Which letter of the word is asked for, and the holes of the question that say so."""
    if kind == "place":
        k = rng.randrange(len(word))
        return k, {"k": k + 1}
    if kind == "ends":
        k = rng.choice([0, -1])
        return k, dict(zip(["start", "starts", "verb"], rng.choice(STARTS[k])))
    k = rng.choice([*range(min(len(word), len(ORDINALS))), -1, -1, -2])
    return k, {"n": rng.choice(ordinal(k))}


def solve(kind, word, rng):
    """A question of a kind about a word -> its holes, the answer's content, and what it comes to.

    The last is a number, or a text where letters were asked for.
    """
    if kind == "length":
        n = len(word)
        return {}, by_python(word, "By Python", f"len('{word}')", str(n), f"#### {n}"), n
    if kind == "backwards":
        text = word[::-1]
        return {}, by_python(word, "Backwards by Python", f"'{word}'[::-1]", text, text), text
    if kind in ("position", "place", "ends"):
        k, holes = draw_place(kind, word, rng)
        name = {-1: "Last letter", -2: "Last but one"}.get(k, f"Letter {k + 1}")
        return holes, by_python(word, f"{name} by Python", f"'{word}'[{k}]", word[k],
                                word[k]), word[k]
    if kind == "vowels":
        name = rng.choice(["vowels", "vowels", "consonants"])
        counted = VOWELS if name == "vowels" else set(LETTERS) - set(VOWELS)
        n = sum(c in counted for c in word)
        return {"v": name}, by_hand(word, name.capitalize(), counted), n
    if kind == "group":
        at = rng.randrange(len(word) - 1)
        group = word[at:at + rng.choice([2, 2, 2, 3])]
        holes = {"g": rng.choice(["{}", "'{}'", '"{}"']).format(group)}
        n = word.count(group)
        code = f"'{word}'.count('{group}')"
    else:
        first, second = rng.sample(sorted(set(word)), 2)
        form = rng.choice(["{}", "{}s", "{}'s", "'{}'"])
        holes = {"l": form.format(first), "m": form.format(second)}
        n = word.count(first) + word.count(second)
        code = f"'{word}'.count('{first}')+'{word}'.count('{second}')"
    return holes, by_python(word, "By Python", code, str(n), f"#### {n}"), n


class Letters(WordQuestions):
    """Questions of all kinds about the letters of a word."""

    def get(self, i):
        rng = generator("Letters", self.split, i)
        word = word_for(i, self.split, self.words, rng)
        kind = rng.choice(KINDS)
        quote = rng.choice(QUOTES)
        shown = rng.choice([word] * 16 + [word.upper()] + [capital(word)] * 2)
        holes, content, result = solve(kind, word, rng)
        question = asked(kind, self.split, rng, {"w": quote.format(shown), **holes})
        notes = {"text": result} if isinstance(result, str) else {"answer": str(result)}
        return record(question, content, word=word, kind=kind, **notes)

    def grade(self, conversation, answer):
        """Whether the answer ends in the number, or its last line is the text, that was asked."""
        if "answer" in conversation:
            return same_final_number(answer, conversation["answer"])
        return spoken_text(answer).strip().rpartition("\n")[2] == conversation["text"]

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The rejected answer only spells the word, says something wrong, evades, or never stops.
        """
        chosen = self[i]
        rng = generator("Letters pair", self.split, i)
        kind = rng.choice(["only spelled", "wrong", "wrong", "evasive", "run-on"])
        content = chosen["messages"][1]["content"]
        if kind == "only spelled":
            answer = spelled(chosen["word"])
        elif kind == "wrong" and "answer" in chosen:
            n = int(chosen["answer"])
            answer = f"#### {rng.choice([m for m in range(n - 2, n + 3) if m >= 0 and m != n])}"
        elif kind == "wrong":
            answer = rng.choice([c for c in LETTERS if c != chosen["text"]])
        elif kind == "evasive":
            answer = rng.choice(EVASIVE)
        else:
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            answer = run_on_parts(parts, rng) if len(parts) > 1 else content + content[-7:] * 9
        return preference(chosen, answer, kind)
