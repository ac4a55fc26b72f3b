"""Tables, figures and tests of claims, from run directories alone, without torch or W&B."""
