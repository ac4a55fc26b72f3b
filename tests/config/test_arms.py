"""The arms of an experiment, from its file or the one that it builds on."""

import pytest

from farkas_exp.config import arms
from farkas_exp.machine.errors import UserError


@pytest.mark.parametrize("parent", ["base", "/experiment/base"])
def test_an_experiment_that_builds_on_another_has_its_arms(tmp_path, parent):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "base.yaml").write_text("arms: {he: [init.name=kaiming], plain: []}")
    (folder / "mine.yaml").write_text(f"defaults: [{parent}, _self_]\nepochs: 1")
    assert list(arms.arms_of("mine", [tmp_path])) == ["he", "plain"]


@pytest.mark.parametrize(
    ("defaults", "said"),
    [("3", "expected a list, got 3"), ("[mine]", "mine is built on this experiment itself"), ("[other]", "")],
)
def test_a_defaults_list_that_is_none_or_leads_in_a_circle_is_named_and_hides_no_other(tmp_path, defaults, said):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "base.yaml").write_text("arms: {he: [init.name=kaiming]}")
    (folder / "mine.yaml").write_text(f"defaults: {defaults}")
    (folder / "other.yaml").write_text("defaults: [mine]")
    with pytest.raises(UserError, match=f"experiment/(mine|other).yaml: defaults: .*{said}$"):
        arms.arms_of("mine", [tmp_path])
    assert arms.with_arms([tmp_path]) == {"base": ["he"]}
