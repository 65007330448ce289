"""The compiled parts once more, in plain Python that is written to be read. Tests compare the two."""
