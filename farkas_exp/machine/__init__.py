"""The machine below the experiments: processes, signals, files, locks."""
