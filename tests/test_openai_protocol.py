"""openai_protocol.py: where stop strings cut a stream; test_server.py tests the rest over HTTP."""
import pytest

from talk.openai_protocol import Choice
from toy_chat import byte_tokenizer


@pytest.mark.parametrize("pieces", [["a", "b", "STOP", "c"], ["abST", "OPc"],
                                    ["ab", "S", "T", "O", "P", "c"], ["abSTOP"]])
def test_stop_strings_in_pieces(pieces):
    tok = byte_tokenizer()
    choice = Choice(tok, ["STOP"])
    said = ""
    for piece in pieces:
        said += "".join(text for _, text in choice.feed(tok.encode(piece), ""))
    assert said == "ab" and choice.finish == "stop"


def test_held_back_text_comes_at_the_end():
    tok = byte_tokenizer()
    choice = Choice(tok, ["STOP"])
    assert choice.feed(tok.encode("abSTO"), "") == [("text", "a"), ("text", "b")]
    assert choice.feed([], "length") == [("text", "STO")] and choice.finish == "length"
