"""Image files: listing folders of them, decoding them, and processes that decode. Imports no torch, nor does a worker."""
