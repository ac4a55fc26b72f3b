"""Files in the layout of MNIST."""

import struct

import torch


def write_idx(path, values):
    header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
    path.write_bytes(header + values.to(torch.uint8).numpy().tobytes())


def make_mnist(root, train=50, test=20):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", train), ("t10k", test)):
        write_idx(folder / f"{part}-images-idx3-ubyte", torch.randint(256, (count, 28, 28), generator=generator))
        write_idx(folder / f"{part}-labels-idx1-ubyte", torch.arange(count) % 10)
    return folder
