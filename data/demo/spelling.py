"""
Spelling and counting letters: `SimpleSpelling` and `SpellingBee`.

A model that reads tokens does not see letters: it has to learn how each token is spelled. The
answers make that easy. After a comma or a space, as in ",r" and " r:2", a letter is the same token
wherever it stands. The count goes on letter by letter, so that each step looks only at one letter
and the number before it. The words come from the source files of the standard library, the same on
all machines that have the same Python; any word list can take their place.
"""
import functools
import os
import re
from collections import Counter

from data.demo.grammar import capital, draw
from data.demo.python_corpus import source_files, stdlib_folder
from data.demo.records import preference, record, run_on_parts
from data.demo.splits import check_split, generator, split_of, stable_hash
from data.grading import same_final_number, spoken_text
from data.lazy import Lazy

# A word among other words, not in the midst of code.
PROSE_WORD = re.compile(r"(?<=[a-z,] )[a-z]{3,14}(?=[.,;:]? |[.,;:]?\n)")
# A part of a name: "get" and "Decoder" of getDecoder.
NAME_PART = re.compile(r"(?<![A-Z])[A-Z][a-z]{2,13}(?![a-z])|(?<![A-Za-z])[a-z]{3,14}(?![a-z])")
# How often a word that is found in code alone must occur.
COMMON_ENOUGH = 2
# Words that people try first. The hash puts each of them into one split, like any other word.
EVERYDAY_WORDS = """
apple banana strawberry raspberry blueberry cherry orange lemon peach grape mango pineapple melon
coconut potato tomato carrot onion garlic pepper cabbage lettuce mushroom pumpkin cucumber bread
butter cheese chocolate coffee cookie sandwich pancake dinner breakfast kitchen bottle spoon knife
table chair window garden flower tree forest river mountain ocean island beach summer winter spring
autumn weather thunder rainbow cloud snow sunshine morning evening midnight yesterday tomorrow
monday cat dog horse rabbit elephant giraffe monkey tiger lion zebra kangaroo crocodile dolphin
penguin butterfly spider squirrel turtle chicken sheep goose parrot bicycle airplane train
helicopter submarine balloon rocket planet galaxy telescope doctor teacher student school library
university hospital hotel restaurant theater museum bridge castle village city street mother father
sister brother daughter family friend neighbor children people music guitar piano violin trumpet
drum football basketball tennis swimming running dancing singing painting reading happy angry hungry
sleepy beautiful wonderful difficult important possible necessary different interesting mississippi
banana committee accommodation bookkeeper onomatopoeia rhythm queue success address parallel
occurrence millennium embarrass
"""

