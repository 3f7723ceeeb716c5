"""
UltraFeedback, binarized: 61,000 prompts, each with the best of four answers and one of the others.

Cui et al. 2024, arXiv:2310.01377.
"""
from data.formats import to_preference
from data.published.source import Source


class UltraFeedback(Source):
    """pair(i) is {"chosen": conversation, "rejected": conversation}; [i] is the chosen one."""
    name = "ultrafeedback"
    files = {"pairs": "/train_prefs*", "test": "/test_prefs*"}

    @staticmethod
    def to_record(row):
        return to_preference({"chosen": row["chosen"], "rejected": row["rejected"]})[1]

    def pair(self, i):
        return super().get(i)

    def get(self, i):
        return self.pair(i)["chosen"]
