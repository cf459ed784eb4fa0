"""Objectives, masking and views, one step, the pre-training stage, one fine-tuning fold."""
