"""Where records are stored, and their repair."""
