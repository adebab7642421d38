"""The entries of the vocabulary, grouped by what they look at or do."""
