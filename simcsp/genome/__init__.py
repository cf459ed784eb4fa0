"""A trained classifier at work on a genome and on variants."""
