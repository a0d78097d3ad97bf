"""A serving-engine comparison harness: which configuration is faster here, and does it still answer right?"""
