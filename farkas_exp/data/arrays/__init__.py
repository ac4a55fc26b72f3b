"""Data sets that are loaded into memory as a whole: each module registers its own, and is found by being here.

A module imports PyTorch where it loads, so that what is registered can be known without.
"""
