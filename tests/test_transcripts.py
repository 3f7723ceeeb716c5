"""data/transcripts.py: strings that hold a whole conversation, and strings that only look so."""
import pytest

from data.transcripts import is_transcript, read_transcript

S = {"role": "system", "content": "Be kind"}
U = {"role": "user", "content": "Hi"}
A = {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize("text, messages", [
    ("\n\nHuman: Hi\n\nAssistant: Hello", [U, A]),
    ("\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Hi\n\nAssistant:", [U, A, U]),
    ("### Human: Hi### Assistant: Hello", [U, A]),
    ("### Human: Hi\n### Assistant: Hello\n### Human: Hi\n### Assistant: Hello", [U, A, U, A]),
    ("Be kind\n\n### Instruction:\nHi\n\n### Response:\nHello", [S, U, A]),
    ("USER: Hi\n\n\nASSISTANT: Hello <|endoftext|>\n\n\nUSER: Hi", [U, A, U]),
    ("Human: Hi\nAssistant: Hello", [U, A]),
    ("<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
     "<|im_start|>assistant\nHello<|im_end|>\n", [S, U, A]),
    ("<s>[INST] <<SYS>>\nBe kind\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Hi [/INST]",
     [S, U, A, U]),
    ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>", [U, A]),
    ("<|system|>\nBe kind</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello</s>", [S, U, A]),
    ("<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>", [U, A]),
])
def test_transcripts(text, messages):
    assert is_transcript(text)
    assert read_transcript(text) == messages


@pytest.mark.parametrize("text", [
    "", "Hi", "A story.\n\nHuman: Hi\n\nAssistant: Hello", "### Human: Hi", "User: Hi",
    "# Heading\n### Response\ntext", "He said: Human: no", None, ["Hi"],
])
def test_other_strings_are_none(text):
    assert not is_transcript(text)
    if isinstance(text, str):
        with pytest.raises(ValueError, match="no transcript"):
            read_transcript(text)
