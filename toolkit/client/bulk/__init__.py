"""Bulk embedding: from a file of texts to a table of vectors, through crashes of either side."""

from toolkit.client.bulk.rows import Source
from toolkit.client.bulk.run import Summary, embed_file, stream

__all__ = ["Source", "Summary", "embed_file", "stream"]
