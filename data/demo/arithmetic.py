"""
Arithmetic with the tool: the model writes the expression, Python computes it.

`What is 37*48?` is answered with `37*48 = `, a python part and its output, then `#### 1776`, as in
GSM8K. The model need not calculate: it has to read the question, write the expression and copy the
result. `Is 12*7 = 85?` is a claim: Python also compares, `12*7==85`, and on False the answer ends
with `No, it is 84.`

The expression decides the split, and 3+4 counts as 4+3. So does, apart from it, the sentence
around it, and the phrase for it. A result has at most four decimals and seven digits before them.
"""
import re
from typing import NamedTuple

from data.demo.grammar import (
    alternatives,
    capital,
    draw_sentence,
    dress,
    dressed,
    sentences,
    spell_one,
)
from data.demo.other_wordings import may_train
from data.demo.records import preference, record, run_on_parts
from data.demo.splits import check_split, generator, split_of
from data.grading import same_final_number, spoken_text
from data.lazy import Lazy

# {x} stands for the expression, in symbols or in words. A line is a grammar.
ASK = """
[what is/what's/whats/how much is/what would be/what was/so what is/wat is/what's the value of/
    what is the value of/what will be] {x}[/ equal to/ please/ exactly/ then]?
[compute/calculate/evaluate/solve/work out/figure out/find/determine/get/do/answer/simplify/reckon/
    crunch] {x}[/ for me/ please/ now/ with Python/ quickly]
[please/can you/could you/would you/will you/can you please/could you please/you should/
    I want you to/I'd like you to/help me/let's/try to/I need to/I have to] [compute/calculate/
    evaluate/solve/work out/figure out/find/determine/do/
    get] {x}[/ for me/ with Python/ quickly/ today]
{x} | {x} = | {x} =? | {x}? | {x} = ? | {x}, please | {x}: result? | {x}, what is it | {x} equals
{x} is | {x} ... | {x} makes | {x} gives | {x} = what
{x} [equals what/is what/is how much/makes what/gives what/makes how much/gives me what/
    comes to what/is equal to what/results in what/yields what]?
[what does/what do/what would/how much does/how much would/which number does/
    what number does] {x} [equal/make/give/come to/amount to/yield/evaluate to/come out as/
    work out to/add up to]?
[what do/what would/what will/which number do/what number do/how much do] [you/I/we] [get/have/
    obtain/end up with/arrive at/find] [for/from/with/as/when computing/when I compute/out of/
    by calculating] {x}?
[what is/what's/give me/tell me/find/show me/state/I need/I want/I'd like/I'm looking for/
    write down/name] the [result/value/answer/solution/number/outcome/total] [of/for/to] {x}
[tell me/do you know/can you tell me/could you tell me/I wonder/I want to know/I need to know/
    I'd like to know/let me know/say/please say/I forgot/I have no idea/guess/find out/check] [what/
    how much] {x} [is/makes/gives/equals/comes to/would be]
[my homework says/the exercise says/on the board it says/the book asks/the task is/
    the worksheet says/question 3 is/the quiz asks/this is on the test/problem 5/
    exercise 2 is]: {x}. [help/help me/what do I write/what's the answer/what goes there/
    how much is that/solve it/can you do it/and the answer is/what is it]?
[my son/my daughter/my friend/my teacher/a kid/my sister/my boss/somebody/a student/
    my neighbor] [asks/wants to know/asked me/wonders/needs to know/has to find out] [what/
    how much] {x} [is/makes/gives/equals][/. what do I say/. help me/. I have no idea]?
[I was asked/they asked me/I've been asked/the question was/I got asked] [what/how much] {x} [is/
    makes/gives/equals]. [what do I say/what should I answer/what is right/help/and]?
[use/with/take/ask] [Python/the calculator/your tool/the tool/your calculator] [to compute/to get/
    for/and give me/to find/to work out/to solve] {x}
[calculation/math/maths/sum/task/exercise/equation/expression/problem/arithmetic/do the math/
    quick math/quick calculation]: {x}
[I have/given/here is/we have/I wrote/take/look at/I typed/consider/
    this is my calculation:] {x}. [what is it/what does it make/how much is it/what is the result/
    compute it/solve it/work it out/result please/what comes out/evaluate it/what is the value/
    what do I get]?
[I can't/I cannot/I couldn't/I don't want to/I'm too lazy to/I'm not able to/nobody here can] [do/
    work out/compute/figure out/solve] {x}[/ in my head/ by hand]. [can you/help/what is it/
    please do it/you do it/how much/result please]?
[in my head I can't do/I'm stuck on/I'm stuck with/I struggle with/I need help with/help me with/
    can you help with/please help with] {x}
[what number/which number] [is/equals/is equal to/is the same as/comes out of/do I write for/
    goes behind] {x}?
[if I type/if I enter/when I put/when you enter/if you type] {x} [into a calculator/on a calculator/
    into Python/in my phone], [what comes out/what do I see/what is shown/what do I get/
    what is the result]?
[bonus question/round one/first question/last question/for ten points/riddle me this]: [what is/
    how much is/calculate/the value of] {x}?
[hey/hi there/ok/listen/sorry] [what is/what's/how much is/can you do/do] {x}[/ for me/ please]?
[the result of/the value of/the answer to/the number for] {x}[/?/ please/ is?/, what is it]
{x}[. what number is that/. what's that/. how much/. answer please/. and that is/. any idea/
    . do you know/ - answer?/. the result please/. can you work that out/. is what]?
[what/which number] [comes out/do I get/do you get/is the result/results] [of/from/with] {x}?
[what's the answer if I have/what is it when you have/what do I get when it says] {x}?
[quickly/fast/real quick/short question]: {x}[/?/ = ?]
[my calculator is broken/I have no calculator/my phone is dead/no calculator here/
    I left my calculator at home]. [what is/how much is/what's/please do/compute] {x}?
[I tried/I started with/we tried] {x} [twice/by hand/on paper] [and got lost/
    and got different results/and I am not sure]. [what is it/what is right/can you do it/help]?
[we are doing/we're learning/today we learned/our class does] [sums/arithmetic/math/calculations/
    number work]. [what is/how much is/help me with/now do] {x}?
[at work/at the shop/for our shop/for a bill/for my budget/for the kitchen/
    for my garden] I need {x}. how much?
[at work/at the shop/for our shop/for a bill/for my budget/in my notes] [it says/I wrote/I have/
    there is] {x}. [how much is that/what does it make/work it out/what is it]?
[kindly/be so kind and/if you don't mind/would you mind to/may I ask you to] [compute/calculate/
    work out/tell me/give me the result of] {x}[/ please]
[what shall/what must/what should/what do] I write [for/as the result of/behind/after] {x}?
[fill in the blank/fill in/complete/complete this/finish]: {x} = ___
{x} = ___ | {x} is ___ | {x} makes ___ | ___ = {x} | {x} equals ___
? = {x} | what = {x} | {x} -> ?
[result/answer/value/solution/output] of {x}[/?/ please/ pls] | [value/answer/result/total] for {x}
[so/and/now/ok now/next/then] {x}[/?/ = ?/ please/ is what/ makes?]
[show me/tell me/give me/I want to see/I need to see] [what/how much] {x} [is/makes/gives/comes to]
[if you had to/can you quickly/are you able to/do you manage to] [do/compute/solve/work out] {x}?
[someone wrote/the teacher wrote/my friend wrote/there was] {x} [on the board/on a note/in a mail/
    in the book]. [what is it/what's the value/how much is it/what does it make/solve it]?
I [need/want/must know/am looking for] the [exact/right/correct/final] [value/
    result/answer/number] of {x}
[for my/for a/in my/for our] [math test/exam/exercise/lesson/class/quiz/
    report] I [need/want/must find/
    have to find] {x}[/. can you do it?/. what is it?/. how much?]
[grandma/mom/dad/the customer/my neighbour/a friend of mine/my uncle] [wants/needs/
    asks for] {x}[/. what is that?/
    . what do I tell them?/. what is it?/. how much?]
[was ist/wie viel ist/berechne/rechne/was ergibt/was macht/wieviel ergibt] {x}
[combien font/combien fait/calcule/calculez/quel est le résultat de] {x}
[cuánto es/¿cuánto es/calcula/¿cuánto son/quanto é/quanto fa/calcola/hoeveel is/vad är/ile to] {x}?
""".strip()
# How a claim is put: {x} is the expression and {y} the value that somebody claims.
CLAIM = """
[is/so is/is it true that/is it right that/is it correct that/do you agree that/would you say that/
    can it be that/could it be that] {x} [/really/exactly/indeed] [=/equal to/the same as] {y}?
[is it true that/is it right that/is it correct that/do you agree that/am I right that/
    is it so that/can you confirm that/would you say that] {x} [is/equals/makes/gives/comes to/
    is equal to] {y}?
is {x} {y}? | is {x} = {y}? | {x} = {y}? | {x} is {y}? | does {x} = {y}? | {x} == {y}?
{x} = {y}, right? | {x} = {y}, true or false?
does {x} [/really/indeed/actually] [equal/make/give/come to/amount to/result in] {y}[/, yes or no/
    , true or false]?
[true or false/right or wrong/yes or no/correct or not/true/correct/right]: {x} [is/=/equals/makes/
    gives] {y}[/?/.]
{x} [is/=/equals/makes/gives/comes to] {y}[, right/, correct/, true or false/, isn't it/
    . right or wrong/. is that right/. is this correct/. do you agree/. yes or no/. is it true/
    . am I right/, or not/. true]?
[I think/I say/I believe/I'd say/I guess/I calculated that/I got that/I found that/I bet/I claim/
    I worked out that/my answer:] {x} [is/=/equals/makes/gives] {y}[. right/. correct/
    . is that right/. is this correct/. am I right/. true or false/, is that so/. do you agree/
    . check it/. did I get it right]?
[my friend/my sister/my teacher/my son/my daughter/someone/a student/my calculator/the book/he/
    she] [says/claims/thinks/believes/insists/told me] [that/] {x} [is/=/equals/makes/
    gives] {y}[. right/. is that right/. is that true/. is this correct/. true or false/
    . do you agree/. can that be/. is it so/. check please]?
[check/verify/confirm/test/please check/please verify/can you check/can you verify/
    could you check] [if/whether/that] {x} [is/=/equals/makes/gives/is equal to] {y}
[so/hm/hey/ok] {x} [is/makes/equals/=] {y}[, right/, yes/, no/, correct/, or]?
[is it right/is it correct/is it true/am I right/would it be right] [to say that/if I say/
    to write that] {x} [is/equals/makes] {y}?
[true or false/right or wrong/yes or no/correct or not]: {x} [is/=/equals/makes/gives] {y}[/?]
{x} [is/=/makes/equals] {y}[: true/: right/: correct/: yes or no/. true or false/. okay/
    . did I do it right/. is it right]?
[I wrote/I put/we wrote/my child wrote/she wrote/he put down/
    I answered] {x} [=/is/makes] {y}. [is that right/
    is that so/is it correct/correct/okay/was that wrong/please check/right or wrong]?
[please/can you/could you] [check/tell me/say/confirm] [if/whether] {x} [is/makes/equals/gives/
    comes to] {y}[/ or not]
[the bill says/the receipt says/the solution says/the key says/our teacher said/dad said/
    the machine says] {x} [is/=/makes] {y}. [is that so/can that be right/is that true/correct/
    true or false]?
[are/is] {x} and {y} [equal/the same/the same number]?
[does/will/would] {x} [make/give/equal/come to/be] {y}?
[I get/I have/we have/they got/he has] {y} for {x}. [is that right/is it correct/right/correct/ok]?
is {y} [the result of/the right answer to/the value of/what you get for/the correct result of] {x}?
[do you get/do you also get/did you get] {y} for {x}?
[for/as the answer to/as a result of] {x} [I wrote/I got/I have/she wrote/he got/my kid wrote/
    we got] {y}. [right/correct/is that right/is it correct/okay/was that right/true/
    did I make a mistake]?
""".strip()
# Between numbers of a list: as separators and before the last one.
LISTS = [(", ", " and "), (", ", ", and "), (", ", ", "), (" ", " "), ("; ", "; "),
         (" and ", " and "), (",", ","), (", ", " and ")]
