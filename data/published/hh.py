"""
Anthropic HH: pairs of answers, helpful and harmless, 161K and 8.5K for testing. Bai et al. 2022, arXiv:2204.05862.
"""
from data.formats import to_preference
from data.published.source import Source


class HH(Source):
    """pair(i) and [i] as in UltraFeedback. Transcripts whose sides part before the last answer are left out."""
    name = "hh"
    files = {"pairs": "/train*", "test": "/test*"}

    @staticmethod
    def to_record(row):
        return to_preference({"chosen": row["chosen"], "rejected": row["rejected"]})[1]

    def pair(self, i):
        return super().get(i)

    def get(self, i):
        return self.pair(i)["chosen"]
