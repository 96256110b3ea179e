"""Measure a plain model: masked-LM loss on fixed masks, LAMA probes, and paraphrases of facts.

Memory and injection are always off here.
"""
