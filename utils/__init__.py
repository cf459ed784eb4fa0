"""What the scripts share. A module knows its own concern and nothing above it; nothing here parses flags or prints."""
