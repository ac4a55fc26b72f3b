"""A package from outside registers things with options of their own: they are seen by everything that sees options."""

import json
from pathlib import Path

import pytest

from farkas_exp.config import parse, schema_defaults, to_dict
from farkas_exp.config.help import help_text
from farkas_exp.config.identity import identify
from farkas_exp.config.texts import keep_texts
from farkas_exp.launch.cli import main
from farkas_exp.machine.errors import UserError
from farkas_exp.models.create import create_model
from farkas_exp.registry import load_plugins
from farkas_exp.report import command as report
from farkas_exp.report.environments import environment_note
from farkas_exp.runs import RunDirectory, collect, read_starts
from tests.paths import ROOT
from tests.plugin_commands import SMALL, command, forked, python, run


@pytest.mark.parametrize("installed", [True, False])
def test_a_run_with_everything_from_another_package(tmp_path: Path, installed: bool) -> None:
    shiny = ["dataset=gems", "model=shiny_net", "model.width=8", "normalization=shiny", "init=shiny_start"]
    where = [f"runs_dir={tmp_path / 'runs'}", *(["plugins=[farkas_shiny]"] * (not installed))]
    sweep = ["-m", "model.facets=4,2", "seed=0"]
    given = [*SMALL, *shiny, *sweep, "dataset.carats=4", "normalization.polish=1.5", *where]
    place = {"folder": tmp_path, "installed": "farkas_shiny" if installed else None}
    status, said = run(*given, **place)
    assert status == 0, said
    assert "warning" not in said
    records = collect(tmp_path / "runs")
    assert {(r.config["model"]["facets"], r.config["normalization"]["polish"]) for r in records} == {
        (4, 1.5), (2, 1.5),
    }  # fmt: skip
    assert len({record.identity for record in records}) == 2
    assert {record.config["init"]["glow"] for record in records} == {0.1}
    assert {(record.config["dataset"]["name"], record.config["dataset"]["carats"]) for record in records} == {
        ("gems", 4)
    }
    assert "2 skipped" in run(*given, **place)[1]

    others = ["init.glow=0.3", "normalization.polish=1", "dataset.carats=5"]
    status, said = run(*SMALL, *shiny, *sweep, *others, *where, **place)
    assert status == 0, said
    assert len({record.identity for record in collect(tmp_path / "runs")}) == 4  # of the two numbers of facets, too
    status, said = forked(lambda: report.main([f"runs_dir={tmp_path / 'runs'}", "format=md"]), **place)
    assert status == 0, said
    table = (tmp_path / "runs" / "report" / "arms.md").read_text()
    for seen in ("shiny", "model.facets 2", "init.glow 0.3", "normalization.polish 1.5", "dataset.carats 5"):
        assert seen in table.replace("\\", ""), table


def test_a_run_says_which_code_of_another_package_it_was_trained_with(tmp_path: Path) -> None:
    package = tmp_path / "site" / "dull.py"
    package.parent.mkdir()
    package.write_text(
        "from farkas_exp.registry import NORMALIZATIONS\n"
        "NORMALIZATIONS.register('dull', lambda *_: __import__('torch').nn.Identity())\n"
    )
    given = [*SMALL, "dataset=digits", "model=mlp", "model.depth=1", "model.width=4", f"runs_dir={tmp_path / 'runs'}"]
    dull = [*given, "normalization=dull", "plugins=[dull]"]
    assert run(*dull, folder=tmp_path)[0] == 0
    assert "other code" not in run(*dull, folder=tmp_path)[1]
    package.write_text(package.read_text() + "# mended\n")
    status, said = run(*dull, folder=tmp_path)
    assert status == 0
    assert "done before: test error" in said
    assert "trained with other code of dull" in said
    assert run(*dull, "seed=1", folder=tmp_path)[0] == 0
    assert run(*given, folder=tmp_path)[0] == 0  # without it
    starts = [read_starts(RunDirectory(record.path)) for record in collect(tmp_path / "runs")]
    assert sorted(len(start["plugins"]) for (start,) in starts) == [0, 1, 1]
    assert "Mixed within: mlp, dull" in environment_note(collect(tmp_path / "runs"))


