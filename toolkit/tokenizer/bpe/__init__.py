"""Byte-level BPE tokenizers (GPT-2, RoBERTa, ModernBERT, Qwen) in the graph."""
