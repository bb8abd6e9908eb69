"""Floor 3, beside the stages: what the report stage puts on its page and into `summary.json`."""
