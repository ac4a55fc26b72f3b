"""A sweep as a whole: which runs it has, what it counts, what it says, and the exit status that follows."""

import errno
import os
import pickle
import subprocess
import sys

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job

from farkas_exp import runs
from farkas_exp.launch import complaints, execution, outcomes, summary
from farkas_exp.launch.arguments import checked
from farkas_exp.launch.cli import main
from farkas_exp.launch.outcomes import Outcome
from farkas_exp.launch.summary import Cut
from farkas_exp.launch.sweep import Sweep, SweepWatch
from farkas_exp.machine import output
from farkas_exp.machine.errors import UserError
from farkas_exp.report import command
from farkas_exp.runs import collect, open_run, read_json, write_json
from tests.configs import config
from tests.small_command import TINY

# --- which runs there are


def test_a_combination_that_is_given_twice_is_run_once_and_the_rest_is_run(tmp_path, capsys):
    assert main(["-m", *TINY, "seed=1,2,1,3,2", f"runs_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "3 runs in" in out
    assert "3 finished" in out
    assert "2 combinations given more than once: each was run once." in out
    assert sorted(record.seed for record in collect(tmp_path)) == [1, 2, 3]


def test_a_runs_dir_that_varies_has_one_sweep_folder_and_all_runs_are_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["-m", *TINY, "runs_dir=a,b", "seed=0,1", "hydra.sweep.dir=outcomes"]) == 0
    assert "4 finished" in capsys.readouterr().out
    assert len(list((tmp_path / "outcomes").glob("job_*.json"))) == 4
    assert [len(collect(tmp_path / each)) for each in "ab"] == [2, 2]


def test_a_sweep_folder_that_is_used_again_counts_only_its_own_sweep(tmp_path, capsys):
    given = ["-m", *TINY, f"runs_dir={tmp_path / 'runs'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert main([*given, "lr.value=-1", "seed=0,1"]) == 2
    capsys.readouterr()
    assert main([*given, "seed=0"]) == 0
    out = capsys.readouterr().out
    assert "1 run in" in out
    assert "refused" not in out


def test_a_launcher_of_another_package_whose_jobs_know_no_sweep_has_its_outcomes_counted(tmp_path, capsys, monkeypatch):
    def in_another_process(**given):
        with monkeypatch.context() as patched:
            patched.setattr(SweepWatch, "current", None)
            return run_job(**given)

    Plugins.instance()  # which imports the launcher anew
    place = "hydra._internal.core_plugins.basic_launcher"
    monkeypatch.setattr(sys.modules[place], "run_job", in_another_process)
    given = ["-m", *TINY, f"runs_dir={tmp_path / 'runs'}", f"hydra.launcher._target_={place}.BasicLauncher", "seed=0,1"]
    assert main([*given, "lr.value=0.1,-1"]) == 2
    assert "4 runs in" in (out := capsys.readouterr().out)
    assert "2 finished, 2 refused" in out
    (tmp_path / "sweep").mkdir()
    assert main([*given, "lr.value=0.1", f"hydra.sweep.dir={tmp_path / 'sweep'}"]) == 0
    assert "2 skipped" in capsys.readouterr().out
    assert len(list((tmp_path / "sweep" / "sweep_2").glob("job_*.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed=range(0,1,0)"], ["seed=range(0,1,0)", "zero"]),
        (["seed=range(0,1,0.0)"], ["seed=range(0,1,0.0)"]),
        (["seed=range(3,3)"], ["seed=range(3,3)", "no values"]),
        (["seed=range(0,2000000)"], ["combinations", "at most 1,000,000"]),
        (["model=glob(zzz*)"], ["model=glob(zzz*)", "no values"]),
        (["lr.value=interval(0.1,1)"], ["lr.value=interval(0.1,1)", "hydra/sweeper=tpe"]),
        (["seed=0,1", "hydra.sweeper.max_batch_size=0"], ["hydra.sweeper.max_batch_size", "at least 1"]),
        (["seed=0,1", "hydra.sweep.dir="], ["hydra.sweep.dir"]),
        (["seed=0,1", "hydra.sweep.dir=null"], ["hydra.sweep.dir", "is not Optional"]),
        (["seed=0,1", "hydra.sweep.dir=${nowhere}"], ["hydra.sweep.dir: ", "'nowhere' not found"]),
        (["model=null,mlp"], ["model: unknown 'null,mlp'", "resnet18"]),
        (["seed=0,1", "hydra.sweep.dir=/dev/null/x"], ["hydra.sweep.dir: cannot write to", "/dev/null"]),
        (["seed=0,1", "hydra.launcher.n_jobs=2"], ["hydra.launcher.n_jobs: unknown", "hydra/launcher=..."]),
        (["seed=0,1", "+hydra.launcher.n_jobs=2"], ["hydra.launcher.n_jobs: does nothing here", "local_parallel"]),
        (["experiment=demo", "arm=null"], ["arm: unknown 'null'", "plain"]),
        (["seed=0,1", "hydra.callbacks=null"], ["hydra.callbacks"]),
        (["seed=0,1", "hydra.launcher=null"], ["hydra.launcher: cannot be changed as a whole"]),
        (["seed=0,1", "hydra/launcher=null"], ["hydra/launcher=null: expected the name of a choice"]),
        (["seed=0,1", "hydra=null"], ["hydra: cannot be changed as a whole"]),
    ],
)
def test_a_mistake_that_no_repetition_mends_is_status_2_and_begins_nothing(tmp_path, capfd, arguments, words):
    assert main(["-m", *TINY, f"runs_dir={tmp_path / 'runs'}", *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line
    assert not list(tmp_path.rglob("*.json"))


def test_only_what_the_same_command_can_continue_is_status_75(tmp_path):
    begun = Sweep(tmp_path, tmp_path)
    outcomes.record_outcome(begun.directory, 0, [], Outcome(runs.FINISHED, "a"))
    mistakes = [ValueError("n_ei_candidates"), ZeroDivisionError(), OSError(2, "no such file"), KeyError("x")]
    assert {summary.failure_of_sweep(begun, error).status for error in mistakes} == {outcomes.USAGE}
    passing = [MemoryError(), ConnectionResetError(), OSError(11, "Resource temporarily unavailable")]
    assert {summary.failure_of_sweep(begun, error).status for error in passing} == {outcomes.TO_BE_CONTINUED}
    outcomes.record_outcome(begun.directory, 1, [], Outcome(runs.INTERRUPTED, "b"))
    assert summary.failure_of_sweep(begun, ValueError("no trial")).status == outcomes.TO_BE_CONTINUED


def test_an_outcome_that_the_disk_has_no_room_for_counts_until_another_process_writes_one(tmp_path, monkeypatch):
    """Taken for killed (75), the runs of a full disk (1) would be started again for ever."""

    def statuses():
        return [outcome.exit_status for outcome in outcomes.read_outcomes(tmp_path)]

    monkeypatch.setattr(outcomes, "_unwritten", {})
    outcomes.record_outcome(tmp_path, 0, [], Outcome(outcomes.LOST, "a", "begun"))
    with monkeypatch.context() as full:
        full.setattr(outcomes, "write_text", lambda *arguments: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        outcomes.record_outcome(tmp_path, 1, [], Outcome(outcomes.LOST, "b"))  # noted as it begins
        outcomes.record_outcome(tmp_path, 0, [], Outcome(outcomes.DISK, "a"))
    assert statuses() == [1, 75]
    write_json(tmp_path / "job_1.json", {"status": runs.FINISHED, "path": "b", "note": ""})  # by its own process
    assert statuses() == [1, 0]
    write_json(tmp_path / "job_0.json", {"status": runs.FINISHED, "path": "a", "note": ""})  # the next try
    assert statuses() == [0, 0]
    for number in (0, 1):
        outcomes.record_outcome(tmp_path, number, [], Outcome(runs.CRASHED, "a"))
    assert statuses() == [1, 1]
    outcomes.end_job()  # nothing is unwritten now, so it raises nothing


@pytest.mark.parametrize(
    ("name", "text"), [("job_x.json", "{}"), ("job_1.json", '{"status": 3, "path": null}'), ("job_1.json", '{"overri')]
)
def test_the_outcomes_of_a_sweep_are_read_whatever_lies_beside_them(tmp_path, name, text):
    outcomes.record_outcome(tmp_path, 0, [], Outcome(runs.FINISHED, "a"))
    (tmp_path / name).write_text(text)
    assert [outcome.path for outcome in outcomes.read_outcomes(tmp_path)] == ["a"]


def test_a_process_that_works_for_a_sweep_has_the_folder_of_the_sweep(tmp_path):
    led = Sweep(tmp_path / "sweep", tmp_path)
    copy = pickle.loads(pickle.dumps(led))
    assert copy.directory == led.directory
    assert len(list(tmp_path.iterdir())) == 1


def test_finished_runs_are_skipped_without_pytorch(tmp_path):
    words = [*TINY, f"runs_dir={tmp_path}"]
    assert main(["-m", *words, "seed=0,1"]) == 0
    code = (
        "import sys; from farkas_exp.launch.cli import main; words = sys.argv[1:]\n"
        "print(main([*words, 'seed=0']), main(['-m', *words, 'seed=0,1']))\n"
        "print({'torch', 'torchvision', 'scipy', 'sklearn', 'wandb', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0 0", "set()"]
    assert "2 skipped" in done.stdout


# --- what it says at its end


@pytest.mark.parametrize("error", [RuntimeError("a\ndefect"), KeyboardInterrupt(), MemoryError(), SystemExit(3)])
def test_a_report_that_fails_is_one_line_after_the_summary_and_changes_no_status(tmp_path, capsys, monkeypatch, error):
    def fails(*arguments):
        raise error

    monkeypatch.setattr(command, "render_experiment", fails)
    ended = Sweep(tmp_path / "sweep", tmp_path, experiment="table1")
    (tmp_path / "x" / "seed_0").mkdir(parents=True)
    outcomes.record_outcome(ended.directory, 0, [], Outcome(runs.FINISHED, str(tmp_path / "x" / "seed_0")))
    assert summary.end_of_sweep(ended, [], None) == 0
    captured = capsys.readouterr()
    assert "1 run in" in captured.out
    (line,) = captured.err.splitlines()
    assert line.startswith(f"no report: {type(error).__name__}")
    outcomes.record_outcome(ended.directory, 1, [], Outcome(runs.CRASHED, str(tmp_path / "x" / "seed_1")))
    assert summary.end_of_sweep(ended, [], Cut("stopped by a signal")) == outcomes.CRASH


# --- the arms of an experiment


@pytest.fixture
def mine(tmp_path):
    """A folder for --config-dir with an experiment of two arms, at a size that trains at once."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "arms:\n"
        "  he: [init=kaiming]\n"
        "  wide: {label: Wide Net, set: [model.width=8]}\n"
        "  farkas: {only_for: [farkas*], set: [aggregation=mean]}\n"
        "experiment: mine\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      arm: glob(*)\n      seed: 0\n"
    )
    return [f"--config-dir={tmp_path}", *TINY, "experiment=mine", f"runs_dir={tmp_path / 'runs'}"]


@pytest.mark.parametrize("launcher", [[], pytest.param(["hydra/launcher=local_parallel"], marks=pytest.mark.slow)])
def test_an_experiment_runs_its_arms_and_passes_over_what_they_are_not_for(tmp_path, mine, capfd, launcher):
    assert main([*mine, *launcher]) == 0
    out = capfd.readouterr().out
    assert "2 finished" in out
    assert "passed over: mlp (this arm is for farkas*)" in out
    found = {record.config["arm"]: record.config for record in collect(tmp_path / "runs")}
    assert (found[None]["init"]["name"], found[None]["model"]["width"]) == ("kaiming", 4)
    assert found["Wide Net"]["model"]["width"] == 4, "the command line wins over an arm"
    assert not {"arms", "only_for"} & found[None].keys()
    assert main([*mine, "arm=Wide Net,HE"]) == 0
    assert "2 runs in" in (out := capfd.readouterr().out)
    assert "2 skipped" in out


@pytest.mark.parametrize("quoted", ["'he'", "'he','wide'", "choice('he', wide)"])
def test_arms_may_be_quoted(mine, quoted):
    assert checked([*mine, f"arm={quoted}"])[-1] == f"arm={quoted}"


def test_an_arm_that_no_network_of_the_sweep_is_for_is_no_success(mine):
    assert main([*mine, "arm=farkas"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=mine", "arm=hee"], ["arm: unknown 'hee'; did you mean 'he'?", "farkas, he, wide"]),
        (["experiment=mine", "arm=he,wied"], ["arm: unknown 'wied'; did you mean 'wide'?"]),
        (["experiment=mine", "arm='hee','wide'"], ["arm: unknown 'hee'; did you mean 'he'?"]),
        (
            ["experiment=table1_mini", "arm=he"],
            ["arm: experiment=table1_mini has no arms; with arms: ", "table1_controls"],
        ),
        (["arm=he"], ["arm: this is for an experiment with arms; with arms: ", "table1"]),
        (["-m", "experiment=table1,table2"], ["experiment: one at a time"]),
        (["experiment=mine", "arm.x=1"], ["arm"]),
    ],
)
def test_a_wrong_arm_is_one_line_with_the_right_ones(tmp_path, mine, capfd, arguments, words):
    given = [argument for argument in mine if not argument.startswith("experiment=")]
    assert main([*given, *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert all(word in line for word in words), line


# --- damaged files


@pytest.mark.parametrize("damage", ['{"status": "finished", "test_error": null}', "[]", "3", '{"status": "done"}', "x"])
def test_a_damaged_result_is_named_and_the_run_is_brought_to_its_end(tmp_path, capsys, damage):
    made = config(tmp_path, epochs=1)
    execution.execute(made)
    run = open_run(made)
    before = read_json(run.result)
    run.result.write_text(damage)
    capsys.readouterr()
    assert execution.settled(made) is None
    assert execution.execute(made).status == runs.FINISHED
    assert f"warning: {run.path}: result.json is damaged" in capsys.readouterr().err
    assert read_json(run.result) == before
    assert execution.execute(made).status == outcomes.SKIPPED


@pytest.mark.parametrize("text", ["[1]", "3", '{"state": "crashed", "error": [1]}', '{"state": ["x"]}'])
def test_a_crash_over_a_damaged_state_is_an_outcome(tmp_path, monkeypatch, text):
    made = config(tmp_path, epochs=1)
    run = open_run(made)
    run.path.mkdir(parents=True)
    run.state.write_text(text)
    monkeypatch.setattr("farkas_exp.training.session.build_model", lambda *arguments, **options: 1 / 0)
    assert execution.execute(made).status == runs.CRASHED
    assert execution.settled(made).status == runs.CRASHED


def test_a_damaged_record_of_a_finished_run_is_refused_and_left_alone(tmp_path):
    made = config(tmp_path, epochs=1)
    execution.execute(made)
    run = open_run(made)
    write_json(run.record, {"schema": 1})
    before = run.result.read_bytes()
    with pytest.raises(UserError, match="damaged, or not the record of this run"):
        execution.execute(made)
    assert run.result.read_bytes() == before


# --- words


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("runs_dir=/data/my runs(1)", "\"runs_dir='/data/my runs(1)'\""),
        ("wandb.name=a(b)", "\"wandb.name='a(b)'\""),
        ("wandb.name=it's", "'wandb.name=\"it'\"'\"'s\"'"),
        ("dataset.label=ü", "\"dataset.label='ü'\""),
        ("wandb.name=${a", "'wandb.name='\"'\"'${a'\"'\"''"),
    ],
)
def test_an_argument_that_cannot_be_read_is_shown_with_its_quotes(capfd, argument, quoted):
    assert main([argument]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    key, _, value = argument.partition("=")
    assert line.startswith(f"error: {key}: {value} cannot be read as a value")
    assert line.endswith(f"quoted twice: {quoted}")
    shown = subprocess.run(["sh", "-c", f"printf %s {quoted}"], capture_output=True, text=True, check=True).stdout
    (override,) = complaints.OverridesParser.create().parse_overrides([shown])
    assert override.value() == value


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"epochs: 3\nlr: [", ", line 2"), (b"epochs: '3\n", ", line 2"), (b"a: b: c\n", ", line 1"),
        (b"- a\n- b\n", ": expected KEY: VALUE pairs, got ['a', 'b']"), (b"just words\n", ": expected KEY: VALUE"),
        (b"\xff\xfe\x00", ": no YAML"), (b"note: \xe4\n", ": no YAML"), (b"note: \x07\n", ": no YAML"),
        *((b"# @package _global_\narms: %b\n" % arms, ": arms")
          for arms in (b"[a]", b"{a: 3}", b"{a: [x]}", b"{a: {sets: []}}", b"{a: ['x=1,2']}")),
    ],
)  # fmt: skip
def test_a_file_that_is_no_configuration_is_one_line_that_names_it(tmp_path, capfd, content, where):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(content)
    assert main([f"--config-dir={tmp_path}", "experiment=mine"]) == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert f"experiment/mine.yaml{where}" in said


SAY = (
    "import sys; from farkas_exp.machine import output\n"
    "with output.patient():\n"
    "    for _ in range(10_000): print('±', 'x' * 100); output.say('β')\n"
    "    output.warn('went on')\n"
    "sys.exit(3)"
)


@pytest.mark.parametrize(
    "how",
    ["| head -1 >/dev/null; exit ${PIPESTATUS[0]}", ">/dev/full", ">&-", "| cat >/dev/null; exit ${PIPESTATUS[0]}"],
)
def test_trouble_of_standard_output_changes_no_exit_status(tmp_path, how):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "$CODE" {how}'], env={**environment, "CODE": SAY}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "went on\n")


def test_no_file_takes_the_place_of_a_closed_standard_output(tmp_path):
    code = (
        "import os, sys; from farkas_exp.machine import output\n"
        "with output.patient():\n"
        "    file = open('results', 'w'); os.write(1, b'words'); file.close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CODE": code}
    subprocess.run(["bash", "-c", f'"{sys.executable}" -c "$CODE" >&-'], env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "results").read_text() == ""


def test_output_is_given_back_as_it_was():
    before = sys.stdout, sys.stderr
    with output.patient():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before
