"""Floor 2: disk formats, models, training."""
