import pytest
import torch

from farkas_exp.config.schema import AugmentationConfig, DatasetConfig
from farkas_exp.data.base import Batching
from farkas_exp.data.build import build_data
from farkas_exp.machine.errors import UserError
from tests.mnist_files import make_mnist


def load(root, **options):
    dataset = DatasetConfig("mnist", root=str(root), download=False, **options)
    return build_data(dataset, AugmentationConfig(0, False, 0), Batching(10, 0))


def test_images_and_labels_are_those_of_the_files(tmp_path):
    make_mnist(tmp_path)
    data = load(tmp_path)
    assert (data.info.image_shape, data.info.train_size, data.info.test_size) == ((1, 28, 28), 50, 20)
    images, labels = next(iter(data.test_batches()))
    assert labels.tolist() == [i % 10 for i in range(20)]
    generator = torch.Generator().manual_seed(0)
    torch.randint(256, (50, 28, 28), generator=generator)
    expected = torch.randint(256, (20, 28, 28), generator=generator)
    assert torch.equal((images[:, 0] * 255).round().long(), expected)


def test_missing_and_damaged_files_are_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match=r"dataset.root: no mnist in .*; set dataset.root to the folder that holds"):
        load(tmp_path)
    folder = make_mnist(tmp_path)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0")
    with pytest.raises(UserError, match=r"the t10k files of mnist .* are missing or damaged"):
        load(tmp_path)
