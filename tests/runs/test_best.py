"""Which setting of a search is the best one, and when there is none yet."""

from pathlib import Path
from typing import Any

import pytest

from farkas_exp.machine.errors import UserError
from farkas_exp.report import search
from farkas_exp.runs import RunDirectory, collect, write_json
from farkas_exp.runs.best import _size, best_value, main, overrides_text, rank
from tests.made_runs import make_run, settings


def searched(folder: Path, lr: float, *errors: float | None, validation: float = 0.1, **more: Any) -> list[Path]:
    """Runs of a rate, a seed for each error on held-out images; None for one that failed."""
    config = settings(lr__value=lr, dataset__validation=validation, epochs=3, **more)
    return [
        make_run(folder, config, seed=seed, state="failed" if error is None else "finished", test_error=error or 1.0)
        for seed, error in enumerate(errors)
    ]


def asked(folder: Path, lr: str = "${best:lr.value}", **more: Any) -> dict[str, Any]:
    return {**settings(lr__value=lr, epochs=3, **more), "runs_dir": str(folder), "seed": 7}


def test_settings_rank_by_their_mean_and_a_failed_run_counts_as_chance(tmp_path):
    searched(tmp_path, 0.1, 10.0, 14.0)
    searched(tmp_path, 0.01, 5.0, None)
    searched(tmp_path, 0.001, 13.0)
    searched(tmp_path, 0.5, 1.0, validation=0.0)  # it has seen the test set
    make_run(tmp_path, settings(lr__value=0.7, dataset__validation=0.1, epochs=3), state="interrupted", test_error=1.0)
    ranked = rank(collect(tmp_path))
    assert [each.values for each in ranked] == [{"lr.value": 0.1}, {"lr.value": 0.001}, {"lr.value": 0.01}]
    assert [(each.mean, each.n, each.failed) for each in ranked] == [(12.0, 2, 0), (13.0, 1, 0), (47.5, 2, 1)]
    assert ranked[0].sd == pytest.approx(8**0.5)
    assert ranked[1].sd is None
    assert overrides_text(ranked[0]) == "lr.value=0.1"


def test_a_search_on_two_data_sets_is_two_settings(tmp_path):
    for number, path in enumerate(searched(tmp_path, 0.1, 10.0, 20.0)):
        write_json(RunDirectory(path).environment, {"data": {"fingerprint": f"data {number}"}})
    assert [(each.mean, each.n) for each in rank(collect(tmp_path))] == [(10.0, 1), (20.0, 1)]
    with pytest.raises(UserError, match=r"^lr\.value: the runs of its search are on different data"):
        best_value("lr.value", asked(tmp_path))


def test_another_part_held_out_is_no_other_data(tmp_path):
    for rate, error, validation in ((0.1, 10.0, 0.1), (0.2, 9.0, 0.2)):
        for path in searched(tmp_path, rate, error, validation=validation):
            write_json(RunDirectory(path).environment, {"data": {"fingerprint": f"but for {validation}"}})
    assert best_value("lr.value", asked(tmp_path)) == 0.2


def test_the_best_value_is_that_of_the_same_setting_and_of_equal_ones_the_smaller(tmp_path):
    searched(tmp_path, 0.1, 10.0, 14.0)
    searched(tmp_path, 0.01, 12.0, 12.0)
    searched(tmp_path, 0.5, 12.1, 12.1)
    searched(tmp_path, 0.9, 1.0, model="farkasnet18")
    assert best_value("lr.value", asked(tmp_path)) == 0.01
    assert best_value("lr.value", asked(tmp_path, model="farkasnet18")) == 0.9
    searched(tmp_path, 0.7, 11.0, 11.0, validation=0.2)  # another part held out is the same question
    assert best_value("lr.value", asked(tmp_path)) == 0.7
    with pytest.raises(UserError, match=r"^lr\.value: its search has no run of this setting"):
        best_value("lr.value", asked(tmp_path, batch_size=7))


