"""Deliberate faults in the core, and whether tests see them: `make mutation ARGS="farkas_exp/training/optimizer.py"`.

The faults are those of mutmut's operators: a number plus one, a comparison turned round, an argument dropped, a value
replaced by None, and so on. mutmut itself starts a test session for each fault; here one session, with everything
imported, is forked for each: the fork gives the living functions their faulty code and runs those of the module's
tests that reach the faulty line, then, if these see nothing, all of them. A fault outside of functions takes a fork
that imports the package anew.

Texts that are read by people (messages, docstrings), annotations and imports are left alone.
"""

import argparse
import gc
import importlib
import inspect
import itertools
import json
import os
import random
import resource
import signal
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).resolve().parent.parent
TESTS = Path(__file__).with_suffix(".json")
"""Of each module of the core, the test files that are to see its faults."""

CAUGHT, UNSEEN, TIMEOUT, LATER, SAME = "caught", "unseen", "timeout", "later", "same"
CRASH = 70


@dataclass(frozen=True)
class Mutant:
    """One fault: the line where it is, the code there before and after, and the whole source with it."""

    line: int
    before: str
    after: str
    source: str


class Mutator(cst.CSTVisitor):
    """Collects the nodes of a module that mutmut's operators change, with what they become."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Take the faults of `node`, and say whether to look inside."""
        if isinstance(node, (cst.Annotation, cst.Import, cst.ImportFrom, cst.Raise, cst.Decorator, cst.Assert)):
            return False
        if isinstance(node, cst.Expr) and isinstance(node.value, (cst.SimpleString, cst.ConcatenatedString)):
            return False
        position = self.get_metadata(PositionProvider, node, None)
        for kind, operator in mutation_operators:
            if isinstance(node, kind) and position is not None:
                changed = list(operator(node))
                if isinstance(node, cst.BaseString):  # one of three spellings, and no message
                    changed = [] if " " in getattr(node, "value", "") else changed[:1]
                self.found += [(position.start.line, node, new) for new in changed]
        return True


def mutants_of(path: Path) -> list[Mutant]:
    """Every fault that the operators make in a module and that still compiles."""
    wrapper = MetadataWrapper(cst.parse_module(path.read_text(encoding="utf-8")))
    visitor = Mutator()
    wrapper.visit(visitor)
    code = wrapper.module.code_for_node
    made = []
    for line, old, new in visitor.found:
        source = wrapper.module.deep_replace(old, new).code  # type: ignore[union-attr]
        try:
            compile(source, str(path), "exec")
        except (SyntaxError, ValueError):
            continue
        made.append(Mutant(line, " ".join(code(old).split()), " ".join(code(new).split()), source))
    return made


