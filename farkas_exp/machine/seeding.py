"""Seeds derived from names and numbers, one for each random stream of a run.

The same parts give the same seed on every machine, different parts give independent streams, and no stream depends on
how much another one has consumed.
"""

import hashlib
import json


def derive_seed(*parts: int | str) -> int:
    """The seed of the stream named by `parts`, in [0, 2**63): `derive_seed(seed, "train", epoch)`.

    Numbers and texts differ (`1` and `"1"`), and so do different divisions into parts.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
