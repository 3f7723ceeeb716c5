"""
UltraFeedback, binarized: 61,000 prompts, each with the best of four answers and one of the others.

Cui et al. 2024, arXiv:2310.01377.
"""
from data.published.source import PreferenceSource


class UltraFeedback(PreferenceSource):
    name = "ultrafeedback"
    files = {"pairs": "/train_prefs*", "test": "/test_prefs*"}
