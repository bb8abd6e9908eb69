"""Floor 2: making and scoring token sequences in bulk."""
