"""The benchmark of a GPU: each of its parts runs, on a CPU with stand-ins for recordings, and none decays unseen."""

import contextlib
import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu, loops, networks
from farkas_exp.models.create import create_model
from farkas_exp.training import execution


class Recording:
    """A CUDA graph without one: it executes nothing."""

    def replay(self):
        pass


@pytest.fixture
def on_a_cpu(monkeypatch):
    """Everything of the smallest size, and no GPU."""
    if torch.cuda.is_available():
        pytest.skip("the benchmark itself can run")
    for name, value in {
        "GPU": torch.device("cpu"), "BATCH": 4, "STEPS": 1, "PRODUCT": 8, "COPIED": 8, "CHANNELS": ((3, 4),),
        "STEPS_OF_THE_TRAINER": 3,
    }.items():  # fmt: skip
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setitem(networks.Steps.__init__.__kwdefaults__, "image_size", 8)
    small = partial(create_model, blocks=(1, 1), widths=(8, 12))
    monkeypatch.setattr(networks, "create_model", small)
    monkeypatch.setattr(gpu, "create_model", small)
    parse, sizes = loops.parse, {"blocks": [1], "widths": [4]}
    monkeypatch.setattr(loops, "parse", lambda given: parse({**given, "model": {**given["model"], **sizes}}))
    monkeypatch.setattr(execution, "record_cuda_graph", lambda function: (function, function()))
    for name, value in {
        "Stream": lambda: None, "stream": contextlib.nullcontext, "synchronize": lambda: None,
        "CUDAGraph": Recording, "graph": contextlib.nullcontext,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    activities = SimpleNamespace(CUDA=torch.profiler.ProfilerActivity.CPU)
    monkeypatch.setattr(torch.profiler, "ProfilerActivity", activities)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other on a busy machine
    yield
    torch.set_num_threads(threads)


def figures(folder, *arguments):
    """What the benchmark writes."""
    out = folder / "gpu.json"
    assert gpu.main([*arguments, "--rounds", "1", "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_each_part_runs(on_a_cpu, tmp_path, monkeypatch):
    asked = []

    def answers(command, **options):
        asked.append(command)
        return SimpleNamespace(communicate=lambda: ("7.5\n", None))

    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(Popen=answers, PIPE=None))
    found = figures(tmp_path, "--processes", "2", "--depths", "34", "--precisions", "tf32", "bf16")
    (row,) = found["steps"]
    assert len(row["milliseconds"]) == 2 * (2 * 2 + 1)
    assert set(row["library_over_ours"]) == {f"{a} {b}" for a in ("resnet", "farkasnet") for b in ("tf32", "bf16")}
    assert row["macs"]["farkasnet"] > row["macs"]["resnet"] > 0
    assert set(found["ceilings"]) >= {"fp32_tflops", "copy_tb_s", "launch_us"}
    assert found["trainer"]["mode"] == "none"
    assert [row["wall_ms"] > 0 for row in found["kernels"]] == [True] * 4
    assert set(found["channels"][0]) == {"inputs", "outputs", "side", *gpu.PRECISIONS}
    assert len(found["layouts"]) == 8
    assert found["packing"] == [{"network": "farkasnet18", "processes": 2, "answered": 2, "steps_per_second": 15}]
    assert "--one-of" in asked[0]


def test_a_process_of_several_gives_its_rate(on_a_cpu, tmp_path, capsys):
    assert gpu.main(["--one-of", "1", str(tmp_path), "resnet18", "0.001"]) == 0
    assert float(capsys.readouterr().out) > 0


def test_the_steps_are_written_after_each_depth_and_in_the_modes_asked_for(on_a_cpu, tmp_path, monkeypatch):
    run_of_steps = gpu.RunOfSteps

    def fails_at_50(name, *arguments, **options):
        if name.endswith("50"):
            raise MemoryError("no room")
        return run_of_steps(name, *arguments, **options)

    monkeypatch.setattr(gpu, "RunOfSteps", fails_at_50)
    found = figures(tmp_path, "--only", "steps", "--depths", "34", "50", "--precisions", "bf16", "--modes", "graph")
    assert set(found) == {"machine", "batch", "steps_of_a_run", "steps"}
    row, error = found["steps"]
    assert set(row["milliseconds"]) == {"resnet graph bf16", "farkasnet graph bf16"}
    assert set(row["farkas_over_resnet"]) == {"graph bf16"}
    assert row["library_over_ours"] == {}
    assert error == "MemoryError: no room"


def test_an_unknown_part_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--only", "stpes"])
    assert "no part stpes; the parts are ceilings, steps, trainer" in capsys.readouterr().err