def what_is_seen() -> None:
    """Print what the package changes."""
    base = {"model": {"name": "resnet18"}, "lr": {"value": 0.01}, "dataset": {"name": "digits"}}
    before = identify(parse(base)).hash
    load_plugins(["farkas_shiny"])

    def made(**groups):
        return parse({**base, **groups})

    def refusal(**groups):
        with pytest.raises(UserError) as raised:
            made(**groups)
        return str(raised.value)

    shiny = {"name": "shiny", "polish": 1}
    unmoved = before == identify(made()).hash == identify(made(normalization={"name": "none", "polish": 0.5})).hash
    print(json.dumps({
        "unmoved": unmoved,
        "hashes": [identify(made(normalization=n)).hash for n in ({"name": "shiny"}, shiny, {**shiny, "coats": 2})],
        "default": made(normalization={**shiny, "polish": 0.5}) == made(normalization={"name": "shiny"}),
        "round": parse(to_dict(made(normalization=shiny))) == made(normalization=shiny),
        "equal": made(normalization=shiny) == made(normalization={**shiny, "polish": 2}),
        "hashable": len({made(normalization=shiny), made(normalization=shiny)}),
        "text": keep_texts(["normalization.finish=1e3", "normalization.polish=1e3"]),
        "defaults": schema_defaults()["normalization"]["polish"],
        "without": refusal(normalization={"name": "batch", "polish": 1.0}),
        "groups": refusal(normalization={"name": "shiny", "groups": 4}),
        "range": refusal(normalization={"name": "shiny", "polish": 3}),
        "type": refusal(normalization={"name": "shiny", "coats": 1.5}),
        "typo": refusal(normalization={"name": "shiny", "polsh": 1}),
        "name": refusal(model={"name": "resnet18", "facets": 2}),
        "help": help_text(ROOT / "conf"),
        "built": [len(create_model("shiny_net", facets=3)[1]), len(create_model({"name": "shiny_net"})[1])],
    }))  # fmt: skip


def test_identity_checks_and_help_see_the_options_of_another_package(tmp_path: Path) -> None:
    status, said = forked(what_is_seen, tmp_path)
    assert status == 0, said
    found = json.loads(said)
    assert found["unmoved"]
    assert len(set(found["hashes"])) == 3
    assert (found["default"], found["round"], found["equal"], found["hashable"]) == (True, True, False, 1)
    assert found["text"] == ["normalization.finish='1e3'", "normalization.polish=1e3"]
    assert found["defaults"] == 0.5
    assert found["without"] == (
        "normalization.polish: 1.0 does nothing here; it needs normalization.name=shiny (else 0.5)"
    )
    assert found["groups"].startswith("normalization.groups: 4 does nothing here; it needs normalization.name=group")
    assert found["range"] == "normalization.polish: 3.0 is out of range; it must be at most 2"
    assert found["type"] == "normalization.coats: expected a whole number, got 1.5"
    assert "did you mean 'polish'" in found["typo"]
    assert found["name"] == "model.facets: 2 does nothing here; it needs model.name=shiny_net (else 4)"
    for seen in ("shiny", "shiny_net", "shiny_start", "gems", "polish=0.5", "facets=4", "glow=0.1", "carats=3"):
        assert seen in found["help"]
    assert found["built"] == [3, 4]


def test_a_missing_plugin_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins=[no_such_package]"]) == 2
    assert capfd.readouterr().err == (
        "error: plugins: cannot import 'no_such_package' (ModuleNotFoundError: No module named 'no_such_package')\n"
    )


def test_an_unknown_name_lists_those_of_plugins(tmp_path: Path) -> None:
    done = command("plugins=[farkas_shiny]", "normalization=shyni", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: normalization: unknown 'shyni'; did you mean 'shiny'")


def test_without_plugins_nothing_heavy_is_imported() -> None:
    code = "import sys, farkas_exp.launch.cli; from farkas_exp.config import schema_defaults; schema_defaults();"
    done = python("-c", code + "sys.exit('torch' in sys.modules)", folder=ROOT)
    assert done.returncode == 0, done.stderr
