"""Measure a plain model: masked-LM loss on fixed masks, LAMA probes, paraphrases of facts, and BEAR.

Memory and injection are always off here.
"""
