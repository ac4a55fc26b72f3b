import functools
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from farkas_exp.machine import signals


@functools.cache
def has_gpu() -> bool:
    import torch  # seconds, for which nobody waits where nothing is collected: the process that leads the workers

    return torch.cuda.is_available()


def pytest_collectstart() -> None:
    if not has_gpu():
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported: its kernels run on the CPU


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if has_gpu():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs PyTorch on a GPU"))


def pytest_collection_finish() -> None:
    gc.freeze()  # half a million objects that stay: no later collection goes through them


@pytest.fixture(autouse=True)
def signals_are_given_back() -> Iterator[None]:
    """No test keeps the stop signals: a later one that is told to stop would leave all after it stopped."""
    yield
    assert not signals._process.taken_over
    assert not signals._handles()
    assert signals._process.asked is None


@pytest.fixture
def private_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test touches the user's own W&B settings, and the service ends with its test."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()
