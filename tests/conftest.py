from collections.abc import Iterator

import pytest
import torch

from farkas_exp.machine import signals


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs PyTorch on a GPU"))


@pytest.fixture(autouse=True)
def signals_are_given_back() -> Iterator[None]:
    """No test leaves stop signals handled: the next one that is stopped would be so from the start."""
    yield
    assert not signals._handles()
    assert signals.asked() is None
