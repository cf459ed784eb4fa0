"""Contrastive pre-training for splice sites, by topic."""
