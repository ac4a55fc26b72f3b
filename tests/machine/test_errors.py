"""Errors of any kind in one line."""

from farkas_exp.machine.errors import in_one_line, message_of


def test_the_message_of_an_error_is_one_line_of_the_wanted_length_or_its_type():
    error = ValueError("first\n  second\tthird")
    assert message_of(error) == "first second third"
    assert message_of(error, 5) == "first"
    assert message_of(AssertionError()) == "AssertionError"
    assert in_one_line(error) == "ValueError: first second third"