class LinesOfTests:
    """Notes which lines of one file each test reaches, and how long it takes."""

    def __init__(self, path: Path) -> None:
        self.path, self.test = str(path), ""
        self.reached: dict[str, set[int]] = defaultdict(set)
        self.seconds: dict[str, float] = {}

    def _trace(self, frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != self.path:
            return None
        self.reached[self.test].add(frame.f_lineno)
        return self._trace

    def __call__(self, test: str, run: Callable[[], bool]) -> bool:
        """Trace one test, its fixtures included, and return what it returns."""
        self.test, begin = test, time.perf_counter()
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        try:
            return run()
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            self.seconds[test] = time.perf_counter() - begin


def forked(work: Callable[[], int], cpu_seconds: int, log: Path, wall_seconds: float = 400) -> int | None:
    """The status of `work()` in a fork of this process, None where it took too long."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = CRASH
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            status = work()
        except BaseException:  # noqa: BLE001 - the fork must not return into its parent's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    deadline = time.monotonic() + wall_seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return None if code in (-signal.SIGXCPU, -signal.SIGKILL) else code
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def inner_codes(code: CodeType) -> Iterator[CodeType]:
    """The code objects directly inside of another one."""
    return (constant for constant in code.co_consts if isinstance(constant, CodeType))


def differ(old: CodeType, new: CodeType) -> bool:
    """Whether two code objects do something different themselves, whatever the ones inside of them do."""

    def shape(code: CodeType) -> tuple[Any, ...]:
        constants = [None if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
        return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars

    return shape(old) != shape(new)


def changed_functions(old: CodeType, new: CodeType, inside: bool = False) -> dict[tuple[str, int], CodeType] | None:
    """The new code of every function that differs; None where more than the bodies of functions do.

    A function differs, too, where something inside of it does: `inside` says that this code is.
    """
    before, after = list(inner_codes(old)), list(inner_codes(new))
    of_import = old.co_name.startswith("<") and old.co_name != "<lambda>"  # the module, or a comprehension in it
    is_function = inside or (bool(old.co_flags & inspect.CO_OPTIMIZED) and not of_import)
    if len(before) != len(after):
        return {(old.co_qualname, old.co_firstlineno): new} if is_function else None
    changed: dict[tuple[str, int], CodeType] = {}
    for part, faulty in zip(before, after, strict=True):
        found = changed_functions(part, faulty, is_function)
        if found is None:
            return None
        changed |= found
    own = differ(old, new)
    if own and not is_function:
        return None
    if is_function and (own or changed):
        changed[(old.co_qualname, old.co_firstlineno)] = new
    return changed


def living_functions(path: Path) -> dict[tuple[str, int], list[FunctionType]]:
    """The functions of a module that exist in this process, by name and first line."""
    found: dict[tuple[str, int], list[FunctionType]] = defaultdict(list)
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename == str(path):  # isinstance() wakes lazy objects
            found[(thing.__code__.co_qualname, thing.__code__.co_firstlineno)].append(thing)
    return found


def put_in_module(path: Path, source: str) -> None:
    """Let this process, which has not imported the module at `path` yet, import it with other source."""
    original = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> Any:
        return compile(source, str(path), "exec") if self.path == str(path) else original(self, fullname)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


class Examination:
    """A pytest plugin that, in place of running the tests once, runs them in a fork for each fault."""

    def __init__(self, path: Path, mutants: list[Mutant], folder: Path) -> None:
        self.path, self.mutants, self.folder = path, mutants, folder
        self.failed = False
        self.living: dict[tuple[str, int], list[FunctionType]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """See a failure."""
        self.failed |= report.failed

    def run(self, items: list[Any], trace: LinesOfTests | None = None) -> int:
        """Run tests up to the first failure; the status is 1 where there was one."""
        for item, following in itertools.zip_longest(items, items[1:]):
            protocol = partial(item.config.hook.pytest_runtest_protocol, item=item, nextitem=following)
            trace(item.nodeid, protocol) if trace else protocol()
            if self.failed:
                print(f"failed: {item.nodeid}")
                return 1
        return 0

    def pytest_runtestloop(self, session: Any) -> bool:
        """Survey the tests, then try every fault; the verdicts go to a file of the folder."""
        survey = self.folder / "survey.json"
        importlib.import_module(".".join(self.path.relative_to(ROOT).with_suffix("").parts))  # tests may do it later
        gc.unfreeze()  # gc.get_objects() leaves out the functions that tests/conftest.py has frozen
        self.living = living_functions(self.path)
        if not self.living:
            raise SystemExit(f"{self.path}: none of its functions is found, so no fault can be put in")
        gc.collect()
        gc.freeze()  # the forks share what is there

        def work() -> int:
            lines = LinesOfTests(self.path)
            status = self.run(session.items, lines)
            survey.write_text(json.dumps([{k: sorted(v) for k, v in lines.reached.items()}, lines.seconds]))
            return status

        if forked(work, 1200, self.folder / "survey.txt", 1800) != 0:
            raise SystemExit(f"{self.path}: its tests fail without a fault ({self.folder / 'survey.txt'})")
        reached, seconds = json.loads(survey.read_text())
        items = sorted(session.items, key=lambda item: seconds.get(item.nodeid, 0.0))
        original = compile(self.path.read_text(encoding="utf-8"), str(self.path), "exec")
        cpu = 20 + int(3 * sum(seconds.values()))
        if self._verdict({}, items, cpu) != UNSEEN:
            raise SystemExit(f"{self.path}: its tests fail in another order ({self.folder / 'mutant.txt'})")
        with open(self.folder / "verdicts.jsonl", "a", encoding="utf-8") as file:
            for mutant in self.mutants:
                changed = changed_functions(original, compile(mutant.source, str(self.path), "exec"))
                if changed is None:
                    result = LATER
                elif not changed:
                    result = SAME
                else:
                    chosen = [item for item in items if mutant.line in reached.get(item.nodeid, ())]
                    result = self._verdict(changed, chosen, cpu) if chosen else UNSEEN
                    others = [item for item in items if item.nodeid in reached and item not in chosen]
                    if result == UNSEEN and others:  # those that see what another test has cached
                        result = self._verdict(changed, chosen + others, cpu)
                row = {"module": str(self.path.relative_to(ROOT)), "line": mutant.line, "before": mutant.before}
                print(json.dumps({**row, "after": mutant.after, "verdict": result}), file=file, flush=True)
        return True

    def _verdict(self, changed: dict[tuple[str, int], CodeType], items: list[Any], cpu_seconds: int) -> str:
        def work() -> int:
            for name, code in changed.items():
                for function in self.living.get(name, ()):
                    function.__code__ = code
            return self.run(items)

        status = forked(work, cpu_seconds, self.folder / "mutant.txt")
        return TIMEOUT if status is None else CAUGHT if status else UNSEEN


def run_pytest(tests: list[str], plugins: list[object]) -> int:
    """Run tests in this process and return pytest's status."""
    import pytest

    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not slurm"]
    return int(pytest.main([*options, *tests], plugins=plugins))


def examine(
    path: Path, tests: list[str], most: int, only: set[str] | None, folder: Path, sample: str = ""
) -> list[dict[str, Any]]:
    """The verdict on each fault of one module, on a random sample of them, or on some."""
    name = str(path.relative_to(ROOT))
    mutants = mutants_of(path)
    if only is None:
        mutants = random.Random(name + sample).sample(mutants, min(most, len(mutants)))
    else:
        mutants = [mutant for mutant in mutants if f"{mutant.before} -> {mutant.after}" in only]
    mutants.sort(key=lambda mutant: mutant.line)
    own = folder / name.removesuffix(".py").replace("/", ".")
    own.mkdir(parents=True, exist_ok=True)
    verdicts = own / "verdicts.jsonl"
    verdicts.unlink(missing_ok=True)
    if forked(lambda: run_pytest(tests, [Examination(path, mutants, own)]), 10**6, own / "log.txt", 10**6) != 0:
        raise SystemExit(f"{name}: see {own}/log.txt and survey.txt")
    found = [json.loads(line) for line in verdicts.read_text().splitlines()]
    for row, mutant in zip(found, mutants, strict=True):
        if row["verdict"] == LATER:  # the module itself differs: the fork imports everything anew

            def work(source: str = mutant.source) -> int:
                put_in_module(path, source)
                return run_pytest(tests, [])

            status = forked(work, 300, own / "mutant.txt")
            row["verdict"] = TIMEOUT if status is None else UNSEEN if status == 0 else CAUGHT
    verdicts.write_text("".join(json.dumps(row) + "\n" for row in found))
    return [row for row in found if row["verdict"] != SAME]


def preload() -> None:
    """Import once, for all forks, what is slow to import and none of the project's own."""
    for name in ("matplotlib.pyplot", "omegaconf", "pytest", "scipy.stats", "torch", "torchvision"):
        importlib.import_module(name)
    importlib.import_module("torch._dynamo")
    sys.modules["torch"].set_num_threads(1)


def main() -> int:
    """Examine the modules that the command line names, or the whole core."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="files of the package (default: all of scripts/mutation.json)")
    parser.add_argument("--most", type=int, default=10**6, help="faults a module, of more a random sample")
    parser.add_argument("--sample", default="", help="any word: another one gives another sample")
    parser.add_argument("--out", type=Path, default=Path("build/mutation"), help="folder of the verdicts")
    parser.add_argument("--again", type=Path, help="examine what was unseen in this earlier folder of verdicts")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT)]
    folder = options.out.resolve()
    table = json.loads(TESTS.read_text())
    preload()
    total: Counter[str] = Counter()
    for name in options.modules or table:
        only = None
        if options.again:
            file = options.again / name.removesuffix(".py").replace("/", ".") / "verdicts.jsonl"
            earlier = [json.loads(line) for line in file.read_text().splitlines()]
            only = {f"{row['before']} -> {row['after']}" for row in earlier if row["verdict"] == UNSEEN}
        found = examine(ROOT / name, table[name], options.most, only, folder, options.sample)
        count = Counter(row["verdict"] for row in found)
        for row in found:
            if row["verdict"] == UNSEEN:
                print(f"{name}:{row['line']}: {row['before']}  ->  {row['after']}")
        print(f"{name}: {len(found) - count[UNSEEN]} of {len(found)} seen", flush=True)
        total += count
    print(f"all: {total.total() - total[UNSEEN]} of {total.total()} seen")
    return 0


if __name__ == "__main__":
    sys.exit(main())
