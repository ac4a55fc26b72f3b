"""What may be done to a training beside its loss: regularizers, adversarial training, dropout, rank projections."""
