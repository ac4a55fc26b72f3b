"""The benchmarks run, and compare what they say they compare."""

import json

import pytest
import torch

from benchmarks import decoding, many_runs
from benchmarks.__main__ import main
from benchmarks.literal import make_literal
from benchmarks.measure import kept_bytes, ratio
from farkas_exp.models.create import create_model
from farkas_exp.runs import DONE, FINISHED, survey


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_the_literal_network_is_the_same_function_with_the_same_gradients(normalization):
    torch.manual_seed(0)
    ours = create_model("farkasnet18", blocks=(2, 1), widths=(4, 6), aggregation="mean", normalization=normalization)
    torch.manual_seed(0)
    literal = make_literal(
        create_model("farkasnet18", blocks=(2, 1), widths=(4, 6), aggregation="mean", normalization=normalization)
    )
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    outputs = [model.double()(images) for model in (ours, literal)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    for output in outputs:
        output.pow(2).sum().backward()
    for mine, theirs in zip(ours.parameters(), literal.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-10)


def test_ratios_are_taken_round_by_round():
    assert ratio({"a": [2.0, 20.0, 2.0], "b": [1.0, 10.0, 2.0]}, "a", "b") == 2.0


def test_kept_memory_counts_each_storage_once():
    weight = torch.ones(10, requires_grad=True)
    assert kept_bytes(lambda: (weight * weight).sum()) == 40


@pytest.mark.slow
def test_the_quick_benchmark_writes_figures_and_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "--quick", "--out", str(tmp_path)])
    assert main() == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["machine"]["host"] in capsys.readouterr().out
    assert results["networks"][0]["networks"]["farkasnet"]["images_per_second"] > 0
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_the_decoding_benchmark_says_rates_and_cores(tmp_path, capsys):
    arguments = ["--images", "8", "--rounds", "1", "--workers", "1", "--rate", "2500"]
    assert decoding.main([*arguments, "--out", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    rates, gpu = found["images_per_second"], found["training_images_per_second"]
    assert set(rates) == {
        "128 px, whole image", "128 px, draft", "128 px, draft, copy of 160", "128 px, draft, 1 process",
        "224 px, whole image", "224 px, draft", "224 px, draft, copy of 320", "224 px, draft, 1 process",
        "288 px, whole image", "288 px, draft", "288 px, draft, 1 process",
    }  # fmt: skip
    assert min(rates.values()) > 0
    assert gpu["224"] == 2500
    assert gpu["128"] == pytest.approx(2500 * (224 / 128) ** 2, rel=0.05), "as many multiply-adds a second"
    needed = f"| 224 px, draft | {rates['224 px, draft']:,.0f} | {2500 / rates['224 px, draft']:.0f} (at 2,500/s) |"
    assert needed in capsys.readouterr().out


def test_the_runs_of_the_benchmark_of_many_runs_are_read_as_the_trainers_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["many_runs.py", "runs=20", f"folder={tmp_path}"])
    assert many_runs.main() == 0
    assert "8 finished runs" in capsys.readouterr().out
    found = survey(tmp_path / "many_runs")
    assert (len(found.records), found.unreadable) == (20, [])
    assert {len(record.metrics()) for record in found.records if record.state in DONE} == {200}
    assert {record.state for record in survey(tmp_path / "sweep").records} == {FINISHED}