# {w} stands for the word, bare or quoted. A line is a grammar: see data/demo/grammar.py.
SPELL = """
[/please/can you/could you/would you/will you] spell [/the word/this word:/the following word:] {w}
[/please/can you/could you] spell out [/the word/the letters of] {w}[/ for me/, letter by letter]
spell: {w} | spelling: {w} | {w}, spelling?
spell {w}[/ please/ pls/ for me/ now/ correctly/ slowly]
spelling [of/for] {w}[/ please/?/ pls] | {w} spelling[/ please/?]
{w}: [spell it/spell this/letters?]
{w}[. spell it./, spell that./, please spell it./, spell it out./
    , how is it spelled?/ - spell please]
how [do/would/should/can] [you/I/we/one/people] [spell/write/spell out] [/the word] {w}?
how [is/do they spell/does one spell] {w} [/spelled/written/spelt] [/correctly/in English/exactly]?
[what is/what's/tell me/give me/show me/I need/I'd like/find] the [right/correct/proper/
    exact] spelling of [/the word] {w}[/./?]
[what is/what's/tell me/give me/show me/I need/I'd like/I want] the spelling [of/
    for] [/the word] {w}[/./?]
[what are/which are/tell me/give me/show me/list/name/write down/type] [the/all the/
    all] letters [of/in] [/the word] {w}
[which/what] letters [make up/are in/form/does one need for/do I need for/spell] [/the word] {w}?
[write/type/print/say/show/put] [/the word/me the word] {w} [letter by letter/one letter at a time/
    with commas/split into letters/as single letters].
[break/split/divide/cut/take/separate] [/the word] {w} [into letters/into its letters/
    apart into letters/letter by letter/into single letters/up into letters].
[go through/walk through/read out/dictate/recite] [the letters of/the spelling of/
    all letters of] {w}[/ for me/ in order/ slowly].
{w} [letter by letter/in letters/one letter at a time/as letters], please
letters of {w}[/?/ please/ in order]
[do you know/can you tell me/could you tell me/would you tell me/I wonder/I want to know/I forgot/
    remind me/I'd like to know] how to [spell/write] [/the word] {w}
[do you know/can you tell me/could you tell me/I wonder/I want to know/I never know/tell me/
    explain] how [/the word] {w} is [spelled/written/spelt]
[I have to/I must/I need to/I want to/I'd like to/I'm trying to/help me/let me] [write/spell/
    type] [/the word] {w}. [how is it spelled?/how does it go?/what are the letters?/
    spell it for me./which letters?/how?/please spell it.]
[my son/my daughter/my friend/my mother/a kid/my little sister/a student/my boss/our teacher/
    my grandpa] [asks how to spell/wants to know how to spell/can't spell/wants to write/
    needs the spelling of/asked me to spell] {w}[. can you help?/. how is it spelled?/. help./
    . what do I say?/.]
[I'm writing/I am writing/we're writing] a [letter/note/card/mail/report/text/story] and [need/
    don't know how to spell/forgot how to spell/am unsure about/want to spell] {w}[/. help me./
    . how does it go?/. letters please.]
[in the spelling test/at the spelling bee/in class/in the quiz/in our dictation] [we had/I got/
    there was/they asked for/came] the word {w}. [how is it spelled?/spell it./what is right?/
    give me the letters./spell it please.]
[your word is/the word is/here is the word/next word:/the next word is/word:/here's a word:/
    take the word/consider the word/look at the word/I give you the word] {w}[. spell it./
    . please spell it./. give me its letters./. what are its letters?/. now spell it./
    . letter by letter please.]
[spelling bee/spelling test/spelling quiz/spelling game/dictation]: {w}
[is there a trick to spell/I always misspell/I keep misspelling/I can never spell/
    I'm never sure about/I struggle with] {w}[. how is it right?/. spell it please./. show me how./
    . help./. what's the spelling?]
[how/so how] does [/the word] {w} [go/look letter by letter/break into letters/
    get spelled], letter by letter?
[spell for me/spell me/please spell for me/spell out for me] [/the word] {w}
s p e l l {w} | spell this for me -> {w} | spell it: {w} | to spell: {w} | spell "{w}"
[if I write/when I type/suppose I write] {w}, [which letters do I type/what letters do I need/
    which letters come in what order]?
[in what order/in which order] [come the letters of/are the letters in/do the letters come in/
    do I type the letters of] {w}?
[turn/change/convert/transform] [/the word] {w} into [a list of letters/letters with commas/
    its letters/separate letters].
[separate/list/enumerate/show] [the letters/each letter/every letter/
    all letters] of [/the word] {w} [with commas/by commas/one after the other/in order].
what [is/comes] [each/every] letter of {w}[, in order]?
one by one, [the/what are the/tell me the] letters of {w}
{w}, [letter for letter/letters please/all its letters/how do you spell that/spell pls/
    letter by letter pls/how to spell/how to write/spelled out]?
{w} [how to spell/how spell/spell it/how is it spelled/how do i spell it/spelled how/
    in single letters/
    letters please/spell pls/how do you write it/write it letter by letter]
how [to/i/can i/must i/shall i/could one/might one] [spell/write/type] [/the word] {w}?
how do I [spell/write/type] {w} [right/correctly/without a mistake/without mistakes/properly]?
[how would a dictionary/how does a teacher/how would you/how should a child] spell {w}?
[please/kindly/be so kind and/if you can,/quickly/now] [spell/spell out/write out/list/give] [/
    me] [/the letters of] {w}[/ please/ for me/.]
[write/type/say/give me/let me have/print] {w} [with a comma after each letter/with spaces/
    one letter after the other/with commas between the letters/as a list of letters/in pieces].
[what letters/which letters] [are/do you find/do we see/stand/come] in [/the word] {w}[/, in order/
    , one by one/, from left to right]?
[what letters/which letters] [does/do] [/the word] {w} [have/consist of/contain/use/need]?
[letters/the letters/all letters/each letter/every letter/single letters] [of/in/from] [/
    the word ] {w}[/ please/, in order/, one by one/?]
[my child/my pupil/a customer/grandma/my neighbor/the new kid/my wife/my husband/
    a tourist] [has to spell/needs to spell/wants to learn to spell/
    doesn't know how to spell] {w}[/. please help/
    . how is it done?/. which letters?/. spell it for us.]
I [can't/cannot/don't know how to/am not sure how to/never learned to] [spell/write] {w}[/. help/
    . how does it go?/. spell it please./, can you?/. which letters are in it?]
[today's word/the next word/word of the day/my favorite word/the magic word/word number three/
    the answer/our new word] is {w}[. spell it/. how do you spell it?/. its letters?/
    . letters please/
    , spell that please/. now the letters].
[we are practicing spelling/I teach spelling/we play spelling bee/I learn English/
    I am in first grade/
    it is dictation time]. [spell/how do you spell/please spell/the letters of/next is] {w}[/?]
[I got/I have/we found/she wrote/they said/I heard/I read] the word {w}[. spell it/, spell please/
    . how is it spelled?/. what are its letters?/, letter by letter please].
[say/pronounce/read/give/name] [each letter/every letter/the letters/all letters] [of/in] {w}[/
    , please/, one by one/ for me/ in order]
[spell/spelling/letters] -> {w} | {w} -> [letters/spelling/spell]
{w} = [?/which letters?/letters?]
[in letters/letter by letter/spelled out/one by one/letters only]: {w}
[can you/could you/will you/would you please] [name/list/write down/read out/give me/
    tell me] [the letters/all letters/every letter/each letter] [of/in] {w}?
[is it true you can spell/can you really spell/are you able to spell/
    do you know to spell] {w}? [go on/show me/do it/then spell it/please do].
the [correct/right/exact/full/proper] [spelling/way to spell/way to write] [of/for]? {w}
help me [spell/write/with the spelling of/with the letters of/to spell/to write] {w}[/ please/.]
[for a sign/for a card/for the invitation/for a cake/for my tattoo/for the label] I [need/want/
    must have] the letters of {w}[/, in order/. which ones?/ please]
Buchstabiere [/bitte/mir/mal] [/das Wort] {w}. | Wie [buchstabiert/schreibt] man [/das Wort] {w}?
Deletrea [/la palabra] {w}. | ¿Cómo se [escribe/deletrea] [/la palabra] {w}?
Soletre [/a palavra] {w}
Comment [s'écrit/épelle-t-on/on écrit] [/le mot] {w} ? | Épelle [/le mot] {w}
Come si scrive [/la parola] {w}?
Hoe spel je [/het woord] {w}?
""".strip()
# {l} stands for the letter, bare or quoted, and {b} for the bare letter.
COUNT = """
how many [{l}/{b}s/{b}'s/letter {l}/letters {l}/of the letter {l}/times {l}/{l} letters] [are/
    are there/do we have/exist/do you see/can you find/can I find/do you count] in [/the word/
    this word:] {w}?
how many [{l}/{b}s/{b}'s/letters {l}/times {l}] in [/the word] {w}[/?/ please/ pls/ total]
how many [{l}/{b}s/{b}'s/letters {l}/times the letter {l}] [does/did/would/has/
    could] [/the word] {w} [have/contain/has/got/include/hold]?
how many times [does/is/do I see/do I write/will I type/do you find/can one see] [/the letter/a/
    an] {l} [occur/appear/used/show up/come up/turn up/written/found] in [/the word] {w}?
how often [does/is/do I see/do I write/do you find/can one find] [/the letter/a/an] {l} [occur/
    appear/used/show up/come/turn up/written/repeated] in [/the word] {w}?
[count/please count/can you count/could you count/now count/let's count/help me count/
    I want to count/would you count] [the/all/all the/every] [{l}/{b}s/{b}'s/letter {l}/letters {l}/
    {l} letters] in [/the word] {w}
[count/please count/can you count/check/find out/see/tell me/work out/figure out/I want to know/
    do you know/can you tell me/I wonder/could you say] how [many {l}/many {b}s/many {b}'s/
    many times {l}/often {l}/often the letter {l}] [are/is/occurs/appears/there are/comes up/
    is used] in [/the word] {w}
[count/find/give me/tell me/what is/what's/calculate/get/I need/I'd like/determine] the [number/
    count/amount/total/total number/quantity/frequency] of [{l}/{b}s/{b}'s/letter {l}/
    the letter {l}/letters {l}] in [/the word] {w}
[number/count/amount/total/how much/frequency/sum/tally] of [{l}/{b}s/{b}'s/letter {l}/letters {l}/
    the letter {l}] in [/the word] {w}[/?]
[{l}/{b}s/{b}'s/letter {l}/letters {l}/all {l}] in [/the word] {w}[/?/: how many?/, how many/
    , count please/: count/ count/ - how many/: number?/ = ?]
{w}[:/,/./ -/ ->] [how many {l}/how many {b}s/how many {b}'s/count {l}/count the {l}/count the {b}s/
    number of {l}/letter {l}/{l}/how often {l}/how many times {l}/{b} count][/?/ please]
[in/for/with/inside/within/take/regarding] [/the word/the name] {w}, [how many {l} are there/
    how many {b}s are there/how many {b}'s do you see/how often does {l} occur/
    how many times do I see {l}/count the {l}/count all {b}s/what is the count of {l}/
    how many times is {l} used/how many letters are {l}]?
[look at/take/consider/think of/here is/read/I wrote/I typed/I have/given/we have] [/the word/
    this word:] {w}. [how many {l} are in it/how many {b}s does it have/how many {b}'s do you see/
    how often does it use {l}/count the {l}/count the {b}s/how many times does {l} come up/
    what's the number of {l}/tell me the number of {l}/how many letters are {l}]?
[my word is/the word is/word:/next word:/the next word is/your word is/
    here's a word:] {w}[. how many {l}/. how many {b}s does it have/. count the {l}/
    , letter {l}, how many/. letter: {l}. how often/. number of {l}/. {l} occurs how often/
    . and {l} how many times]?
[{w} has how many {l}/{w} contains how many {b}s/{w} has how many times {l}/
    {w} includes {l} how often/the word {w} has how many {b}'s/{w} uses {l} how many times]?
[letter/the letter/count letter/find letter/letter:] {l}[, word {w}/ in {w}/ inside {w}/; word: {w}/
    , {w}] [/- how many?/, how often?/: count./?/ - count them]
[word:/word =/text:] {w}[, letter:/; letter:/, letter =/. letter:/ letter:] {l}[/. count?/
    . how many?/, count]
[is there/are there/do you see/can you find/does one find] [any/an/
    a] {l} in [/the word] {w}[, and how many/? how many/? if so, how many/ - and how many times]?
[does/has] {w} [have/got/contain] [/a/an/any/the letter] {l}[, and how many/? how many/? how often/
    ? count them.]
[my son/my daughter/my friend/my teacher/a kid/my sister/my boss/somebody/the quiz/
    my homework] [asks/wants to know/asked me/wonders/says to find out] how [many {l}/many {b}s/
    many {b}'s/often {l}/many times {l}] [are/is/we have/occur/
    appear] in [/the word] {w}[/. what do I say/. help me]?
[I'm doing/I am doing/this is/it's/we play] [a puzzle/a crossword/a quiz/a word game/scrabble/
    homework] and [need/have to find/want/must know/am looking for] the [number/count] of [{l}/{b}s/
    letters {l}] in {w}.
[I bet/I think/I guess/someone says/they say/I believe] [/the word] {w} has [many/some/no/lots of/
    a few/two] [{l}/{b}s/{b}'s]. [how many are there/count them/is it so? count/how many really/
    please count/how many do you get]?
[if I write/when I write/if I spell/when you type/if someone types] {w}, how [many {l} do I need/
    many times do I write {l}/often do I hit {l}/many {b}s are typed/many {b}'s come up/
    many times comes {l}]?
[I painted/I need to paint/I'm making/we print/I carve] a sign [with/saying/
    that says] {w}. how many [{l}/{b}s/letters {l}] [do I need/are on it/is that/are there]?
[go through/walk through/read/spell/check/look through/scan] [/the word] {w} and [count the {l}/
    count each {l}/tell me how many {l} there are/count every {b}/tell me the number of {b}s/
    say how often {l} comes/count all the {b}'s].
[how many of/which number of/how many among] the letters [in/of] [/the word] {w} [are/is/equal/
    are the letter] {l}?
what [is/'s] [/the] {b} count [of/in/for] [/the word] {w}? | {b} count: {w} | count {b} {w}
{b} {w} how many
how many {b} {w} | {w} {b} count | {w} how many {b}[/s/'s] | {b} in {w} | {b}'s {w} count
[find/locate/spot/mark/pick out/collect] [every/each/all] {l} in [/the word] {w} and [count them/
    tell me how many/give the number/say how many there are].
[there are/there must be/there is/you can find/we find] how many [{l}/{b}s/
    {b}'s] in [/the word] {w}?
[one question/a small task/a task/small question/riddle]: [{l} in {w}/how many {l} has {w}/
    the number of {b}s in {w}/how often is {l} in {w}/count {l} in {w}]
[please look at/have a look at/
    let's look at] [/the word] {w}[: how many {l}/ and count {l}/ and count the {b}s/
    . number of {l}/. how often {l}]
[compute/evaluate/run] the count of [/the letter] {l} in {w} | {w}.count({l}) | count({w}, {l})
{w} [how many {l}/how many {b}s/{l} how many/how often {l}/count {b}/{b} how often/number of {b}s/
    {b}'s how many/how many times {l}][/?/ please/ pls]
[the word/in the word/word/take] {w}: [how many {l}/how many {b}s/how often {l}/count the {l}/
    number of {l}/how many times {l}][/?/ please]
[I see/I spot/I find/we see/she sees] [the letter/some] {l} in {w}. [how many/how many times/
    how often/
    how many are there/count them/what number]?
[how many of these/how many of them/how many] are [{l}/the letter {l}/{b}s/{b}'s]: {w}?
[what's/what is/tell me/give me/I need/say] [how often {l} is in/how many {l} are in/
    the {b} count of/
    how many {b}s are in/how many times {l} is in/the number of times {l} is in] {w}
[how frequent/how common] is [/the letter] {l} in [/the word] {w}[, in numbers/, as a number/?]
[occurrences/appearances/instances/repeats] of [{l}/the letter {l}/letter {l}] [in/inside/
    within] {w}[/?]
[count/find/give/tell me/show] the [occurrences/appearances/instances] of [{l}/
    the letter {l}] in {w}
how many [occurrences/instances/appearances/copies] of [{l}/the letter {l}/letter {l}] [are in/has/
    are there in/does one find in/do you see in] [/the word] {w}?
[spell/write/take apart/go over] {w} and [count {l}/count the {b}s/say how many {l}/
    tell how many {b}s/
    give me the number of {l}/count how often {l} comes]
[if/when] [you/I/we] [spell/write/look at/read] {w}, how [many {l} are there/many {b}s come/
    often is {l} there/many times do you see {l}/many times does {l} come]?
[is {l} in/does {l} occur in/do you find {l} in/does {l} come up in] {w}[? how often/
    ? how many times/
    , and how often/? count it/ and how many times]?
[my child/my pupil/grandma/my neighbor/the kids/my wife/my husband/the customer/our class] [wants/
    has/needs/tries] to [know/find/count/say] [how many {l} are in/how many {b}s are in/
    the number of {l} in/how often {l} is in] {w}[/. help/. what is it?/.]
[for a quiz/for a game/for scrabble/for a sign/for my homework/for a puzzle/
    for my class], [how many {l} are in/how many {b}s are in/count the {l} in/how often is {l} in/
    the number of {l} in] {w}[/?]
I [counted/tried to count/lost count of/am counting/need to count] [the {l}/the {b}s/all {l}/
    the letter {l}] in {w}. [how many/how many are there/what do you get/what is right/
    please check]?
[letter count/count letters/counting/letter check]: {l} in {w}[/?] | {l} / {w} | {w} / {l} how many
[tell/let] me [know/] [how many {l}/how many {b}s/how many times {l}/how often {l}] {w} [has/
    contains/
    uses/shows]
{w} [has/contains/shows/is written with/uses] [___/?/x/how many] [{b}s/{b}'s/times {l}/letters {l}]
there are ___ [{b}s/{b}'s/letters {l}] in {w} | the letter {l} is ___ times in {w}
[how much/how many] [{l}/{b}s/{b}'s] [has/have/got/there in/is in/are inside] {w}?
[word and letter/word, letter/quick count]: {w}, {l}[/. how many?/. how often?/ ?]
[find out/check/look/see/please see] [how many {l}/how often {l}/how many {b}s] [hide in/sit in/
    stand in/are inside/are hidden in/are part of] {w}[/ please]
Wie [viele {l} hat/viele {l} sind in/oft kommt {l} vor in/oft steht {l} in/
    viele {b}s sind in] [/dem Wort] {w}?
Wie [viele {l}/oft {l}] in {w}? | Zähle [/die/alle] {l} in [/dem Wort] {w}
Combien de [fois/lettres/] {l} [dans/y a-t-il dans/dans le mot] {w} ?
¿Cuántas [{l} hay/veces aparece {l}/letras {l} hay/{l} tiene] en [/la palabra] {w}?
Quante {l} [ci sono/vedi/hai] [in/nella parola] {w}?
Quantas [letras {l} tem/vezes aparece {l} em] {w}?
Hoeveel {l} zitten er in [/het woord] {w}? | Hur många {l} finns i [/ordet] {w}?
Ile liter {l} ma {w}?
""".strip()
# Bare twice as often as in either kind of quotes.
# Of words.
LETTERS = "abcdefghijklmnopqrstuvwxyz"
QUOTES = ["{}"] * 8 + ["'{}'"] * 4 + ['"{}"'] * 4 + ["`{}`", "*{}*", "“{}”", "<{}>"]
# Percent of the questions that are about a letter that the word does not have.
ABSENT_PERCENT = 13
# Percent of the items whose word is two words in one, of 15 to 20 letters.
LONG_PERCENT = 10
# Percent of the training items whose word is made up: the beginning of one and the end of another.
# The words of the list can be learned by heart; of these there are millions, so that the spelling
# of each token has to be learned.
MADE_UP_PERCENT = 40
# Answers without a number, to be rejected.
EVASIVE = [
    "I cannot count letters.", "That is hard to say.", "There are some.",
    "I would have to look at the word first.", "It depends on how you count.",
    "Please count them yourself.", "Quite a few, I think.", "I am not sure about that word.",
    "You can find that in a dictionary.", "Letters can be counted in many ways.",
]


