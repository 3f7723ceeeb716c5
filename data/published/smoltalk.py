"""
SmolTalk (smol-smoltalk): 460,000 conversations for small models, and 24,000 to test.

Allal et al. 2025, arXiv:2502.02737.
"""
from data.formats import to_conversation
from data.published.source import Source


class SmolTalk(Source):
    """An optional system message, then user and assistant in turn; other rows are bad."""
    name = "smoltalk"
    files = {"train": "/train*", "test": "/test*"}

    @staticmethod
    def to_record(row):
        return to_conversation({"messages": row["messages"]})[1]
