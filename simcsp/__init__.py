"""SimCSP by topic: what a model reads and is asked, the model, its training, its judgement, the report."""
