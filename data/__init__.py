"""What goes into training: readers of your own files, and the sources of text and conversations.

documents.py, conversations.py and formats.py read your own files; mixtures.py finds every source by
its name, and lazy.py joins them; check.py shows you your data, download.py fetches published data.
demo/ holds what every machine can make by itself, published/ one file for each public source.
"""