@functools.cache
def words(path=None):
    """The words to spell, in a fixed shuffled order: some 14,000 from CPython 3.11.

    A word has 3 to 14 lower-case ASCII letters. Many words are needed, since the letters of a token
    can only be learned from words that contain it. The share of the test words that have a token
    which fewer than eight training words contain is 2 % with a vocabulary of 1,024 tokens, 9 % with
    2,048 and 26 % with 4,096.

    path: a file with one word a line, like /usr/share/dict/words. None stands for the source files
    of the standard library.
    """
    if path is None:
        path = stdlib_folder()
        found = words_in_source(path)
    else:
        with open(path, encoding="utf-8", errors="replace") as f:
            found = {line.strip() for line in f}
    found = set(filter(is_word, found))
    if len(found) < 1000:
        raise ValueError(f"{path}: only {len(found)} words of 3 to 14 letters a-z, "
                         f"at least 1,000 are needed. Name a word list with one word a line")
    return sorted(found, key=stable_hash)


def words_in_source(folder):
    """What may be a word in the source files of a folder, and the everyday words."""
    in_prose = set(EVERYDAY_WORDS.split())
    anywhere = Counter()
    for name in source_files(folder):
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as f:
            text = f.read()
        in_prose.update(PROSE_WORD.findall(text))
        anywhere.update(part.lower() for part in NAME_PART.findall(text))
    return in_prose | {word for word, count in anywhere.items() if count >= COMMON_ENOUGH}