# The same where one of them is looked for.
CHOICES = [(", ", " or "), (", ", ", or "), (", ", ", "), (" ", " "), (", ", " and ")]


class Kind(NamedTuple):
    """Expressions of one form.

    code: with {a} to {e} for the numbers, the way in which the answer writes it.
    weight: how often it comes up. draw: the name of the numbers that it takes, in draw_numbers().
    phrases: a grammar for what may stand in a question of ASK and in claims; {list} stands for all
    numbers. Without one, the symbols alone are asked for.
    commands: a grammar for whole questions.
    """
    code: str
    weight: float
    draw: str
    phrases: str = ""
    commands: str = ""


ADD = """
{a} plus {b} | {a} added to {b} | [/the] [sum/total/addition] of {a} and {b}
{a} and {b} [together/added/added up/added together/combined/in total/summed] | {a} increased by {b}
{a} more than {b} | {b} on top of {a} | {a} with {b} added | {a} plus another {b}
{b} more than {a} | adding {a} and {b} | {a} + {b}
{a} and {b} more | {a} and another {b} | {a} with {b} more | {a} and then {b} more
{b} added onto {a}
{a} & {b} together | {a} raised by {b} | {a} up by {b}
both {a} and {b} added | {a} together with {b}
{a} add {b} | {a} and {b} as a sum | the numbers {a} and {b} [together/added/in total/combined]
[the total you get from/the sum you get from] {a} and {b}
{a} joined with {b} | {a} grown by {b} | {a} plus {b} altogether | the sum {a} + {b}
"""
ADD_C = """
[add/please add/can you add/now add/sum/let's add/could you add] [up/
    together/] {a} and {b}[/ for me/ please]
[add/put/count] {b} [to/onto/on top of] {a}[/ please]
[what do I get/what do you get/what happens/what is it/how much do I have] [if/when] [I/you/
    we] [add/sum/put together/combine] {a} and {b}?
[{a} and {b}/the numbers {a} and {b}/we have {a} and {b}/given {a} and {b}/take {a} and {b}][: sum?/
    , add them/: total?/. what is their sum?/. add them up./. what's the total?/
    . how much together?/: added?/. please add.]
[raise/increase] {a} by {b} | {a} grows by {b}, what is it now?
what number is {b} [more/greater/larger/bigger/higher] than {a}?
[start with/take/begin with/start at/from] {a}[, add {b}/ and add {b}/. now add {b}/, then add {b}/
    , go up by {b}/ and count up {b}]
sum of {a} & {b} | sum {a} {b} | add {a} {b} | {a} {b} sum | total {a} {b}
[put/throw/pile/lay] {b} [on/onto/on top of] {a}. [how much is it/what is it/how many is that]?
[I have/I got/we have/she has/there are/we count] {a} and [get/find/add/someone adds/then come/
    another] {b}[. how many is that/. how much is it now/, total/. what's the sum/, together]?
[first/one is/one number is/the first is] {a}[, then/, the other is/, the second is/
    , and then] {b}. sum?
[how much is it/what is it/what is the total/what do I have] if I [have/take/hold] {a} and [get/add/
    receive] {b} more?
[what do/how much do/how many do] {a} and {b} [make/give/come to/add up to/sum to/total/amount to]?
[{a} now/it is {a}/we are at {a}/the count is {a}], [and/then] {b} [more/are added/
    come on top]. how much?
{b} [are added/get added/come on top/are put on top] of {a}. [result/what is it/how much]?
[sum up/add up/put together/combine/unite/total up] {a} and {b}[/ please/ for me/ quickly]
how many are {a} and {b} [together/in all/altogether/put together/all in all]?
[what/which number] is [the sum/the total] when {b} is added to {a}?
{a} {b} [total/together/added/plus] | plus: {a} and {b} | total of {a}, {b} | {a} and {b} = ?
[what's/what is] {a} [with/and] {b} [more/on top/added/extra]? | {a} gets {b} more. how much?
"""
SUB = """
{a} minus {b}
{a} [take away/less/without/subtract/reduced by/decreased by/lowered by/diminished by] {b}
the difference [of/between] {a} and {b}
{b} [less than/subtracted from/taken from/taken away from/fewer than/below/off] {a}
{a} with {b} [taken away/removed/subtracted] | subtracting {b} from {a} | {a} − {b}
{a} with {b} gone | {a} after losing {b} | {a} with {b} taken off | {a} with {b} left out
{a} lessened by {b} | {a} down by {b} | {a} cut by {b} | {a} with {b} subtracted from it
[what is left of/the rest of/what remains of] {a} [after taking/without/after removing] {b}
the difference from {a} [down to/and] {b} | {a} subtract {b} | {b} from {a} | {a} take {b}
[the difference/the gap] [between {a} and {b}/when {b} is taken from {a}] | {b} smaller than {a}
"""
SUB_C = """
[subtract/please subtract/can you subtract/take/take away/deduct/remove/could you take/
    now subtract] {b} from {a}[/ for me/ please]
[what is left/what remains/how much is left/how much remains/what do I have/what do you get/
    what stays] [if/when/after] [I/you/we] [take/subtract/remove/deduct/take away] {b} [from/
    off] {a}?
[reduce/decrease/lower/shrink/cut/diminish] {a} by {b}
{a} [falls/shrinks/drops/goes down] by {b}, [what is it now/how much is left/what remains]?
[{a} and {b}/the numbers {a} and {b}/given {a} and {b}/take {a} and {b}][: difference?/
    , subtract the second from the first/. what is their difference?/. subtract them./
    : first minus second?]
[start with/take/begin with/start at/from] {a}[, subtract {b}/ and take away {b}/. now subtract {b}/
    , then remove {b}/, go down by {b}/ and count down {b}]
[how much/by how much/how many] [more/is] {a} [than/more than/above/greater than/larger than] {b}?
what number is {b} [less/smaller/lower] than {a}?
how far is it from {b} to {a}? | what must I add to {b} to get {a}? | {b} plus what is {a}?
what's missing from {b} to {a}? | difference {a} {b} | subtract {a} {b}
[I have/I had/we have/she had/there are/there were] {a} and [lose/give away/spend/use/take away/
    lost/gave away/spent/used] {b}[. what's left/. what remains/. how many now/. how much is left/
    , what's left]?
[if/when] [I/you/we/they] [have/start with/own] {a} and [lose/give away/spend/remove/
    use] {b}, [how much is left/
    what remains/what is left/how many are left]?
{b} [are gone from/are taken from/get removed from/are lost from/go away from] {a}. [how many stay/
    what remains/what's left/the rest]?
from {a}[, take/ take/, remove/ remove/ drop/, drop/ deduct/ subtract] {b}[/. what's left/. result]?
[what's/what is] [the rest/left/the remainder] [when/if] {b} [is/are] [taken/removed/subtracted/
    deducted] from {a}?
[how much/how many] [is/are/stays/remains] left [of/from] {a} [without/after] {b}?
[it was/we were at/the count was/it is] {a}, [then/and] {b} [went away/were lost/were taken/less/
    fewer]. [how much/what is it now/how many now]?
[how much bigger/how much larger/how much greater/how much more] is {a} than {b}?
[how much smaller/how much less/how much lower/how many fewer] is {b} than {a}?
[what is the gap/what's the distance/what is the difference] [between/from] {a} and {b}?
{a} {b} [minus/difference/less] | minus: {a} and {b} | {a} loses {b} | {a} - {b} = ?
[what do I add to/what is missing from/how much more must I add to] {b} to [get/reach/make] {a}?
"""
MUL = """
{a} times {b} | {a} multiplied by {b} | the product of {a} and {b} | {a} x {b} | {a} lots of {b}
{a} groups of {b} | {a} [rows of/sets of/packs of/bags of] {b} | {a} by {b} | {a} · {b} | {a} × {b}
multiplying {a} and {b} | {b} taken {a} times | the {a}-fold of {b} | {a}x{b} | {a} X {b}
{a} multiplied with {b} | {a} sets of {b} | {a} times the number {b}
the product of the numbers {a} and {b} | {a} and {b} multiplied [/together] | {a} of {b} each
{a} times as much as {b} | {a} times as many as {b} | the product {a} * {b} | {a} * {b}
"""
MUL_C = """
[multiply/please multiply/can you multiply/now multiply/could you multiply/let's multiply] {a} [by/
    and/with/times] {b}[/ for me/ please]
[what do I get/what do you get/what happens/how much is it/what comes out] [if/when] [I/you/
    we] [multiply/times] {a} [by/and/with] {b}?
[{a} and {b}/the numbers {a} and {b}/given {a} and {b}/take {a} and {b}][: product?/, multiply them/
    . what is their product?/. multiply please./: times?/. what do they make multiplied?]
[start with/take/begin with] {a}[, multiply by {b}/ and multiply it by {b}/. now times {b}/
    , then take it {b} times]
product of {a} & {b} | multiply {a} {b} | product {a} {b} | {a} {b} times
how much are {a} [lots/groups/packs/sets] of {b}?
[what do/how much do] {a} and {b} [make/give/come to] [multiplied/as a product/when multiplied/
    if you multiply them]?
[there are/I have/we have/she has] {a} [groups/sets/lots/piles] of {b}[. how many is that/. total/
    , how many in all/. how much altogether]?
[how much/how many] is {a} [times/multiplied by/x/lots of/groups of] {b}?
[find/give me/tell me/work out/I need/get] the product [of/for] {a} and {b}
[take/count/put/write] {b} [together/down] {a} times[. how much is that/. total/. what is it]?
[add/sum] {b} to itself until you have it {a} times[. how much/. total/. what is it]?
[what is it/what do I get/how much is it] if I [take/have] {b} {a} times?
[{a} for each/{a} per piece/{a} every time], {b} times[. how much is that/. total/, in all]?
{a} {b} [multiplied/product/multiply] | times: {a} and {b} | {a} * {b} = ? | {a} times {b} = ___
multiply: {a}, {b} | [multiply together/take the product of/form the product of] {a} and {b}
"""
DIV = """
{a} divided by {b} | {a} over {b} | the quotient of {a} and {b} | {a} split [by/into/in/among] {b}
{a} shared [by/among/between] {b} | {a} ÷ {b} | the ratio of {a} to {b} | dividing {a} by {b}
a {b}th of {a} | {a} / {b} | {a} in {b} [equal parts/parts/equal groups]
{a} divided into {b} [parts/groups]
{a} divided in {b} equal parts | {a} shared equally by {b} | {a} distributed over {b}
{a} cut into {b} [/equal] [parts/pieces] | {a} per {b} | the quotient of {a} by {b}
the result of dividing {a} by {b} | {a} [split/shared] equally [among/between] {b} | {a} : {b}
[the share of one/one share/one part] when {a} is [divided/split/shared] by {b}
"""
DIV_C = """
[divide/please divide/can you divide/split/share/now divide/could you divide/let's divide] {a} [by/
    into/among/between/over] {b}[/ for me/ please/ equally]
[what do I get/what do you get/what happens/how much is it/what comes out] [if/when] [I/you/
    we] [divide/split/share] {a} [by/among/into/between] {b}?
[{a} and {b}/the numbers {a} and {b}/given {a} and {b}/take {a} and {b}][: quotient?/
    , divide the first by the second/. what is the quotient?/. divide please./: first over second?]
[start with/take/begin with] {a}[, divide by {b}/ and divide it by {b}/. now split it by {b}]
how [often/many times] does {b} [go into/fit into/fit in/go in] {a}? | how many {b}s are in {a}?
quotient of {a} & {b} | divide {a} {b} | {b} goes into {a} how often?
{a} is shared [by/among/between] {b}. how much for each?
split {a} into {b} equal parts. how big is each?
[I have/we have/there are/she has] {a} [for/to share among/to split among/
    to share between] {b} [people/
    kids/friends/groups][. how much for each/. how many each/, each gets/. one share]?
[if/when] {b} [people/kids/friends/of us] [share/split/divide] {a}, [how much does each/
    how much does each get/each gets what/what is one share/how many for each]?
how many [groups of/lots of/sets of/times] {b} [are in/fit into/go into/make/can I take from] {a}?
how many times [can I take/can you take/do I take] {b} [from/out of] {a}?
{b} [goes into/fits into/is in/divides] {a} how [often/many times]?
[find/give me/tell me/work out/I need/get] the quotient [of/for] {a} and {b}
[what is/what's] {a} [in {b} equal parts/for each of {b}/per head for {b}/over {b}]?
[make/form/cut] {b} equal [parts/shares/groups] [of/from/out of] {a}[. how big is one/. one is]?
{a} {b} [divided/quotient/divide] | divide: {a}, {b} | {a} / {b} = ? | {a} divided by {b} = ___
what do I multiply {b} by to get {a}? | {b} times what is {a}? | {b} times ___ is {a}
"""
KINDS = [
    Kind("{a}+{b}", 13, "plain", ADD, ADD_C),
    Kind("{a}-{b}", 12, "plain", SUB, SUB_C),
    Kind("{a}*{b}", 12, "plain", MUL, MUL_C),
    Kind("{a}/{b}", 8, "quotient", DIV, DIV_C),
    # Two steps.
    Kind("({a}+{b})*{c}", 2, "small",
         phrases="the sum of {a} and {b}, times {c} | {c} times the sum of {a} and {b} | "
                 "{a} plus {b}, all times {c} | {a} plus {b} in parentheses times {c} | "
                 "the product of {c} and the sum of {a} and {b}",
         commands="[add/sum/first add] {a} and {b}[, then/, and then/ and/. then/. now/"
                  ", afterwards] multiply [by/it by/the result by/the sum by/that by] {c} | "
                  "multiply the sum of {a} and {b} by {c}"),
    Kind("({a}-{b})*{c}", 1.5, "small",
         phrases="the difference of {a} and {b}, times {c} | "
                 "{c} times the difference of {a} and {b} | {a} minus {b}, all times {c}",
         commands="[subtract/take/first take] {b} from {a}[, then/, and then/ and/. then/. now] "
                  "multiply [by/it by/the result by/that by] {c} | "
                  "multiply the difference of {a} and {b} by {c}"),
    Kind("{a}*{b}+{c}", 3, "small",
         phrases="{a} times {b} plus {c} | the product of {a} and {b}, plus {c} | "
                 "{c} more than {a} times {b} | the sum of {a} times {b} and {c}",
         commands="multiply {a} [by/with] {b}[, then/, and then/ and/. then/. now] add {c} | "
                  "add {c} to [the product of {a} and {b}/{a} times {b}]"),
    Kind("{a}*{b}-{c}", 2, "small",
         phrases="{a} times {b} minus {c} | the product of {a} and {b}, minus {c} | "
                 "{c} less than {a} times {b}",
         commands="multiply {a} [by/with] {b}[, then/, and then/ and/. then/. now] [subtract/"
                  "take away/deduct] {c} | "
                  "subtract {c} from [the product of {a} and {b}/{a} times {b}]"),
    Kind("{a}+{b}*{c}", 3, "small",
         phrases="{a} plus {b} times {c} | the sum of {a} and {b} times {c} | "
                 "{a} plus the product of {b} and {c} | {a} increased by {b} times {c}",
         commands="add [the product of {b} and {c}/{b} times {c}] to {a} | "
                  "add {a} and the product of {b} and {c}"),
    Kind("{a}-{b}*{c}", 2, "small",
         phrases="{a} minus {b} times {c} | {a} minus the product of {b} and {c} | "
                 "{a} less {b} times {c}",
         commands="subtract [the product of {b} and {c}/{b} times {c}] from {a} | "
                  "take {b} times {c} [from/off] {a}"),
    Kind("{a}+{b}-{c}", 2, "medium",
         phrases="{a} plus {b} minus {c} | the sum of {a} and {b}, minus {c} | "
                 "{c} less than the sum of {a} and {b} | {a} plus {b} less {c}",
         commands="add {a} and {b}[, then/, and then/ and/. then/. now] [subtract/take away] "
                  "{c} | [start with/start at/take] {a}, add {b}, [subtract/take away/remove] {c}"),
    Kind("{a}-{b}-{c}", 2, "medium",
         phrases="{a} minus {b} minus {c} | {a} less {b} less {c} | {a} minus {b} and {c}",
         commands="subtract {b} and [/then] {c} from {a} | "
                  "[start with/start at/take] {a}, [subtract/take away/remove] {b} and [then/] "
                  "{c} | what is left of {a} after taking away {b} and {c}?"),
    Kind("{a}-{b}+{c}", 2, "medium",
         phrases="{a} minus {b} plus {c} | the difference of {a} and {b}, plus {c}",
         commands="subtract {b} from {a}[, then/, and then/ and/. then/. now] add {c} | "
                  "[start with/start at/take] {a}, [subtract/take away/remove] {b}, add {c}"),
    Kind("({a}+{b})/{c}", 2, "mean2",
         phrases="the sum of {a} and {b}, divided by {c} | {a} plus {b}, all divided by {c} | "
                 "the sum of {a} and {b} over {c}",
         commands="add {a} and {b}[, then/, and then/ and/. then/. now] divide [by/it by/"
                  "the result by/the sum by] {c} | divide the sum of {a} and {b} by {c}"),
    Kind("{a}/{b}+{c}", 1.5, "quotient",
         phrases="{a} divided by {b}, plus {c} | the quotient of {a} and {b}, plus {c} | "
                 "{c} more than {a} divided by {b}",
         commands="divide {a} by {b}[, then/, and then/ and/. then/. now] add {c}"),
    Kind("{a}*{b}/{c}", 1, "product",
         phrases="{a} times {b} divided by {c} | the product of {a} and {b} over {c}",
         commands="multiply {a} by {b}[, then/, and then/ and/. then/. now] divide by {c}"),
    # Parentheses and the order of operations, as symbols.
    Kind("{a}*({b}+{c})", 2, "small", "{a} times the sum of {b} and {c}", ""),
    Kind("{a}*({b}-{c})", 1.5, "small", "{a} times the difference of {b} and {c}", ""),
    Kind("{a}-({b}+{c})", 1.5, "medium", "{a} minus the sum of {b} and {c}",
         "subtract the sum of {b} and {c} from {a}"),
    Kind("{a}-({b}-{c})", 1.5, "medium", "{a} minus the difference of {b} and {c}", ""),
    Kind("({a}+{b})*({c}+{d})", 2, "small", "the sum of {a} and {b} times the sum of {c} and {d}",
         "multiply the sum of {a} and {b} by the sum of {c} and {d}"),
    Kind("({a}+{b})*({c}-{d})", 2, "small",
         phrases="the sum of {a} and {b} times the difference of {c} and {d}"),
    Kind("({a}-{b})*({c}+{d})", 1.5, "small"), Kind("({a}-{b})*({c}-{d})", 1, "small"),
    Kind("{a}*{b}+{c}*{d}", 2, "small",
         phrases="{a} times {b} plus {c} times {d}",
         commands="add {a} times {b} and {c} times {d} | "
                  "add the products of {a} and {b} and of {c} and {d}"),
    Kind("{a}*{b}-{c}*{d}", 1.5, "small", "{a} times {b} minus {c} times {d}", ""),
    Kind("(({a}+{b})*{c})-{d}", 2, "small"), Kind("(({a}-{b})*{c})+{d}", 1.5, "small"),
    Kind("{a}*({b}+{c}*{d})", 1.5, "tiny"), Kind("({a}*({b}+{c}))-{d}", 1.5, "small"),
    Kind("{a}+({b}*({c}-{d}))", 1.5, "small"), Kind("({a}+{b})-({c}+{d})", 1.5, "medium"),
    Kind("{a}*{b}*{c}-{d}", 1, "tiny"), Kind("{a}-{b}+{c}-{d}", 1.5, "medium"),
    Kind("{a}+{b}*{c}-{d}", 1.5, "small"), Kind("({a}+{b}+{c})*{d}", 1, "small"),
    Kind("(({a}+{b})*({c}-{d}))+{e}", 1, "tiny"), Kind("-{a}+{b}", 1.5, "medium"),
    Kind("{a}*-{b}", 0.7, "small"), Kind("{a}+-{b}", 0.5, "medium"),
    Kind("-{a}-{b}", 0.7, "medium"),
    # Lists.
    *[Kind("+".join(letters), weight, "medium",
           phrases="the [sum/total] of {list} | the [sum/total] of the numbers {list} | "
                   "{list} [added up/added together/together/in total/combined/summed up] | "
                   "all of {list} together | adding {list}",
           commands="[add/sum/please add/total/tot up/add up/please sum/can you add/sum up] "
                    "[/the numbers/these numbers:/these:/all of these:/the following:] {list} | "
                    "[add/sum] these up: {list} | "
                    "[sum/total/add/all together/sum of/total of]: {list} | "
                    "{list}[: sum?/: total?/. add them up./. what is the sum?/. what's the total?/"
                    ", add them all/: add/ summed?/. how much altogether?] | "
                    "[sum/add/total] {list} | "
                    "[the numbers are/my numbers:/I have the numbers/I've got/my receipts are] "
                    "{list}. [what is the sum/what do they add up to/how much in total/"
                    "what's the total/add them]? | "
                    "what do {list} [add up to/make together/sum to/come to]? | "
                    "what do you get if you add {list}? | "
                    "[put/count/take] {list} together | what is the [sum/total] of {list}? | "
                    "{list} [altogether/in total/together/in one sum][?/, please/, how much?] | "
                    "[I bought things for/I spent/we sold/I walked/I read/they scored] {list}. "
                    "[total/how much in all/sum/how much is that together/add it all up]? | "
                    "[my scores are/the prices are/we have/it is] {list}. [sum/total/add all]? | "
                    "[how much/how many] are {list} [together/in all/all together]?")
      for letters, weight in ((["{a}", "{b}", "{c}"], 5), (["{a}", "{b}", "{c}", "{d}"], 4),
                              (["{a}", "{b}", "{c}", "{d}", "{e}"], 2))],
    *[Kind("*".join(letters), weight, "tiny",
           phrases="the product of {list} | the product of the numbers {list} | "
                   "{list} multiplied together | all of {list} multiplied",
           commands="[multiply/please multiply/can you multiply] [/the numbers/these numbers:/"
                    "together/all of these:] {list} | [product/multiply/product of]: {list} | "
                    "{list}[: product?/. multiply them./. what is the product?/"
                    ", multiply them all] | product of {list} | what do {list} make multiplied?")
      for letters, weight in ((["{a}", "{b}", "{c}"], 3), (["{a}", "{b}", "{c}", "{d}"], 1))],
    *[Kind(code, weight, "mean",
           phrases="the [average/mean/arithmetic mean] of {list} | "
                   "the [average/mean] of the numbers {list} | {list} [on average/averaged] | "
                   "the average value of {list}",
           commands="[average/mean/take the average of/find the mean of/get the average of/"
                    "work out the mean of/average out]: {list} | "
                    "average [/the numbers/these numbers:] {list} | "
                    "[my grades are/my scores are/the values are/I got/we measured] {list}. "
                    "[what is the average/average/what's the mean/mean/how much on average]? | "
                    "what [is/would be] the [average/mean] [of/for/if I have] {list}? | "
                    "[on average/in the mean], how much [is/are] {list}? | "
                    "[I need/give me/calculate/compute/tell me] the [average/mean] [of/for] {list} "
                    "| "
                    "{list}[: average?/: mean?/. what is the average?/. what's their mean?/"
                    ", averaged/. average them.] | [mean/average] [of/] {list}")
      for code, weight in (("({a}+{b})/2", 1.5), ("({a}+{b}+{c})/3", 2),
                           ("({a}+{b}+{c}+{d})/4", 1.5))],
    # Multiples and fractions in words.
    *[Kind("{a}*" + n, 1.3, "medium",
           phrases=f"[{names}] [/of/the number/of the number] {{a}} | {{a}} [{said}]",
           commands=f"[{verbs}] {{a}}[/ for me/ please] | [now/please/can you] [{verbs}] {{a}} | "
                    f"[how much is/what's/give me/find/I need] [{names}] {{a}} | "
                    f"[/the number] {{a}}, [{said}] | [I have/it is/take] {{a}}. [now/] "
                    f"[{verbs}][/ please]. | "
                    f"what number is [{names}] {{a}}? | what is {{a}} [{said}]? | "
                    f"{{a}}: [{names}]? | "
                    f"[what do I get/what do you get/what is it] if I [{verbs}] {{a}}?")
      for n, names, said, verbs in (
          ("2", "double/twice/two times/the double of/twice as much as",
           "doubled/times two/twice/two times", "double"),
          ("3", "triple/three times/thrice/the triple of/three times as much as",
           "tripled/times three/three times", "triple/treble"),
          ("4", "four times/quadruple/the quadruple of/four times as much as",
           "quadrupled/times four/four times", "quadruple"),
          ("5", "five times/fivefold/five times as much as", "times five/five times", "quintuple"),
          ("10", "ten times/tenfold/ten times as much as",
           "times ten/ten times", "multiply by ten"),
          ("12", "a dozen times/twelve times/a dozen of",
           "times twelve/times a dozen", "multiply by twelve"))],
    *[Kind("{a}/" + n, 1.5, "by" + n,
           phrases=f"[{names}] of [/the number] {{a}} | {{a}} [{said}]",
           commands=f"{{a}}: [{names}]? | "
                    f"[take/find/get/work out/I need/give me] [{names}] of {{a}} | "
                    f"[{verbs}] {{a}} | how much is [{names}] of {{a}}? | "
                    f"[I have/there are/we have/it costs] {{a}}. [{names}] of it is how much? | "
                    f"[what's/what is/tell me/calculate] [{names}] [of/from] {{a}}? | "
                    f"{{a}}, [{names}] of it[?/ please/, how much?] | {{a}} [{said}][?/ please]")
      for n, names, said, verbs in (
          ("2", "half/one half/the half/a half",
           "halved/divided by two/cut in half/split in two", "halve/cut in half/split in half"),
          ("3", "a third/one third/one-third/the third part",
           "divided by three/split in three", "take the third part of"),
          ("4", "a quarter/one quarter/a fourth/one fourth/one-fourth",
           "divided by four/split in four", "quarter"),
          ("5", "a fifth/one fifth/one-fifth",
           "divided by five/split in five", "take the fifth part of"),
          ("8", "an eighth/one eighth", "divided by eight", "take an eighth of"),
          ("10", "a tenth/one tenth/one-tenth", "divided by ten", "take the tenth part of"))],
    *[Kind("{a}*" + top + "/" + n, 0.9, "by" + n,
           phrases=f"[{names}] of [/the number] {{a}}",
           commands=f"{{a}}: [{names}]? | "
                    f"[take/find/get/work out/I need/give me] [{names}] of {{a}} | "
                    f"how much is [{names}] of {{a}}?")
      for top, n, names in (
          ("2", "3", "two thirds/two-thirds/2 thirds"),
          ("3", "4", "three quarters/three-quarters/three fourths/3 quarters"),
          ("2", "5", "two fifths/two-fifths"), ("3", "5", "three fifths"),
          ("4", "5", "four fifths"), ("3", "8", "three eighths"), ("5", "8", "five eighths"),
          ("3", "10", "three tenths"))],
    Kind("({a}+{b})/2", 1.5, "mean",
         phrases="half the sum of {a} and {b} | half of the sum of {a} and {b} | "
                 "half of {a} plus {b}",
         commands="halve the sum of {a} and {b} | add {a} and {b}, then halve [/it/the result]"),
    Kind("({a}+{b})*2", 1.5, "medium",
         phrases="twice the sum of {a} and {b} | double the sum of {a} and {b} | "
                 "two times the sum of {a} and {b}",
         commands="double the sum of {a} and {b} | add {a} and {b}, then double [/it/the result]"),
    Kind("({a}-{b})*2", 0.8, "medium",
         phrases="twice the difference of {a} and {b} | double the difference between {a} and {b}",
         commands="double the difference of {a} and {b}"),
    Kind("({a}+{b})*3", 0.7, "medium",
         phrases="three times the sum of {a} and {b} | triple the sum of {a} and {b}",
         commands="triple the sum of {a} and {b}"),
    Kind("{a}*2+{b}", 1, "medium",
         phrases="twice {a} plus {b} | double {a} plus {b} | {b} more than twice {a} | "
                 "{b} more than double {a}",
         commands="double {a}[, then/ and/. then/. now] add {b}"),
    Kind("{a}*2-{b}", 1, "medium",
         phrases="twice {a} minus {b} | double {a} minus {b} | {b} less than twice {a}",
         commands="double {a}[, then/ and/. then/. now] [subtract/take away] {b}"),
    Kind("{a}/2+{b}", 1, "by2",
         phrases="half of {a} plus {b} | {b} more than half of {a}",
         commands="halve {a}[, then/ and/. then/. now] add {b}"),
    Kind("{a}/2-{b}", 0.7, "by2",
         phrases="half of {a} minus {b} | {b} less than half of {a}",
         commands="halve {a}[, then/ and/. then/. now] [subtract/take away] {b}"),
    # Powers.
    Kind("{a}**2", 4, "square",
         phrases="{a} with itself multiplied | "
                 "{a} in the second power | "
                 "{a} by itself | "
                 "the second power of {a} | "
                 "the number {a} squared | "
                 "{a} raised to the second | "
                 "{a} squared | the square of {a} | {a} to the power of 2 | "
                 "{a} to the second power | {a} to the power of two | {a} times itself | {a}² | "
                 "{a} ^ 2",
         commands="[what/which] number do I get when I square {a}? | "
                  "[take/find/compute/give me/I need] the square of {a} | "
                  "{a} [times/multiplied by/by] itself[, please/. how much/?] | "
                  "how much is {a} [squared/times itself/to the second]? | "
                  "a square has sides of {a}. [area?/how big is it?/what is its area?] | "
                  "[/the number] {a}, [squared/now square it/square it please/to the power of two] "
                  "| "
                  "[square/please square/can you square] {a}[/ for me/ please] | {a}: square? | "
                  "multiply {a} by itself | "
                  "[what do I get/what do you get/what happens] if I square {a}?"),
    Kind("{a}**3", 2, "cube",
         phrases="{a} in the third power | "
                 "{a} times itself times itself | "
                 "the third power of {a} | "
                 "the number {a} cubed | "
                 "{a} raised to the third | "
                 "{a} cubed | the cube of {a} | {a} to the power of 3 | {a} to the third power | "
                 "{a} to the power of three | {a}³ | {a} to the third",
         commands="[take/find/compute/give me/I need] the cube of {a} | "
                  "how much is {a} [cubed/to the third]? | "
                  "a cube has edges of {a}. [volume?/what is its volume?] | "
                  "{a}, [cubed/now cube it/to the power of three] | "
                  "cube {a}[/ for me/ please] | {a}: cube? | what do I get if I cube {a}?"),
    Kind("{a}**{b}", 3, "power",
         phrases="{a} with exponent {b} | "
                 "{a} to power {b} | "
                 "{a} in the power of {b} | "
                 "{a} raised to power {b} | "
                 "{a} to the power of {b} | {a} to the power {b} | {a} raised to {b} | "
                 "{a} raised to the power of {b} | {a} to the {b}th power | {a} to the {b}th | "
                 "the {b}th power of {a}",
         commands="[please raise/can you raise/now raise] {a} to the power [of/] {b} | "
                  "base {a}, exponent {b} | "
                  "multiply {a} by itself so that it is there {b} times | "
                  "the power with base {a} and exponent {b} | "
                  "how much is {a} to the power of {b}? | "
                  "what do I get when I raise {a} to {b}? | "
                  "raise {a} to the power of {b} | [take/compute] the {b}th power of {a} | "
                  "{a}, {b}th power?"),
    Kind("{a}**2+{b}", 1, "square",
         phrases="{a} squared plus {b} | the square of {a} plus {b} | {b} more than {a} squared",
         commands="square {a}[, then/ and/. then] add {b}"),
    Kind("{a}**2-{b}", 0.7, "square",
         phrases="{a} squared minus {b} | the square of {a} minus {b} | "
                 "{b} less than the square of {a}",
         commands="square {a}[, then/ and/. then] subtract {b}"),
    Kind("{a}**2+{b}**2", 1, "square",
         phrases="{a} squared plus {b} squared | the sum of the squares of {a} and {b}",
         commands="add the squares of {a} and {b}"),
    Kind("({a}+{b})**2", 1, "tiny",
         phrases="the square of the sum of {a} and {b} | the sum of {a} and {b}, squared | "
                 "{a} plus {b} squared in parentheses",
         commands="add {a} and {b}, then square [/it/the result] | square the sum of {a} and {b}"),
    # Per cent: {p} is a number of per cent.
    Kind("{a}*{p}/100", 6, "percent",
         phrases="{p} out of every hundred of {a} | "
                 "a share of {p}% of {a} | "
                 "{p} percent from {a} | "
                 "a tip of {p}% on {a} | "
                 "{p}% tax on {a} | "
                 "{p} hundredths of {a} | "
                 "{p}% of {a} | {p} % of {a} | {p} percent of {a} | {p} per cent of {a} | "
                 "{p} pct of {a}",
         commands="how much is [a tip/a tax/an interest/a share/a discount] of {p}% [of/on] {a}? | "
                  "[what's/what is/calculate] {p}[%/ percent/ per cent] [of/from] [/the number/a "
                  "bill of] {a}? | "
                  "[the bill is/the price is/I have/the total is] {a}. [what/how much] is {p}[%/ "
                  "percent] of [it/that]? | "
                  "{a} and {p}[%/ percent] of it[?/, how much?/: how much is the part?] | "
                  "percentage: {p}[%/ percent] of {a} | "
                  "{p} percent {a} | {p}% {a} | "
                  "[take/find/get/work out/give me/I need] {p}[%/ percent/ per cent] of {a} | "
                  "{a}[: {p}%?/, {p} percent of it/, take {p}%/. what is {p}% of that?/"
                  ". how much is {p} percent?] | of {a}, {p}[%/ percent] is how much? | "
                  "how much are {p} percent of {a}?"),
    Kind("{a}-{a}*{p}/100", 2.5, "percent",
         phrases="{a} with {p}% off | "
                 "{a} after a discount of {p}% | "
                 "{a} after {p} percent off | "
                 "{a} lowered by {p}% | "
                 "{a} with {p} percent taken off | "
                 "{a} minus {p}% | {a} minus {p} percent | {a} less {p}% | {p}% off {a} | "
                 "{p} percent off {a} | {a} reduced by {p}% | {a} decreased by {p} percent | "
                 "{p}% less than {a} | {a} with a {p}% discount",
         commands="[the price is/it costs/it was/a coat costs] {a}[. {p}% off. what do I pay?/, "
                  "now {p}% off. price?/ and I get {p}% discount. how much?] | "
                  "[discount/sale]: {p}% off {a} | "
                  "[what is left of/what's left of] {a} if {p}[%/ percent] [is gone/is taken/goes "
                  "away]? | "
                  "{a} loses {p}[%/ percent]. [how much is left?/what is it now?] | "
                  "[reduce/decrease/lower/cut] {a} by {p}[%/ percent] | "
                  "take {p}[%/ percent] off {a} | {a} drops by {p}[%/ percent]. what is left?"),
    Kind("{a}+{a}*{p}/100", 2.5, "percent",
         phrases="{a} after a rise of {p}% | "
                 "{a} with {p} percent more | "
                 "{a} with {p}% tax | "
                 "{a} with a tip of {p}% | "
                 "{a} up by {p} percent | "
                 "{a} plus {p}% | {a} plus {p} percent | {a} increased by {p}% | "
                 "{a} increased by {p} percent | {p}% more than {a} | {a} raised by {p} percent | "
                 "{a} with {p}% added | {a} and {p}% on top",
         commands="[the price is/it costs/it was/the bill is] {a}[ and goes up by {p}%. what is it "
                  "now?/ plus {p}% tax. total?/ and I tip {p}%. how much in all?] | "
                  "{a} [rises/goes up/gets higher] by {p}[%/ percent]. [how much is it?/what is it "
                  "now?] | "
                  "[what is/how much is] {a} [with/and] {p}[%/ percent] [more/on top/tax]? | "
                  "[increase/raise] {a} by {p}[%/ percent] | add {p}[%/ percent] to {a} | "
                  "{a} grows by {p}[%/ percent]. what is it then?"),
    # Remainders and whole parts.
    Kind("{a}%{b}", 3, "rest",
         phrases="the remainder of {a} by {b} | "
                 "the rest when {a} is divided by {b} | "
                 "the remainder left by {a} over {b} | "
                 "the remainder after dividing {a} by {b} | "
                 "{a} mod {b} | {a} modulo {b} | the remainder of {a} divided by {b} | "
                 "the remainder of {a} and {b} | the rest of {a} divided by {b} | "
                 "the remainder when {a} is divided by {b}",
         commands="how much is left over [if/when] {a} is [divided/split/shared] [by/into groups "
                  "of] {b}? | "
                  "[put/pack/sort] {a} into groups of {b}. [how many are left over?/what is left "
                  "over?] | "
                  "what is the [remainder/rest] [of/when I divide/if you divide] {a} by {b}? | "
                  "{a} by {b}, [only the remainder/just the rest/remainder please/what's left "
                  "over?] | "
                  "remainder {a} {b} | {a} {b} remainder | remainder: {a} by {b} | "
                  "what remains when [you/I/we] divide {a} by {b}? | "
                  "what is left over [when/if/after] [you/I/we] [divide/dividing/split] {a} by "
                  "{b}? | "
                  "{a} divided by {b}[: remainder?/, what remains?/"
                  ". what is the rest?/ leaves what remainder?] | "
                  "divide {a} by {b} and [give/tell/say] the [remainder/rest] | "
                  "find the remainder of {a}/{b}"),
    Kind("{a}//{b}", 2, "rest",
         phrases="{a} divided by {b} without the remainder | {a} divided by {b} rounded down | "
                 "the whole part of {a} divided by {b} | the integer part of {a} divided by {b} | "
                 "{a} divided by {b}, whole number only",
         commands="how many full groups of {b} are in {a}? | "
                  "[put/pack/sort] {a} into groups of {b}. how many [full/whole/complete] groups? "
                  "| "
                  "{a} by {b}, [only the whole part/rounded down/without rest] "
                  "| "
                  "integer division of {a} by {b} | "
                  "how many [whole/full/complete] times does {b} [go/fit] into {a}? | "
                  "how many [whole/full/complete] {b}s [fit into/are in] {a}? | "
                  "divide {a} by {b}, [rounded down/ignore the remainder/drop the rest/"
                  "whole part only]"),
    # Decimals.
    Kind("{a}+{b}", 4, "decimal", ADD, ADD_C), Kind("{a}-{b}", 3, "decimal", SUB, SUB_C),
    Kind("{a}*{b}", 3, "decimal", MUL, MUL_C), Kind("{a}/{b}", 2, "decimal quotient", DIV, DIV_C),
    Kind("{a}*{b}", 1, "money", MUL, MUL_C),
    Kind("{a}+{b}+{c}", 1, "decimal", "the [sum/total] of {list}", "add {list} | {list}: total?"),
    # Which of them is the largest or the smallest.
    *[Kind(f"{name}({', '.join(letters)})", weight, "medium",
           phrases=f"the [{adjectives}] of {{list}} | the [{adjectives}] [number/one/value] of "
                   f"{{list}} | the [{adjectives}] of the numbers {{list}} | "
                   f"the {name} of {{list}}",
           commands=f"which [is/one is/number is/is the/of these is/one is the] [{adjectives}]"
                    f"[,/:/] {{list}}? | "
                    f"{{list}}[: which is/, which is/: which one is/. which is] [the/] "
                    f"[{adjectives}]? | "
                    f"[find/tell me/pick/give me/name/say/choose] the [{adjectives}][:/ of/"
                    f" number:/ number of/ one:] {{list}} | "
                    f"[what/which] is [the/] [{adjectives}] [/number] [of/among/out of/in] "
                    f"{{list}}? | [{adjectives}][:/ of:/ of these:/ number:] {{list}}")
      for name, adjectives in (
          ("max", "largest/larger/bigger/biggest/greater/greatest/highest/higher/maximum/more"),
          ("min", "smallest/smaller/least/lower/lowest/minimum/less"))
      for letters, weight in ((["{a}", "{b}"], 2), (["{a}", "{b}", "{c}"], 1),
                              (["{a}", "{b}", "{c}", "{d}"], 0.5))],
    *[Kind(f"{name}({first}, {second})", 0.5, "small",
           phrases=f"the [{adjectives}] of {said}",
           commands=f"which [is/one is/is the/makes] [{adjectives}][,/:/] {said}? | "
                    f"what is [{adjectives}][,/:/] {said}? | "
                    f"{said}[: which is/, which is/ - what is] [{adjectives}]?")
      for name, adjectives in (("max", "larger/bigger/more/greater/higher"),
                               ("min", "smaller/less/lower"))
      for first, second, said in (
          ("{a}*{b}", "{c}", "{a}*{b} or {c}"), ("{c}", "{a}*{b}", "{c} or {a} times {b}"),
          ("{a}*{b}", "{c}*{d}", "{a}*{b} or {c}*{d}"), ("{a}+{b}", "{c}", "{a}+{b} or {c}"),
          ("{a}*{b}", "{c}*{d}", "{a} times {b} or {c} times {d}"))],
    # Roots.
    Kind("{a}**0.5", 1.5, "root",
         phrases="the square root of {a} | the root of {a} | sqrt of {a} | √{a} | sqrt({a}) | "
                 "the positive root of {a}",
         commands="square root: {a} | {a}: square root? | take the square root of {a} | "
                  "which number [squared/times itself] [is/makes/gives] {a}? | root of {a}"),
    # Larger numbers.
    Kind("{a}+{b}", 2, "large", ADD, ADD_C), Kind("{a}-{b}", 2, "large", SUB, SUB_C),
]
# The share of the items that are claims.
CLAIMED = 0.1
# Of the questions with a phrase or in symbols, and of the commands.
COMMANDED = 0.22
SMALL_WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen"]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
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


