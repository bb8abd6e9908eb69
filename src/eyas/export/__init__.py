"""A trained model as files that a device can run; each format is one function `export_FORMAT`."""
