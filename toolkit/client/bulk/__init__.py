"""Bulk embedding: from files of texts to tables of vectors, through crashes of either side.

`embed_file` fills one file by one process; `embed_folder` a folder of parts, by the processes of a `Shard` each or by
the actors of a Ray cluster (`OnRay`).
"""

from toolkit.client.bulk.encoder import Encoder, Served
from toolkit.client.bulk.folder import FolderSummary, Progress, embed_folder
from toolkit.client.bulk.inputs import Inputs
from toolkit.client.bulk.on_ray import OnRay
from toolkit.client.bulk.places import Place
from toolkit.client.bulk.rows import Source
from toolkit.client.bulk.run import Summary, embed_file, stream
from toolkit.client.bulk.shards import Shard

__all__ = [
    "Encoder",
    "FolderSummary",
    "Inputs",
    "OnRay",
    "Place",
    "Progress",
    "Served",
    "Shard",
    "Source",
    "Summary",
    "embed_file",
    "embed_folder",
    "stream",
]