def decimal(rng):
    """A number with one or two decimals, as a text: "3.5", "0.25"."""
    places = rng.choice([1, 1, 2])
    whole = number(rng, (50, 40, 10)) if rng.random() < 0.85 else 0
    last = rng.randrange(1, 10 ** places)
    return f"{whole}.{last:0{places}}".rstrip("0").rstrip(".") or "0.5"


def quotient(rng):
    """A dividend and a divisor; three quotients in four are whole numbers."""
    if rng.random() < 0.75:
        b = max(2, number(rng, (50, 50)))
        return b * rng.randrange(1, 9999 // b + 1), b
    b = rng.choice([2, 4, 5, 8, 10])
    return b * rng.randrange(1, 9999 // b) + rng.randrange(1, b), b


def draw_numbers(kind, rng):
    """Numbers for a kind of expressions, as texts: {"a": "37", "b": "48"}."""
    names = sorted(set(re.findall(r"\{(\w)\}", kind.code)))
    digits = {"tiny": (75, 25), "small": (40, 60), "medium": (20, 45, 35), "square": (35, 60, 5),
              "mean": (30, 55, 15), "mean2": (30, 55, 15), "cube": (70, 30),
              "rest": (0, 40, 40, 20), "percent": (5, 40, 40, 15),
              "large": (0, 0, 0, 30, 40, 30)}
    drawn = {name: number(rng, digits.get(kind.draw, (15, 35, 30, 20))) for name in names}
    if kind.draw in ("quotient", "decimal quotient"):
        a, b = quotient(rng)
        drawn |= {"a": a, "b": b}
        if kind.draw == "decimal quotient":
            drawn["a"] = f"{a / 10:.1f}" if a % 10 else a
    elif kind.draw in ("decimal", "money"):
        drawn = {name: decimal(rng) for name in names}
        if rng.random() < 0.3 or kind.draw == "money":
            drawn["b"] = number(rng, (60, 40))
        if kind.draw == "money":
            whole = number(rng, (50, 50))
            drawn["a"] = f"{whole}.{rng.choice(['50', '25', '99', '75', '20', '95'])}"
    elif kind.draw == "product":
        drawn["c"] = rng.randrange(2, 13)
        drawn["a"] = drawn["c"] * number(rng, (60, 40))
        drawn["b"] = number(rng, (60, 40))
    elif kind.draw == "root":
        drawn["a"] = number(rng, (40, 55, 5)) ** 2
    elif kind.draw == "power":
        drawn = {"a": rng.randrange(2, 13), "b": rng.randrange(2, 8)}
    elif kind.draw == "rest":
        drawn["b"] = rng.randrange(2, 30)
    elif kind.draw == "percent":
        drawn["p"] = rng.choice([1, 2, 3, 5, 5, 10, 10, 10, 12, 15, 15, 18, 20, 20, 20, 25, 25, 25,
                                 30, 30, 35, 40, 45, 50, 50, 60, 65, 70, 75, 75, 80, 90, 95, 8, 7])
        if rng.random() < 0.6:
            drawn["a"] = rng.choice([10, 20, 50, 100]) * number(rng, (60, 40))
    elif kind.draw == "mean2":
        drawn["c"] = rng.randrange(2, 13)
        drawn["b"] += -(drawn["a"] + drawn["b"]) % drawn["c"]
    elif kind.draw.startswith("by") and rng.random() < 0.85:
        n = int(kind.draw[2:])
        drawn["a"] = n * number(rng, (35, 50, 15))
    return {name: str(value) for name, value in drawn.items()}


def expression(rng):
    """Draw (kind, numbers): (Kind("{a}*{b}", ...), {"a": "37", "b": "48"})."""
    kind = rng.choices(KINDS, WEIGHTS)[0]
    while True:
        numbers = draw_numbers(kind, rng)
        # Averages and fractions are whole most of the time.
        output = result(kind.code, numbers)
        whole, _, decimals = output.partition(".")
        if len(decimals) <= 4 and len(whole) <= 8:
            return kind, numbers


WEIGHTS = [kind.weight for kind in KINDS]


def item_of(template, numbers):
    """The text that decides the split; it is the same for a+b and b+a."""
    if re.fullmatch(r"\{a\}(\+\{\w\})+|\{a\}(\*\{\w\})+", template):
        numbers = dict(zip(numbers, sorted(numbers.values(), key=float)))
    return template.format(**numbers)


def result(template, numbers):
    """What the tool prints for the expression: 37*48 -> "1776", 84/7 -> "12".

    A float has up to 12 significant digits and no needless .0, as run_python in talk/tool.py
    writes it.
    """
    # eval() sees nothing but a template from above and numbers.
    value = eval(template.format(**numbers))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)


# --------------------------------------------------------------------------------------------------
# Questions

def in_words(n, hyphen="-"):
    """A number up to 9,999 in words: 48 -> "forty-eight", 120 -> "one hundred and twenty"."""
    if n < 20:
        return SMALL_WORDS[n]
    if n < 100:
        return TENS[n // 10] + (f"{hyphen}{SMALL_WORDS[n % 10]}" if n % 10 else "")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    rest = n % size
    said = f"{in_words(n // size)} {name}"
    if rest:
        said += (" and " if rest < 100 else " ") + in_words(rest, hyphen)
    return said


def as_said(numbers, rng):
    """The numbers as a question says them: in words, with commas, or mostly as they are."""
    whole = [int(text) for text in numbers.values() if text.isdigit()]
    if len(whole) == len(numbers) and rng.random() < (0.25 if max(whole) < 100 else 0.1) and (
            max(whole) < 10_000):
        hyphen = rng.choice(["-", "-", " "])
        return {name: in_words(int(text), hyphen) for name, text in numbers.items()}
    if rng.random() < 0.25:
        return {name: f"{int(text):,}" if text.isdigit() else text
                for name, text in numbers.items()}
    return numbers


def listed(numbers, rng, lists=LISTS):
    """The numbers as a list: "3, 8, 12 and 5"."""
    between, before_last = rng.choice(lists)
    *first, last = numbers.values()
    return f"{between.join(first)}{before_last}{last}"


def symbols(template, rng):
    """The expression as people write it, with signs and spaces of their own."""
    text = template.replace("//", " div ") if rng.random() < 0.3 else template
    if "**" in text and rng.random() < 0.7:
        text = text.replace("**2", "²") if rng.random() < 0.3 else text.replace("**", "^")
    elif rng.random() < 0.45:
        text = re.sub(r"(?<!\*)\*(?!\*)", rng.choice(["×", "x", "·", "×", "x", "x"]), text)
    if "//" not in text and rng.random() < 0.3:
        text = text.replace("/", rng.choice(["÷", "÷", ":"]))
    if rng.random() < 0.08:
        text = text.replace("-", rng.choice(["−", "–"]))
    if rng.random() < 0.5:
        # A sign before its number stays with it.
        text = re.sub(r"(?<=[})²])(\*\*|//|[-+*/×x·÷:−–%^])", r" \1 ", text)
    return text


def said_expression(kind, rng):
    """The expression in words where the kind has some, else in symbols, with holes."""
    if kind.phrases and rng.random() < 0.6:
        # The question around it is the split's own.
        return spell_one(rng.choice(alternatives(kind.phrases)), rng)
    return symbols(kind.code, rng)


def wording_of(kind, grammar, split, rng):
    """A question of a grammar, with holes for the numbers alone and maybe {y} for a claimed value.

    The expression goes in last: no mark of its own gets lost.
    """
    while True:
        wording = dress(draw_sentence(grammar, split, rng), rng)
        if "{x}" in wording:
            said = said_expression(kind, rng)
            if wording.startswith("{x}") and rng.random() < 0.5:
                said = capital(said)
            wording = wording.replace("{x}", said)
        if may_train("arithmetic", wording):
            return wording


def question(kind, numbers, split, rng, claimed=None):
    """Ask for the expression: as a command, in words, or in symbols; or ask whether a claim holds.

    claimed: the value of the claim, else None.
    """
    commands = sentences(kind.commands, "arithmetic", split)
    if claimed is not None:
        wording = wording_of(kind, CLAIM, split, rng)
    elif commands and rng.random() < COMMANDED:
        wording = dressed("arithmetic", rng.choice(commands), rng)
    else:
        wording = wording_of(kind, ASK, split, rng)
    said = numbers
    # Among signs and in lists the numbers stay digits: no "seven*eight", and no "1,250,300".
    if not re.search(r"\}[^\s,.?!]|[^\s]\{|[-+*/^=×x·÷:−–%] \{|\{list", wording):
        said = as_said(numbers, rng)
    lists = CHOICES if kind.code.startswith("m") else LISTS
    return wording.format(**said, list=listed(said, rng, lists), y=claimed)


def solution(code, output):
    """The answer as parts, in the manner of GSM8K."""
    return [{"type": "text", "text": f"{code} = "},
            {"type": "python", "text": code},
            {"type": "python_output", "text": output},
            {"type": "text", "text": f"\n#### {output}"}]


def verdict(code, output, claimed):
    """The answer to a claim, as parts: what Python computes and compares, then Yes or No."""
    is_right = claimed == output
    text = "Yes." if is_right else f"No, it is {output}."
    return [*solution(code, output)[:-1],
            {"type": "text", "text": f", is that {claimed}? "},
            {"type": "python", "text": f"{output}=={claimed}"},
            {"type": "python_output", "text": str(is_right)},
            {"type": "text", "text": f"\n{text}"}]


def slip_of(output, rng):
    """A wrong value near the right one: a digit off, or off by a little."""
    if rng.random() < 0.5 or "." in output:
        return one_digit_off(output, rng)
    return str(int(output) + rng.choice([-10, -2, -1, 1, 2, 10]))


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

        Returns (code, numbers, kind, generator). Draws until the hash says that the expression
        belongs to the split.
        """
        rng = generator("Arithmetic", self.split, i)
        while True:
            kind, numbers = expression(rng)
            if split_of(item_of(kind.code, numbers)) == self.split:
                return kind.code, numbers, kind, rng

    def get(self, i):
        template, numbers, kind, rng = self.draw(i)
        code = template.format(**numbers)
        output = result(template, numbers)
        if rng.random() >= CLAIMED:
            return record(question(kind, numbers, self.split, rng), solution(code, output),
                          expression=code, answer=output)
        claimed = output if rng.random() < 0.5 else slip_of(output, rng)
        return record(question(kind, numbers, self.split, rng, claimed),
                      verdict(code, output, claimed),
                      expression=code, answer=output, claim=claimed == output)

    def grade(self, conversation, answer):
        """Whether the number after the last #### is the result, or the Yes or No about a claim."""
        if "claim" not in conversation:
            return same_final_number(answer, conversation["answer"])
        said = re.findall(r"\b(yes|no)\b", spoken_text(answer).lower())
        return said[:1] == ["yes" if conversation["claim"] else "no"]

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The kind says what is wrong with the rejected answer:
        in the head  does without the tool and states a wrong number, one digit off
        misread      computes another expression, with one digit changed
        miscopied    computes the right expression but states another number
        misjudged    computes what a claim is about, but says Yes for No or No for Yes
        no tool      states the right number, but does without the tool
        run-on       is right, but never stops
        evasive      states no number at all
        """
        chosen = self[i]
        code, answer = chosen["expression"], chosen["answer"]
        right = chosen["messages"][1]["content"]

        rng = generator("Arithmetic pair", self.split, i)
        kinds = ["in the head", "in the head", "misread", "miscopied", "no tool", "run-on",
                 "evasive"]
        if "claim" in chosen:
            kinds = ["misjudged", "misjudged", "run-on", "evasive"]
        kind = rng.choice(kinds)
        if kind == "in the head":
            wrong = one_digit_off(answer, rng)
            content = rng.choice([f"{code} = {wrong}\n#### {wrong}", f"#### {wrong}"])
        elif kind == "misread":
            content = self.misread(i, answer, rng)
        elif kind == "miscopied":
            last = {"type": "text", "text": f"\n#### {one_digit_off(answer, rng)}"}
            content = right[:-1] + [last]
        elif kind == "misjudged":
            wrong = f"No, it is {answer}." if chosen["claim"] else "Yes."
            content = right[:-1] + [{"type": "text", "text": f"\n{wrong}"}]
        elif kind == "no tool":
            content = f"{code} = {answer}\n#### {answer}"
        elif kind == "run-on":
            content = run_on_parts(right, rng)
        else:
            content = rng.choice(EVASIVE)
        return preference(chosen, content, kind)

    def misread(self, i, answer, rng):
        """The solution of expression i with one digit changed, and so with another result."""
        template, numbers, _, _ = self.draw(i % self.size)
        while True:
            name = rng.choice(list(numbers))
            changed = numbers | {name: one_digit_off(numbers[name], rng)}
            if result(template, changed) != answer:
                return solution(template.format(**changed), result(template, changed))


def one_digit_off(text, rng):
    """Change one digit: "1776" -> "1716". A leading digit never becomes 0."""
    at = rng.choice([k for k, c in enumerate(text) if c.isdigit()])
    leads = at == 0 or not text[at - 1].isdigit()
    digits = "123456789" if leads else "0123456789"
    other = rng.choice([d for d in digits if d != text[at]])
    return text[:at] + other + text[at + 1:]