def is_word(text):
    """Whether a text may be a word.

    What has no vowel, or repeats one letter, is an abbreviation, a hexadecimal number or a test
    string.
    """
    return re.fullmatch("[a-z]{3,14}", text) and re.search("[aeiouy]", text) and len(set(text)) > 1


@functools.cache
def words_of(split, path=None):
    """The words of one split, in the order of words()."""
    check_split(split)
    return [word for word in words(path) if split_of(word) == split]


def ask(grammar, section, split, word, letter, rng):
    """A question for a word, and for a letter where the grammar has one."""
    wording = draw(grammar, section, split, rng)
    form = rng.random()
    if form < 0.05:
        word = word.upper()
    elif form < 0.12:
        word = capital(word)
    if rng.random() < 0.2:
        letter = letter.upper()
    # In quotes both or neither, most of the time.
    quote = rng.choice(QUOTES)
    other = quote if rng.random() < 0.6 else rng.choice(QUOTES)
    return wording.format(w=quote.format(word), l=other.format(letter), b=letter)


def word_for(i, split, words, rng):
    """The word of item i: each of words in turn, two that are written as one, or one made up."""
    word = words[i % len(words)]
    percent = rng.randrange(100)
    if percent < LONG_PERCENT:
        # No word of the list is that long, so the two in one are in no other split.
        other = rng.choice(words)
        while not 15 <= len(word + other) <= 20:
            word, other = rng.choice(words), rng.choice(words)
        return word + other
    if split != "test" and percent < LONG_PERCENT + MADE_UP_PERCENT:
        return made_up(split, words, rng)
    return word


