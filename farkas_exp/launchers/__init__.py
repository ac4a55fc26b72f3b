"""Where the runs of a sweep go: processes of this machine (`local_parallel`) or jobs of a Slurm cluster (`slurm`).

Whatever becomes of a job is in its outcome file (`sweep.record_outcome`), which exists from its submission on; so a
sweep's summary is whole even if a job is killed without a word.
"""
