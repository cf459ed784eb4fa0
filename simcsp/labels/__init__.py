"""What a model is asked: labelled windows, splits, motif sites, floors, overlap of text and evaluation."""
