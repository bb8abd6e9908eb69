"""One exported file, run as the device would run it: token by token, with its own timings."""
