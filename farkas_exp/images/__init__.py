"""Image files: listing them, decoding them, and processes that decode. Neither this nor a worker imports torch."""
