"""Data sets in memory. Each module here registers its own, and imports PyTorch only when it loads them."""
