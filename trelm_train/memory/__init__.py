"""Keep the memory bank of notes, and inject notes and triples into input embeddings."""
