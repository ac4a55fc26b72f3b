"""Stop signals: no exception from a handler, status 75 at every moment, and nothing half-written or left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from farkas_exp.launch.cli import main
from farkas_exp.machine import signals
from farkas_exp.machine.signals import PREEMPTION, StopRequest
from farkas_exp.runs import collect
from tests.paths import ROOT
from tests.small_command import ONE_BLOCK

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2]


def from_a_terminal():
    """These are ignored in what `nohup`, or a script in its background, has started."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def begun(code, preexec_fn=from_a_terminal, **options):
    """A process that takes the signals over and runs `code`, as far as its first line `ready`; quick, without torch."""
    code = "from farkas_exp.machine import signals\nsignals.take_over()\nimport os, sys, time\n" + textwrap.dedent(code)
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=preexec_fn, **options,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def end(process, seconds=240):
    limit = threading.Timer(seconds, process.kill)
    limit.start()
    with process.stdout as stdout:
        out = stdout.read()  # communicate() would lose what readline() has buffered
    status = process.wait()
    limit.cancel()
    return status, out


READY = "print('ready', flush=True)\n"


@pytest.mark.parametrize("number", ALL)
def test_where_nothing_is_at_stake_a_signal_ends_the_process_and_what_was_printed_is_there(number):
    process = begun("sys.stdout.write('half a line')\nos.write(1, b'ready\\n')\ntime.sleep(60)")
    process.send_signal(number)
    assert end(process) == (75, "half a line")


@pytest.mark.parametrize("number", ALL)
def test_a_signal_while_the_interpreter_ends_leaves_the_status_of_the_work(number):
    process = begun(f"""
        class Last:
            def __del__(self, kill=os.kill, own=os.getpid()):
                kill(own, {int(number)})
        last = Last()
        print("ready", flush=True)
        """)
    assert end(process) == (0, "")


def test_a_process_that_hangs_in_a_system_call_is_ended(tmp_path):
    """A handler that returns would let Python open the pipe again, for ever."""
    os.mkfifo(tmp_path / "pipe")
    process = begun(READY + f"open({str(tmp_path / 'pipe')!r}).read()")
    process.terminate()
    assert end(process) == (75, "")


def test_a_process_that_hangs_in_c_code_is_ended():
    """No Python handler runs there; a library that waits for another process is such code."""
    process = begun("import ctypes\nlibc = ctypes.CDLL(None)\n" + READY + "while True: libc.sleep(60)")
    process.terminate()
    assert end(process) == (75, "")


def test_an_import_is_never_broken(tmp_path):
    """The handler runs in the middle of the module; an exception there would leave it half made."""
    (tmp_path / "heavy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\ndone = True\n")
    process = begun(f"""
        from farkas_exp.machine.signals import StopRequest
        sys.path.insert(0, {str(tmp_path)!r})
        with StopRequest() as stop:
            import heavy
            assert stop.requested and heavy.done
            print("ready", flush=True)
            sys.exit(75)
        """)
    assert end(process) == (75, "")


def test_what_is_at_stake_is_brought_to_its_end():
    process = begun("""
        from farkas_exp.machine.signals import StopRequest
        with StopRequest() as stop:
            print("ready", flush=True)
            while not stop.requested:
                time.sleep(0.01)
            time.sleep(0.5)
            print("safe", stop.signal_name)
        time.sleep(0.3)
        sys.exit(75)
        """)
    process.terminate()
    process.terminate()
    assert end(process) == (75, "safe SIGTERM\n")


def test_a_stop_that_nobody_looks_at_takes_effect_when_the_stake_is_over():
    process = begun("""
        from farkas_exp.machine.signals import at_stake, last_words
        with last_words(lambda: print("outer")), last_words(lambda: print("inner")):
            with at_stake():
                print("ready", flush=True)
                time.sleep(0.5)
                print("written")
            time.sleep(60)
        """)
    process.terminate()
    assert end(process) == (75, "written\ninner\nouter\n")


def test_a_long_stretch_of_a_job_may_be_left():
    process = begun("""
        from farkas_exp.machine.signals import StopRequest, free_to_leave
        with StopRequest():
            with free_to_leave():
                print("ready", flush=True)
                time.sleep(60)
        """)
    process.terminate()
    assert end(process) == (75, "")


def test_patience_ends():
    process = begun("""
        from farkas_exp.machine.signals import StopRequest
        signals.PATIENCE = 0.2
        with StopRequest() as stop:
            print("ready", flush=True)
            while True:
                time.sleep(stop.requested)
        """)
    process.terminate()
    assert end(process) == (75, "no safe step within 0 s of SIGTERM; a run goes on from its last checkpoint\n")


def test_a_second_interrupt_stops_at_once_but_an_echo_of_the_first_does_not():
    """Launchers pass on what the terminal has sent to every process."""
    process = begun("""
        from farkas_exp.machine.signals import StopRequest
        with StopRequest() as stop:
            print("ready", flush=True)
            while not stop.requested:
                time.sleep(0.01)
            time.sleep(0.2)
            print("seen", flush=True)
            time.sleep(60)
        """)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "seen\n"
    time.sleep(signals.HUMAN_SECONDS)
    process.send_signal(signal.SIGINT)
    assert end(process) == (75, "stopped at once, as asked twice; a run goes on from its last checkpoint\n")


def test_last_words_that_cannot_be_said_do_not_keep_the_process():
    process = begun("""
        signals.LAST_WORDS_SECONDS = 0.2
        from farkas_exp.machine.signals import last_words
        with last_words(lambda: time.sleep(60)), last_words(lambda: 1 / 0):
            print("ready", flush=True)
            time.sleep(60)
        """)
    process.terminate()
    assert end(process) == (75, "")


