"""Finished runs collected, compared, judged, drawn and written."""
