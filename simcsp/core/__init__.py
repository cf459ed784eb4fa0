"""Configuration, errors, files, device, names of arms and the layout of a run folder."""
