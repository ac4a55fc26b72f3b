"""From a command line to trained runs: composing, checking, skipping what is done, and what starts the rest.

The runs of a sweep are trained one after the other, in processes of this machine (`local_parallel`) or in jobs of a
Slurm cluster (`slurm`).

Whatever becomes of a job is in its outcome file (`outcomes.record_outcome`), which exists from its submission on; so a
sweep's summary is whole even if a job is killed without a word.
"""
