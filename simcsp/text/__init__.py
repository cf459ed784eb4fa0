"""What a model reads: alphabet, FASTA, store, sampler, corpora, annotation, splice sites, k-mers."""
