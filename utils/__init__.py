"""The small shared module: config, errors, files, run folder, device, arms, search."""
