"""Torch side of TRELM: turns shards into a knowledge-enhanced BERT or RoBERTa."""
