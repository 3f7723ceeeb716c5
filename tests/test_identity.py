"""data/demo/identity.py and wordings.toml: intents, their wordings and paraphrases, and facts."""
import re

import pytest

from data.demo import identity
from data.demo.identity import Identity

SPLITS = ["train", "pairs", "prompts", "test"]


def test_every_intent_is_in_every_split_and_its_answers_state_its_facts():
    for split in SPLITS:
        lacking = set(identity.INTENTS) - {intent for _, intent in identity.wordings(split)}
        # Some kinds of requests that it cannot do have too few wordings for the small splits.
        assert all(identity.INTENTS[intent]["group"] == "refuse" for intent in lacking)
    asked = {(identity.plain(wording), intent)
             for split in SPLITS for wording, intent in identity.wordings(split)}
    # No wording belongs to two intents.
    assert len({wording for wording, _ in asked}) == len(asked)
    # With 150 questions an accuracy is measured to 5 points more or less.
    for group, least in {"identity": 150, "small talk": 60, "unknown": 60}.items():
        assert len(identity.wordings("test", group)) >= least
    for intent, about in identity.INTENTS.items():
        group, answers = about["group"], about["answers"]
        wrong = identity.EVASIVE + identity.INVENTED[group]
        assert group in ("identity", "small talk", "unknown", "refuse") and len(answers) >= 2
        assert all(identity.states_facts(intent, answer) for answer in answers)
        assert not any(identity.states_facts(intent, answer) for answer in wrong)


def test_no_split_asks_in_a_wording_of_another():
    """Not by way of the paraphrases either, nor by a prefix that turns one wording into another."""
    split_of = {identity.plain(wording): split
                for split in SPLITS for wording, _ in identity.wordings(split)}
    for split, n in {"train": 10_000, "pairs": 2000, "prompts": 2000}.items():
        asked = {identity.plain(message["content"])
                 for conversation in Identity(split, n)
                 for message in conversation["messages"][::2]}
        assert {split_of.get(wording, split) for wording in asked} == {split}
        assert len(asked) > n / 3


def paraphrases(intent, *splits):
    return [wording for split in splits for some in identity.paraphrases(intent, split)
            for wording in some]


def test_paraphrases():
    owner = {identity.plain(wording): (intent, split)
             for split in SPLITS for wording, intent in identity.wordings(split)}
    for intent in identity.INTENTS:
        for split in SPLITS:
            if identity.INTENTS[intent]["group"] == "refuse":
                continue
            found = paraphrases(intent, split)
            assert len(found) >= (100 if split == "train" else 5)
            for wording in found:
                # It belongs to one intent and one split.
                key = identity.plain(wording)
                assert owner.setdefault(key, (intent, split)) == (intent, split), wording
                assert wording[0].isupper()
                assert not set(wording) & set("[]{}/|\n") and "  " not in wording
    assert {"Thanks", "Great job, thanks",
            "I am grateful."} <= set(paraphrases("thanks", *SPLITS))
    assert {"I wonder what your name is.",
            "Tell me about your full name."} <= set(paraphrases("name", *SPLITS))


def test_groups_turns_and_facts():
    assert {c["group"] for c in Identity("test", group="unknown")} == {"unknown"}
    with pytest.raises(ValueError, match="no wordings in group 'none'"):
        Identity("test", group="none")
    turns = [len(c["messages"]) // 2 for c in Identity("train", 2000)]
    assert 0.15 < sum(n > 1 for n in turns) / 2000 < 0.35 and max(turns) == 3
    assert identity.states_facts("who", [{"type": "text", "text": "I'm Tok2Chat."}])
    assert identity.states_facts("weather", "I do not know. I can\u2019t see it.")
    assert not identity.states_facts("who", "I am tok2chatter")
    assert not identity.states_facts("not other", "I am tok2chat.")


def test_requests_that_it_refuses_are_whole_and_ask_for_no_skill():
    grammars, fill = identity.REFUSE["grammars"], identity.REFUSE["fill"]
    names = {name for grammar in grammars.values() for name in re.findall("<(.*?)>", grammar)}
    assert {name.removeprefix("options ") for name in names} == set(fill)
    for words in fill.values():
        words = words.split("/")
        assert len(words) == len(set(words)) and all(word.strip() == word != "" for word in words)
    for name, grammar in grammars.items():
        for line in identity.listed(grammar):
            assert re.fullmatch(r"([^\[\]]*\[[^\[\]]*\])*[^\[\]]*", line), (name, line)
        for wording in identity.refusals(grammar):
            if name.startswith("options"):
                # What comes behind the question are the options.
                wording, *options = wording.removesuffix("\n").split("\n")
                assert options or re.search(r"\bA\b.* \(?B\b", wording), (name, wording)
            assert not set(wording) & set("<>[]|{}\n") and "  " not in wording
            asks = r"\b(spell\w*|letters|backwards?|vowels?|how many [a-z]'?s)\b(?! to )"
            assert not re.search(asks, wording.lower()), (name, wording)
            assert not re.search(r"\d *[-+*] *\d", wording), (name, wording)


def test_questions_of_fact_with_options_are_declined():
    """Python can't compute which city is a capital, so a letter would be a guess."""
    names = [name for name in identity.INTENTS if name.startswith("refuse options")]
    assert len(names) >= 8
    formats = set()
    for name in names:
        for wording in identity.refusals(identity.INTENTS[name]["grammar"]):
            marks = re.findall(r"(?:^|[\s(=])([A-E])(?=[).: \n]|$)", wording)
            # Two to five options, in MMLU's format or as people list them.
            assert len(re.findall("=[A-E]\n", wording)) in (0, 2, 3, 4, 5), wording
            assert {"A", "B"} <= set(marks), wording
            formats.add("=A\n" in wording)
        assert all(identity.states_facts(name, answer)
                   for answer in identity.INTENTS[name]["answers"])
        assert not identity.states_facts(name, "B")
    assert formats == {True, False}


def test_a_wording_in_short_forms():
    assert identity.shorten("What are you?") == "wat r u?"
    assert identity.shorten("I'm yours, don't you know what's what?") == (
        "im yours, dont u kno whats wat?")
    asked = [c["messages"][-2]["content"] for c in Identity("train", 1500)]
    assert sum(bool(re.search(r"\bu\b", wording)) for wording in asked) > 20
