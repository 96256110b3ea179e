"""Measure a plain model: masked-LM loss on fixed masks, and LAMA probes.

Memory and injection are always off here.
"""
