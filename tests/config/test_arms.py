"""The arms of an experiment, from its file or the one that it builds on."""

import pytest

from farkas_exp.config import arms


@pytest.mark.parametrize("parent", ["base", "/experiment/base"])
def test_an_experiment_that_builds_on_another_has_its_arms(tmp_path, parent):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "base.yaml").write_text("arms: {he: [init.name=kaiming], plain: []}")
    (folder / "mine.yaml").write_text(f"defaults: [{parent}, _self_]\nepochs: 1")
    assert list(arms.arms_of("mine", [tmp_path])) == ["he", "plain"]