def test_a_line_that_nobody_reads_does_not_keep_the_process():
    process = begun("""
        signals.PATIENCE = signals.LAST_WORDS_SECONDS = 0.2
        with signals.at_stake():
            print("ready", flush=True)
            while True:
                os.write(2, b"x" * 2**20)
        """)
    process.terminate()
    assert process.wait(240) == 75
    process.stdout.close()


def test_a_writer_leaves_no_temporary_file(tmp_path):
    process = begun(f"""
        from farkas_exp.machine.files import replacing
        print("ready", flush=True)
        while True:
            with replacing({str(tmp_path / "file")!r}) as file:
                file.write(b"x" * 100_000)
        """)
    time.sleep(0.2)
    process.terminate()
    assert end(process) == (75, "")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"x" * 100_000


def test_a_scratch_folder_does_not_stay(tmp_path):
    process = begun(f"""
        from pathlib import Path
        from farkas_exp.machine.files import scratch_folder
        with scratch_folder(Path({str(tmp_path)!r}), ".x") as folder:
            (folder / "archive").write_text("x")
            print("ready", flush=True)
            time.sleep(60)
        """)
    process.terminate()
    assert end(process) == (75, "")
    assert os.listdir(tmp_path) == []


def test_nohup_keeps_its_effect():
    process = begun(
        READY + "time.sleep(1); print('goes on')", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    process.send_signal(signal.SIGHUP)
    assert end(process) == (0, "goes on\n")


def test_processes_started_while_signals_are_held_never_see_one_and_pass_it_on():
    process = begun("""
        import subprocess
        with signals.held():
            child = subprocess.Popen([sys.executable, "-c", "input(); print('unharmed')"])
        print("ready", flush=True)
        with signals.at_stake():
            child.wait()
        """, start_new_session=True, stdin=subprocess.PIPE)  # fmt: skip
    os.killpg(process.pid, signal.SIGTERM)
    process.stdin.write("\n")
    process.stdin.close()
    assert end(process) == (75, "unharmed\n")


def test_a_forked_child_has_the_signals_of_an_ordinary_process():
    process = begun("""
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        os.kill(child, 15)
        print("ready", flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """)
    assert end(process) == (0, "-15\n")


# --- a program that uses the package


def test_handlers_are_given_back_and_requests_nest():
    before = [signal.getsignal(number) for number in signals.STOP_SIGNALS]
    with StopRequest() as outer:
        with StopRequest() as inner:
            os.kill(os.getpid(), PREEMPTION)
            os.kill(os.getpid(), PREEMPTION)
            assert inner.signal_name == PREEMPTION.name
        assert outer.requested
        with StopRequest() as next_one:
            assert next_one.requested
    assert [signal.getsignal(number) for number in signals.STOP_SIGNALS] == before
    with StopRequest() as fresh:
        assert not fresh.requested


@pytest.fixture
def interruptible():
    """As in a program that a terminal has started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_the_second_interrupt_of_a_program_is_its_own():
    def interrupted_twice():
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.requested
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_thread_leaves_the_handlers_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def use():
        with StopRequest() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


@pytest.mark.parametrize("name", ["SIGUSR1", "usr1", "KILL", ""])
def test_a_wrong_name_of_the_preemption_signal_is_one_line(monkeypatch, capsys, name):
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", name)
    assert main(["--help"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: SUBMITIT_PREEMPT_SIGNAL: unknown {name!r}")
    assert said.count("\n") == 1


# --- the command line


def start(*arguments, module="farkas_exp"):
    """A command that has taken the signals over, as it does first of all."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True, preexec_fn=from_a_terminal,
    )  # fmt: skip
    caught, bit = Path(f"/proc/{process.pid}/status"), 1 << (PREEMPTION - 1)
    while (
        caught.exists()
        and process.poll() is None
        and not bit & int(caught.read_text().split("SigCgt:")[1].split()[0], 16)
    ):
        time.sleep(0.001)
    return process


def check_stopped(process, runs_dir):
    status, out = end(process)
    assert status in (0, 75), out
    assert "Traceback" not in out
    assert "rror" not in out
    assert not list(runs_dir.rglob("*.tmp"))
    if runs_dir.is_dir():
        assert all(record.progress["state"] != "crashed" for record in collect(runs_dir))
    return out


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 0.0), (signal.SIGTERM, 0.8), (signal.SIGUSR2, 2.0)])
def test_a_signal_while_a_command_starts_leaves_status_75(tmp_path, number, seconds):
    process = start(*ONE_BLOCK, "epochs=5000", f"runs_dir={tmp_path}")
    time.sleep(seconds)
    process.send_signal(number)
    check_stopped(process, tmp_path)
    assert process.returncode == 75


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1,2,3"]])
@pytest.mark.parametrize("number", ALL)
def test_a_signal_at_any_moment_leaves_status_75_or_0(tmp_path, number, sweep):
    for turn in range(24):
        runs_dir = tmp_path / str(turn)
        process = start(*ONE_BLOCK, "epochs=40", f"runs_dir={runs_dir}", *sweep)
        time.sleep(0.3 * turn)
        if process.poll() is None:
            process.send_signal(number)
        out = check_stopped(process, runs_dir)
        if sweep and "runs in" in out:
            assert ("To go on: " in out) == (process.returncode == 75)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["farkas_exp.report", "farkas_exp.status", "farkas_exp.best"])
def test_the_other_commands_end_without_a_traceback_too(tmp_path, module):
    for turn in range(8):
        process = start(f"runs_dir={tmp_path}", module=module)
        time.sleep(0.1 * turn)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=240)
        assert process.returncode in (0, 2, 75), out
        assert "Traceback" not in out
