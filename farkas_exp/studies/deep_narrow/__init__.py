"""Deep and narrow networks on two moons: the motivation of the paper, measured."""
