"""Sources of text and conversations that every machine can make by itself, with no download."""
