"""Text from outside is seen as it is, wherever it is printed, and obeyed nowhere."""

from __future__ import annotations

import io
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ddslogd.cli.progress import Lines
from ddslogd.doctor import report
from ddslogd.doctor.check_result import CheckResult, Level
from ddslogd.model.printable import printable, printable_lines
from ddslogd.monitoring.rich_text import shown

HOSTILE = "a\x1b]52;c;ZXZpbA==\x07b\x9b31mc\u202ed\ne\u2028f\x7fg\ud800[bold]"
OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def obeyed(text: str) -> list[str]:
    """Return the characters that a terminal obeys or a reader does not see, but for ends of lines."""
    return [character for character in text if character != "\n" and unicodedata.category(character) in OBEYED]


@given(st.text())
def test_no_character_is_obeyed_and_the_line_is_one(text: str) -> None:
    made = printable(text)

    assert (obeyed(made), made.count("\n")) == ([], 0)


def test_what_is_seen_stays_as_it_is() -> None:
    text = "prod-orders_1 Ümläut 日本 [x] 100 % \u00a0"

    assert printable(text) == text


def test_what_is_not_seen_is_its_code_point() -> None:
    assert printable("a\x1bb\u202ec\ud800d\ne") == "a⟨U+001B⟩b⟨U+202E⟩c⟨U+D800⟩d e"


def test_lines_stay_lines() -> None:
    assert printable_lines("one\ntwo\x1b") == "one\ntwo⟨U+001B⟩"


def test_a_cell_holds_no_markup_and_no_control() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    console.print(shown(HOSTILE), highlight=False)

    assert isinstance(console.file, io.StringIO)
    assert (obeyed(console.file.getvalue()), "[bold]" in console.file.getvalue()) == ([], True)


def test_lines_of_progress_and_findings_are_printable() -> None:
    buffer = io.StringIO()
    Lines(Console(file=buffer, width=300))._print(f"stored {HOSTILE}")
    findings = [CheckResult(level=Level.FAIL, area="login", what=HOSTILE, todo=HOSTILE)]

    assert (obeyed(buffer.getvalue()), obeyed(report.lines(findings))) == ([], [])


# --- the streams of a command -----------------------------------------------------------------------------------------
