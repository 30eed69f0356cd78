"""The encoder graph: packed token ids -> packed hidden states, by plain TensorFlow ops.

One file per model family; packing and layers are shared. transformers has no TensorFlow models any more, and a graph
of our own can leave out all work on padding.
"""
