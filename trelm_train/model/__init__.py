"""Run BERT, RoBERTa and ModernBERT as the trainer needs them."""
