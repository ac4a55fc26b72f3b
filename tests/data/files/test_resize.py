"""The command that makes smaller copies of a data set."""

import pytest

from farkas_exp.data.files.resize import main


@pytest.mark.parametrize(
    ("option", "value", "least"), [("--workers", "-1", 0), ("--train", "0", 1), ("--test", "x", 1)]
)
def test_a_number_that_cannot_be_is_refused_in_one_line(tmp_path, capsys, option, value, least):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), "size=32", f"{option}={value}"])
    assert ended.value.code == 2
    assert f"argument {option}: '{value}' is not a number from {least} on" in capsys.readouterr().err
