"""
Anthropic HH (helpful and harmless): 161,000 pairs of answers to train on and 8,500 to test.

Bai et al. 2022, arXiv:2204.05862.
"""
from data.published.source import PreferenceSource


class HH(PreferenceSource):
    """Pairs of transcripts that differ before the last answer are left out."""
    name = "hh"
    files = {"pairs": "/train*", "test": "/test*"}