def made_up(split, words, rng):
    """A word of this split that nobody uses: "gardle" of garden and turtle."""
    while True:
        first, second = rng.choice(words), rng.choice(words)
        word = first[:rng.randrange(1, len(first))] + second[rng.randrange(1, len(second)):]
        if is_word(word) and split_of(word) == split:
            return word


class WordQuestions(Lazy):
    """Questions about the words of a split, each word in turn; a subclass says what they ask.

    size: any number of conversations; None stands for one per word.
    path: see words().
    """

    def __init__(self, split, size=None, path=None):
        self.split = split
        self.words = words_of(split, path)
        self.size = len(self.words) if size is None else size

    def __len__(self):
        return self.size


def spelled(word):
    """The spelling as the answers give it: apple -> apple:a,p,p,l,e."""
    return f"{word}:{','.join(word)}"


# --------------------------------------------------------------------------------------------------
# Spelling

class SimpleSpelling(WordQuestions):
    """`Spell the word: apple` -> `apple:a,p,p,l,e`; later rounds ask for a word in other words."""

    def get(self, i):
        rng = generator("SimpleSpelling", self.split, i)
        word = word_for(i, self.split, self.words, rng)
        question = ask(SPELL, "spelling", self.split, word, "", rng)
        return record(question, spelled(word), word=word)

    def grade(self, conversation, answer):
        """Whether the text of the answer is the exact spelling, white space around it aside."""
        return spoken_text(answer).strip() == spelled(conversation["word"])

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The rejected answer has a wrong letter, is evasive, or never stops.
        """
        chosen = self[i]
        word = chosen["word"]
        rng = generator("SimpleSpelling pair", self.split, i)
        kind = rng.choice(["misspelled", "misspelled", "evasive", "run-on"])
        if kind == "misspelled":
            answer = f"{word}:{','.join(slip(word, rng))}"
        elif kind == "evasive":
            answer = rng.choice([
                "I cannot spell that word.", "That word is spelled just as it sounds.",
                "You can look it up in a dictionary.", word, f"The word is {word}."])
        else:
            answer = ",".join([spelled(word)] + list(word) * rng.randint(4, 8))
        return preference(chosen, answer, kind)


def slip(word, rng):
    """The word with one letter dropped, doubled, swapped with the next one, or replaced."""
    while True:
        at = rng.randrange(len(word) - 1)
        a, b = word[at], word[at + 1]
        replaced = rng.choice("aeioulnrst") + b
        wrong = word[:at] + rng.choice([b, a + a + b, b + a, replaced]) + word[at + 2:]
        if wrong != word:
            return wrong


# --------------------------------------------------------------------------------------------------
# Counting letters

class SpellingBee(WordQuestions):
    """`How many r are in strawberry?`: spell, count by hand, check with Python, then `#### 3`.

    Every place of the word is equally likely to give the letter, so that double letters come up
    more often. ABSENT_PERCENT of the questions ask for a letter that the word lacks.
    """

    def get(self, i):
        rng = generator("SpellingBee", self.split, i)
        word = word_for(i, self.split, self.words, rng)
        letters = word
        if rng.randrange(100) < ABSENT_PERCENT:
            letters = [c for c in LETTERS if c not in word]
        letter = rng.choice(letters)
        question = ask(COUNT, "counting", self.split, word, letter, rng)
        return record(question, solution(word, letter), word=word, letter=letter,
                      answer=str(word.count(letter)))

    def grade(self, conversation, answer):
        """Whether the number after the last #### is the count."""
        return same_final_number(answer, conversation["answer"])

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The kind says what is wrong with the rejected answer; a half-trained model makes all of
        these mistakes:
        miscount    the count by hand slips at one letter, and Python does not check it
        misspelled  the word loses or gains a letter that counts: Python agrees on a wrong number
        guess       is a wrong number and nothing else
        no tool     is right, but not checked with Python
        run-on      is right, but never stops
        evasive     states no number at all
        """
        chosen = self[i]
        word, letter = chosen["word"], chosen["letter"]
        n = word.count(letter)

        rng = generator("SpellingBee pair", self.split, i)
        kind = rng.choice(
            ["miscount", "miscount", "misspelled", "guess", "no tool", "run-on", "evasive"])
        if kind == "miscount":
            counts = miscount(word, letter, rng)
            answer = without_tool(word, letter, counts)
        elif kind == "misspelled":
            answer = solution(gain_or_lose(word, letter, rng), letter)
        elif kind == "guess":
            answer = f"#### {rng.choice([m for m in range(5) if m != n])}"
        elif kind == "no tool":
            answer = without_tool(word, letter, running_counts(word, letter))
        elif kind == "run-on":
            answer = run_on_parts(chosen["messages"][1]["content"], rng)
        else:
            answer = rng.choice(EVASIVE)
        return preference(chosen, answer, kind)


def running_counts(word, letter):
    """The count after each letter of the word: ("apple", "p") -> [0, 1, 2, 2, 2]."""
    return [word[:k].count(letter) for k in range(1, len(word) + 1)]


def by_hand(word, letter, counts):
    """The spelling, below it the count after each letter, and the start of the next line."""
    steps = "".join(f" {c}:{count}" for c, count in zip(word, counts))
    return f"{spelled(word)}\nCount {letter}:{steps}\nBy hand {counts[-1]}"


def solution(word, letter):
    """The right answer, as parts."""
    n = str(word.count(letter))
    counted = by_hand(word, letter, running_counts(word, letter))
    return [{"type": "text", "text": f"{counted}, by Python "},
            {"type": "python", "text": f"'{word}'.count('{letter}')"},
            {"type": "python_output", "text": n},
            {"type": "text", "text": f"\n#### {n}"}]


def without_tool(word, letter, counts):
    """An answer that counts by hand alone."""
    return f"{by_hand(word, letter, counts)}\n#### {counts[-1]}"


def miscount(word, letter, rng):
    """Running counts that are off by one from some letter on."""
    places = [k for k, c in enumerate(word) if c == letter]
    at = rng.randrange(len(word))
    step = rng.choice([1, -1] if places else [1])
    # To count too few, overlook one of the letters that count.
    if step < 0:
        at = rng.choice(places)
    return [count + step * (k >= at) for k, count in enumerate(running_counts(word, letter))]


def gain_or_lose(word, letter, rng):
    """The word with one more or one fewer of the letter; one that lacks the letter gains it."""
    places = [k for k, c in enumerate(word) if c == letter]
    at = rng.choice(places or [rng.randrange(1, len(word))])
    if not places or rng.random() < 0.5:
        return word[:at] + letter + word[at:]
    return word[:at] + word[at + 1:]
