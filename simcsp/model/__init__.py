"""The model: its tokenizer, checkpoints in and out, encoder and pooling, classifier, attention."""
