"""The cache of compiled code: of this user alone, whole or made again; and a process without a home or a name."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from farkas_exp.machine import compiling, home
from tests.paths import ROOT

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A source whose only function says 7, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(home.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.delenv("CXX", raising=False)
    path = tmp_path / "seven.cpp"
    path.write_text('extern "C" int seven() { return 7; }\n')
    return path


def load(source: Path) -> ctypes.CDLL:
    return compiling.load("seven", [source], ("-O0", "-shared", "-fPIC"), [], "")


def cached() -> Path:
    (path,) = compiling.cache_folder().glob("seven-*.so")
    return path


def count_compilations(monkeypatch) -> list[str]:
    made: list[str] = []
    original = compiling._compile
    monkeypatch.setattr(compiling, "_compile", lambda *given: (made.append("once"), original(*given))[1])
    return made


@needs_compiler
def test_a_library_is_compiled_once_and_is_nobody_elses(source, monkeypatch):
    made = count_compilations(monkeypatch)
    assert load(source).seven() == load(source).seven() == 7
    assert made == ["once"]
    assert stat.S_IMODE(compiling.cache_folder().stat().st_mode) == 0o700
    assert stat.S_IMODE(cached().stat().st_mode) == 0o600
    assert not list(compiling.cache_folder().glob(".*"))


def copied(change):
    """The library is replaced by a changed copy: this process has the original loaded, and must keep it."""

    def damage(path):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(change(content))

    return damage


def link(path):
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "cut": copied(lambda content: content[: len(content) // 2]),
    "cut at the end": copied(lambda content: content[:-1]),
    "empty": copied(lambda content: b""),
    "a bit flipped": copied(lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]),
    "without checksum": copied(lambda content: content[:-32]),
    "writable": lambda path: path.chmod(0o666),
    "link": link,
    "pipe": pipe,
}


@needs_compiler
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_file_is_never_loaded_and_made_again(source, monkeypatch, damage):
    load(source)
    whole = cached().read_bytes()
    damage(cached())
    made = count_compilations(monkeypatch)
    assert load(source).seven() == 7
    assert made == ["once"]
    assert cached().read_bytes() == whole
    assert cached().is_file()
    assert not cached().is_symlink()


@needs_compiler
def test_the_file_of_another_user_is_never_loaded(source, monkeypatch):
    load(source)
    path = cached()
    found = path.stat()
    assert home.why_unsafe(found) is None
    monkeypatch.setattr(home.os, "geteuid", lambda: found.st_uid + 1)
    assert home.why_unsafe(found) == "it belongs to another user"
    assert compiling._checked(path) is None


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_folder_that_others_may_write_is_not_used(source, mode, tmp_path):
    folder = tmp_path / "cache" / "farkas_exp" / "compiled"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert compiling.cache_folder() == tmp_path / "temporary" / f"farkas_exp-{os.geteuid()}" / "compiled"
    compiling.cache_folder().chmod(mode)
    with pytest.raises(compiling.CompileError, match=r"others may write it.*others may write it"):
        compiling.cache_folder()


def test_a_link_in_the_place_of_the_folder_is_not_followed(source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache" / "farkas_exp").mkdir(parents=True)
    (tmp_path / "cache" / "farkas_exp" / "compiled").symlink_to(tmp_path / "elsewhere")
    assert compiling.cache_folder().is_relative_to(tmp_path / "temporary")


@needs_compiler
def test_the_compiler_may_have_arguments(source, monkeypatch):
    monkeypatch.setenv("CXX", "env LANG=C g++ -DUNUSED")
    assert load(source).seven() == 7


@pytest.mark.parametrize(
    ("compiler", "words"),
    [
        ("/nowhere/g++", "CXX: '/nowhere/g++' is no command here"),
        ("ccache-is-not-here g++", "is no command here"),
        ("g++ 'unclosed", 'CXX: "g++ \'unclosed" cannot be read as a command'),
        ("true", "true: status 0 (no output)"),
        ("false", "false: status 1 (no output)"),
    ],
)
def test_a_compiler_that_does_not_work_is_one_line(source, monkeypatch, compiler, words):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(compiling.CompileError) as raised:
        load(source)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@needs_compiler
def test_what_the_compiler_says_is_in_the_line(source):
    source.write_text("this is not C++\n")
    with pytest.raises(compiling.CompileError, match=r"status 1 \(.*error: "):
        load(source)


def unknown_user(monkeypatch, tmp_path):
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    import pwd

    def unknown(*arguments):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(home.tempfile, "gettempdir", lambda: str(tmp_path))


def test_without_a_home_and_a_name_both_are_made(monkeypatch, tmp_path):
    import getpass

    unknown_user(monkeypatch, tmp_path)
    assert compiling.cache_folder() == tmp_path / f"farkas_exp-{os.geteuid()}" / "compiled"
    monkeypatch.setenv("HOME", "kept until the end of the test")
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("USER", "")
    home.ensure_home()
    assert Path.home() == tmp_path / f"farkas_exp-{os.geteuid()}"
    assert stat.S_IMODE(Path.home().stat().st_mode) == 0o700
    assert getpass.getuser() == f"uid{os.geteuid()}"


def test_a_home_that_is_there_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "somebody")
    home.ensure_home()
    assert (os.environ["HOME"], os.environ["USER"]) == (str(tmp_path), "somebody")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs to become another user")
def test_a_user_without_home_and_name_trains_a_convolutional_network(tmp_path):
    """As in a container that is started with a number for a user."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o711)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(0o777)
    reached = subprocess.run(
        ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", sys.executable, "-c", "import torch"],
        env={"PATH": os.environ["PATH"]}, capture_output=True, check=False,
    )  # fmt: skip
    if reached.returncode:
        pytest.skip("the Python of the tests cannot be reached by another user")
    done = subprocess.run(
        [
            "setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", sys.executable, "-m", "farkas_exp",
            "model=farkasnet18", "model.blocks=[1]", "model.widths=[8]", "dataset=digits", "dataset.train_limit=128",
            "epochs=1", "batch_size=64", "device=cpu", f"runs_dir={tmp_path}/runs", "wandb.mode=offline",
        ],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "finished: " in done.stdout
