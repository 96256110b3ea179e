"""The memory bank of notes, and their injection into input embeddings."""
