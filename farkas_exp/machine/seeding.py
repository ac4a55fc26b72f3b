"""Every random stream of a run is a function of what it is for: a seed is derived from names and numbers.

Two streams with different parts are independent, the same parts give the same seed on every machine, and no stream
depends on how much another one has consumed.
"""

import hashlib
import json


def derive_seed(*parts: int | str) -> int:
    """The seed of the stream that `parts` name, in [0, 2**63): `derive_seed(seed, "train", epoch)`.

    Numbers and texts are told apart (`1` and `"1"` differ), and so are the borders between parts.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
