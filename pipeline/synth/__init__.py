"""Make controlled corpora of a knowledge base: every sentence, link and fact of them is known."""
