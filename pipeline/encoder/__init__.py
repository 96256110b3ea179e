"""Hold the frozen encoder and its tokenizer: the only folder that imports torch or transformers."""
