"""Unigram: the most probable sequence of pieces (XLM-R, multilingual-e5, bge-m3, paraphrase-multilingual)."""
