"""Published data sets, one file for each; data/download.py fetches them."""
