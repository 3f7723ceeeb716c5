"""The data sources and tasks, one file each; text.py and conversations.py read files of your own."""
