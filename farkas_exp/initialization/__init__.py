"""Initializations. `catalogue` says what they need, without PyTorch; `initialize` applies one to a network."""
