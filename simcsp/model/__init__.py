"""Checkpoints in and out, encoder and pooling, classifier, attention, tokenizer."""
