"""BPE tokenizers in the graph: over bytes (GPT-2, RoBERTa, ModernBERT, Qwen) and over characters (Gemma, Llama 2)."""
