"""Separation constraints (Riera et al. 2019): its table and figures, with Farkas and residual arms."""
