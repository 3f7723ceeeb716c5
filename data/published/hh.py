"""
Anthropic HH (helpful and harmless): 161,000 pairs of answers to train on and 8,500 to test.

Bai et al. 2022, arXiv:2204.05862.
"""
from data.formats import to_preference
from data.published.source import Source


class HH(Source):
    """pair(i) and [i] as in UltraFeedback.

    Pairs of transcripts that differ before the last answer are left out.
    """
    name = "hh"
    files = {"pairs": "/train*", "test": "/test*"}

    @staticmethod
    def to_record(row):
        return to_preference({"chosen": row["chosen"], "rejected": row["rejected"]})[1]

    def pair(self, i):
        return super().get(i)

    def get(self, i):
        return self.pair(i)["chosen"]
