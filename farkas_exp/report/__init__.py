"""Tables, figures and tests of the paper's claims, from run directories only: neither torch nor W&B is needed."""
