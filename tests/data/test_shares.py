"""What each of several processes gets of the data."""

import pytest
import torch

from farkas_exp.data import device
from farkas_exp.data.base import batch_share
from farkas_exp.data.base import test_share as share_of_test
from farkas_exp.machine.errors import UserError
from tests.numbered import made, same


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 30])
def test_every_test_image_is_in_exactly_one_share(world_size):
    for count in (0, 1, 2, 5, 23, 10_000):
        shares = [share_of_test(count, rank, world_size) for rank in range(world_size)]
        assert [index for share in shares for index in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("world_size", "start"), [(2, 0), (4, 3), (8, 1)])
def test_shares_of_batches_are_the_rows_of_the_whole_batches_bitwise(world_size, start):
    whole = list(made().train_batches(2, start))
    shares = [list(made(rank=rank, world_size=world_size).train_batches(2, start)) for rank in range(world_size)]
    assert same(whole, [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*shares, strict=True)])


@pytest.mark.parametrize("world_size", [2, 8])
def test_shares_of_the_test_set_are_the_test_set_also_where_some_are_empty(world_size, monkeypatch):
    monkeypatch.setattr(device, "TEST_BATCH_VALUES", 16 * 4)  # four images a batch
    ((images, labels),) = [tuple(map(torch.cat, zip(*made().test_batches(), strict=True)))]
    ours = [batch for rank in range(world_size) for batch in made(rank=rank, world_size=world_size).test_batches()]
    assert torch.equal(images, torch.cat([batch[0] for batch in ours]))
    assert torch.equal(labels, torch.cat([batch[1] for batch in ours]))
    assert list(made(rank=0, world_size=40, batch_size=40).test_batches()) == []


def test_a_batch_that_cannot_be_shared_is_refused():
    assert batch_share(12, 4) == 3
    for batch_size, world_size in ((40, 3), (2, 4)):
        with pytest.raises(UserError, match=f"batch_size: {batch_size} cannot be shared equally by {world_size}"):
            batch_share(batch_size, world_size)
