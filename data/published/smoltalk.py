"""
SmolTalk (smol-smoltalk): 460K conversations for small models, 24K for testing. Allal et al. 2025, arXiv:2502.02737.
"""
from data.formats import to_conversation
from data.published.source import Source


class SmolTalk(Source):
    """An optional system message, then user and assistant in turn, at least one of each; other rows are bad."""
    name = "smoltalk"
    files = {"train": "/train*", "test": "/test*"}

    @staticmethod
    def to_record(row):
        return to_conversation({"messages": row["messages"]})[1]
