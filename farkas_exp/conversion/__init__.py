"""Any network with Farkas layers in place of its own: `convert(model)`."""
