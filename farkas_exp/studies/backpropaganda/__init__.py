"""Truth or backpropaganda? (Goldblum et al. 2020): its tables, with Farkas layers beside them."""
