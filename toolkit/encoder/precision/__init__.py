"""The linear products of an encoder, in one precision or another: one module for each way to compute them.

An encoder's ``hidden_states`` asks a ``Products`` object for each product and does not know how it is computed.
"""
