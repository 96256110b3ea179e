"""Pure functions: no Beam, no spaCy, no input or output."""
