"""How do deep networks train without normalization? Every method at its own best learning rate."""
