import pytest

from farkas_exp.report import command


@pytest.fixture
def in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep ends in the tables of its report alone: pictures would take most of a test's time."""
    show = command.show
    monkeypatch.setattr(command, "show", lambda report, out, formats, *others: show(report, out, ("md",), *others))
