"""What may change a training beside its loss: regularizers, adversarial training, dropout, rank projections."""
