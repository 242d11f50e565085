"""A table of numbers shows the same cells on a terminal, in Markdown and in HTML."""

from __future__ import annotations

from xml.etree.ElementTree import tostring

from rich.console import Console

from vcut_bench.numbers import Numbers, html, markdown, terminal

HOSTILE = "[bold]<script>alert(1)</script>[/bold] | x\ny"
TABLE = Numbers("Times", ["", "step loop", "ratio", "remark"], [["ours", "1.0 s", "2.00 x", "a | b"],
                ["theirs", "10.0 s", "", "-"]], "Medians.")  # fmt: skip


def printed(table: Numbers, width: int = 80) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(terminal(table))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_numbers_stand_to_the_right() -> None:
    assert [TABLE.is_numeric(i) for i in range(4)] == [False, True, True, False]
    lines = printed(TABLE)
    assert [line.split() for line in lines[-4:-2]] == [["ours", "1.0", "s", "2.00", "x", "a", "|", "b"],
                                                       ["theirs", "10.0", "s", "-"]]  # fmt: skip
    assert lines[-4].index("1.0 s") == lines[-3].index("10.0 s") + 1
    assert lines[-1].strip() == "Medians."
    assert "| --- | ---: | ---: | --- |" in markdown(TABLE)
    assert [cell.get("class") for cell in html(TABLE).iter("td")][:3] == ["number", "number", "words"]


def test_long_words_wrap_and_numbers_do_not() -> None:
    rows = [["a configuration of many words " * 3, "1234.57 s", "a reason of many words " * 5]]
    lines = printed(Numbers("t", ["", "the longest head of all", "reason"], rows), width=60)
    assert max(map(len, lines)) <= 60
    assert any("1234.57 s" in line for line in lines)
    assert not any("…" in line for line in lines)


def test_markdown_has_title_table_and_note() -> None:
    assert markdown(TABLE).splitlines() == [
        "**Times**",
        "",
        "|  | step loop | ratio | remark |",
        "| --- | ---: | ---: | --- |",
        "| ours | 1.0 s | 2.00 x | a \\| b |",
        "| theirs | 10.0 s |  | - |",
        "",
        "Medians.",
    ]


def test_cells_are_text_everywhere() -> None:
    table = Numbers(HOSTILE, [HOSTILE, "x"], [[HOSTILE, "1"]], HOSTILE)
    page = tostring(html(table), encoding="unicode", method="html")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 4
    assert len(markdown(table).split("\n\n")[1].splitlines()) == 3
    assert "[bold]<script>" in " ".join(printed(table))
