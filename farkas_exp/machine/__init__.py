"""The machine below the experiments: signals, files, locks."""
