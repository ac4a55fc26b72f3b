"""From a command line to trained runs: compose, check, skip what is done, and start the rest.

A sweep trains its runs one after the other, in processes of this machine (`local_parallel`) or in jobs of a Slurm
cluster (`slurm`). Each job leaves its outcome in a file that exists from the start (`outcomes.record_outcome`), so the
summary of a sweep is complete even if a job is killed.
"""
