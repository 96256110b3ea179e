"""BERT, RoBERTa and ModernBERT as the trainer runs them."""