def test_a_setting_without_effect_hides_no_part_of_a_search(tmp_path):
    searched(tmp_path, 0.1, 10.0, aggregation__name="mean")
    searched(tmp_path, 0.2, 9.0)
    assert best_value("lr.value", asked(tmp_path, model="resnet18", aggregation__margin=0.5)) == 0.2
    searched(tmp_path, 0.3, 8.0, aggregation__name="mean")
    assert best_value("lr.value", asked(tmp_path)) == 0.3
    searched(tmp_path, 0.4, 7.0, model="farkasnet18", aggregation__name="mean")
    with pytest.raises(UserError, match="has no run of this setting"):
        best_value("lr.value", asked(tmp_path, model="farkasnet18"))


def test_several_keys_are_free_together(tmp_path):
    searched(tmp_path, 0.1, 10.0, optimizer__momentum=0.5)
    searched(tmp_path, 0.2, 9.0, optimizer__momentum=0.8)
    config = asked(tmp_path, optimizer__momentum="${best:optimizer.momentum}")
    assert [best_value(key, config) for key in ("lr.value", "optimizer.momentum")] == [0.2, 0.8]
    with pytest.raises(UserError, match="has no run of this setting"):
        best_value("lr.value", asked(tmp_path, optimizer__momentum=0.9))


def test_names_are_compared_as_texts_after_numbers(tmp_path):
    names = ["softplus", "relu", "selu", "leaky_relu", "elu"]
    for name in names:
        searched(tmp_path, 0.1, 10.0, activation__name=name)
    asks = asked(tmp_path, lr=0.1, activation__name="${best:activation.name}")
    assert best_value("activation.name", asks) == min(names)
    assert min(["x", 10, None, 9.5], key=_size) == 9.5


def test_part_of_a_search_chooses_nothing(tmp_path):
    searched(tmp_path, 0.1, 10.0)
    make_run(tmp_path, settings(lr__value=0.2, dataset__validation=0.1, epochs=3), state="interrupted")
    with pytest.raises(UserError, match=r"^lr\.value: .* of its search is interrupted; finish the search first"):
        best_value("lr.value", asked(tmp_path))
    (broken,) = searched(tmp_path / "other", 0.1, 10.0)
    (broken / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"^lr\.value: .* may belong to its search; restore it"):
        best_value("lr.value", asked(tmp_path / "other"))


@pytest.mark.parametrize("key", ["lr.vlaue", "lr", "seed", "", "lr.value,lr.value"])
def test_a_key_that_no_search_can_choose_is_refused(tmp_path, key):
    """It had the value null, which switches most options off."""
    searched(tmp_path, 0.1, 10.0)
    with pytest.raises(UserError, match=rf"^\$\{{best:{key}}}: unknown '{key}'.* lr\.value,"):
        best_value(key, asked(tmp_path))


def test_a_lucky_seed_of_few_is_no_best_value(tmp_path, capsys):
    searched(tmp_path, 0.1, 10.0, 14.0, 12.0)
    searched(tmp_path, 0.2, 11.0, 13.0)
    searched(tmp_path, 0.3, 9.0)
    unequal = (
        "2 of 3 settings lack seeds that others have (lr.value=0.3 lacks seed=1,2),"
        " and a mean over fewer seeds may be luck; the search's command with seed=0,1,2 trains what is lacking and"
        " skips the rest"
    )
    with pytest.raises(UserError) as error:
        best_value("lr.value", asked(tmp_path))
    assert str(error.value) == f"lr.value: of its search {unequal}; give it first, or give a value here: lr.value=VALUE"
    assert main([f"runs_dir={tmp_path}", "top=2"]) == 0
    assert f"\nNot settled: {unequal}.\n" in capsys.readouterr().out
    (table,) = search.report(collect(tmp_path)).tables
    assert table.notes[-1] == f"Not settled: {unequal}."
    for path in (*searched(tmp_path, 0.2, 11.0, 13.0, None), *searched(tmp_path, 0.3, 9.0, 20.0, 20.0)):
        assert path.is_dir()
    assert best_value("lr.value", asked(tmp_path)) == 0.1
    assert main([f"runs_dir={tmp_path}"]) == 0
    assert "Not settled" not in capsys.readouterr().out


def test_the_command_lists_the_best_and_how_to_go_on(tmp_path, capsys):
    searched(tmp_path, 0.1, 10.0, 14.0)
    searched(tmp_path, 0.01, 5.0, None)
    assert main([f"runs_dir={tmp_path}", "top=1"]) == 0
    first, best, more, last = capsys.readouterr().out.splitlines()
    assert "held-out" in first
    assert best.split() == ["1.", "12.00", "%", "±", "2.83", "(n", "=", "2)", "lr.value=0.1"]
    assert "1 more; top=2" in more
    assert last.endswith("add lr.value=0.1 dataset.validation=0")
    assert main([f"runs_dir={tmp_path}", "lr=0.01"]) == 0
    assert "(n = 2, 1 failed to train)  (the only setting)" in capsys.readouterr().out
    (tmp_path / "torn" / "seed_0").mkdir(parents=True)
    (tmp_path / "torn" / "seed_0" / "run.json").write_text("{")
    for lr in (1.0, 2.0, 3.0, 4.0):
        searched(tmp_path, lr, 30.0 + lr)
    assert main([f"runs_dir={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "... 1 more; top=6" in lines[6], "five unless asked"
    assert f"{tmp_path}/torn/seed_0" in lines[-1]
    for mistake in ("top=0", "top=x", "lr=7"):
        assert main([f"runs_dir={tmp_path}", mistake]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("errors", "wanted"),
    [
        ({0.01: 3.0, 0.03: 5.0, 0.1: 9.0}, 0.003),
        ({0.01: 9.0, 0.03: 5.0, 0.1: 3.0}, 0.3),
        ({0.01: 9.0, 0.03: 3.0, 0.1: 5.0}, 0.03),  # in the middle: nothing is left to search
        ({0.01: 9.0, 0.1: 3.0}, 1.0),
        ({0.025: 3.0, 0.05: 5.0, 0.1: 9.0}, 0.0125),
        ({0.1: 3.0}, 0.1),
    ],
)
def test_beyond_an_end_of_the_searched_values_lies_the_next_one(tmp_path, errors, wanted):
    for rate, error in errors.items():
        searched(tmp_path, rate, error)
    assert best_value("lr.value", asked(tmp_path, "${beyond:lr.value}"), beyond=True) == wanted
    assert best_value("lr.value", asked(tmp_path)) == min(errors, key=errors.__getitem__)


@pytest.mark.parametrize(
    ("seeds", "wanted"),
    [
        ({0.003: 1, 0.01: 3, 0.03: 3, 0.1: 3}, 0.003),
        ({0.01: 3, 0.03: 3, 0.1: 3, 0.3: 2, 1.0: 1}, 0.3),  # next to those with all seeds: 1.0 comes after it
        ({0.01: 3, 0.03: 1, 0.1: 3}, None),  # no end: a hole in the search
        ({0.01: 3, 0.03: 3, 0.1: 3}, 0.03),
    ],
)
def test_beyond_first_trains_the_seeds_that_a_value_at_an_end_lacks(tmp_path, seeds, wanted):
    """As after a search of one seed, its extension, and then further seeds of the search."""
    for rate, count in seeds.items():
        searched(tmp_path, rate, *[5.0 if rate == 0.03 else 9.0] * count)
    asks = asked(tmp_path, "${beyond:lr.value}")
    if wanted is None:
        with pytest.raises(UserError, match=r"with lr\.value=0\.03 and seed=0,1,2 trains what is lacking"):
            best_value("lr.value", asks, beyond=True)
    else:
        assert best_value("lr.value", asks, beyond=True) == wanted


def test_of_two_keys_searched_together_none_is_extended_by_the_seeds_of_a_value(tmp_path):
    for rate, momentum, count in ((0.1, 0.9, 3), (0.3, 0.9, 3), (0.3, 0.5, 1)):
        searched(tmp_path, rate, *[5.0 + rate] * count, optimizer__momentum=momentum)
    asks = asked(tmp_path, "${beyond:lr.value}", optimizer__momentum="${best:optimizer.momentum}")
    with pytest.raises(UserError, match="settings lack seeds that others have"):
        best_value("lr.value", asks, beyond=True)


def test_the_way_on_names_choices_and_one_share_of_held_out_images(tmp_path, capsys):
    searched(tmp_path, 0.1, 10.0, optimizer__name="adam", validation=0.2)
    searched(tmp_path, 0.1, 20.0, optimizer__name="sgd")
    assert main([f"runs_dir={tmp_path}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(": add optimizer=adam dataset.validation=0")
