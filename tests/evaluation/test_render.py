"""What people read: golden text, honest words for each outcome, and foreign text that stays text."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from schemas.evaluation import CostTable, QualityTable, Report
from stages.evaluation.blocks import verdict
from stages.evaluation.cells import printable
from stages.evaluation.render import escape_markdown, fit, render_markdown, render_terminal

GOLDEN = Path(__file__).parent / "report.md"
BUDGETS = {"digits": "50 + 50"}
UNKNOWN = [{"arm": "distilled", "seeds": [{"seed": 0, "agreement": 0.931}]}]


def arm(name: str, *finals: float, agreement: float | None = None, failed: str | None = None, **more: Any) -> Any:
    """An arm with the accuracies of its seeds, and an nll that goes with them."""
    seeds: list[Any] = [
        {
            "seed": seed,
            "selection": {"accuracy": final - 0.01, "nll": 1 - final},
            "final": {"accuracy": final, "nll": 1 - final},
            "agreement": agreement,
        }
        for seed, final in enumerate(finals)
    ]
    if failed:
        seeds.append({"seed": len(finals), "failure": failed})
    mean = sum(finals) / len(finals) if finals else None
    means = {} if mean is None else {"accuracy": mean, "nll": 1 - mean}
    return {"arm": name, "seeds": seeds, "mean": means, **more}


def table(low: float, value: float, high: float, **more: Any) -> QualityTable:
    """A subject whose comparison came out like this."""
    comparison = {
        "metric": "accuracy",
        "baseline": "source-finetuned",
        "difference": {"value": value, "low": low, "high": high},
        "confidence": 0.95,
        "seeds": 2,
        "seeds_better": 2 if value > 0 else 0,
        "seeds_worse": 0 if value > 0 else 2,
    }
    arms = [
        arm("teacher", 0.946),
        arm("distilled", 0.964, 0.972, agreement=0.95, failed="its loss is not finite at step 7"),
        arm("no-teacher", note="impossible at a budget of 0"),
        arm("source-only", 0.7, 0.72, agreement=0.7),
        arm("source-finetuned", 0.922, 0.93, agreement=0.91),
    ]
    asked = {
        "subject": "mobile",
        "domain": "digits",
        "metrics": ["accuracy", "nll"],
        "errors": ["nll"],
        "unbounded": ["nll"],
        "arms": arms,
        "comparison": comparison,
        "selection_rows": [50, 50],
        "test_rows": 503,
    }
    return QualityTable.model_validate({**asked, **more})


def teacher_table() -> QualityTable:
    return table(0, 0, 0, subject="resnet", domain="mnist", arms=[arm("teacher", 0.97)], comparison=None)


def cost(name: str, scale: int, memory: int | None) -> dict[str, Any]:
    return {
        "name": name,
        "parameters": 9_000 * scale,
        "macs": 1_250_000 * scale,
        "size_bytes": 40_000 * scale,
        "latency_ms": 0.5 * scale,
        "latency_p95_ms": 0.75 * scale,
        "throughput": 8_000 / scale,
        "peak_memory_bytes": memory,
    }


def report(**more: Any) -> Report:
    costs = {"costs": [cost("resnet", 16, 8 * 2**20), cost("mobile", 1, 2**20)]}
    host = {"processor": "Fast|CPU (TM) [2]", "cores": 2, "threads": 1, "accelerator": None, "torch": "2.14.1"}
    label_set = {"name": "resnet-on-digits", "teacher": "resnet", "domain": "digits", "rows": 1797}
    label_set |= {"fingerprint": "cd" * 16, "digest": "ab" * 16}
    asked: dict[str, Any] = {
        "name": "mnist-to-digits",
        "budgets": BUDGETS,
        "labels": [label_set],
        "qualities": [table(0.031, 0.042, 0.052).dump(), teacher_table().dump()],
        "costs": CostTable.model_validate({**costs, "host": host}).dump(),
        "notes": ["<b>changed</b> the *split* of [mnist](http://x) | see `plan`"],
    }
    return Report.model_validate({**asked, **more})


def terminal(shown: Report, width: int = 240) -> str:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(*render_terminal(shown), sep="\n")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


def test_markdown_is_as_written_down() -> None:
    assert render_markdown(report()) == GOLDEN.read_text(encoding="utf-8")


def test_terminal_says_the_same() -> None:
    text = terminal(report())
    for piece in (
        "mobile on digits: final quality (503 test rows)",
        "teacher (ref.)",
        "96.8 ± 0.6",
        "2 of 3",
        verdict(table(0.031, 0.042, 0.052), BUDGETS),
        "<b>changed</b> the *split* of [mnist](http://x) | see `plan`",
        "resnet / mobile",
    ):
        assert piece in text


def test_a_gain_is_told_with_its_interval() -> None:
    assert verdict(table(0.031, 0.042, 0.052), BUDGETS) == (
        "mobile: distilled 96.8 beats the best baseline source-finetuned 92.6 by 4.2 points [3.1, 5.2] "
        "(accuracy, 95% interval over seeds and test samples; better in 2 of 2 seeds) "
        "at a label budget of 50 + 50 on digits."
    )


def test_no_gain_and_harm_are_told_as_plainly() -> None:
    unclear = verdict(table(-0.008, 0.001, 0.006), BUDGETS)
    assert "no gain shown" in unclear
    assert "a difference of +0.1 points [-0.8, +0.6]" in unclear
    assert "no gain shown" in verdict(table(0.0, 0.01, 0.02), BUDGETS)
    worse = verdict(table(-0.052, -0.042, -0.031), {})
    assert "does worse than the best baseline source-finetuned 92.6 by 4.2 points [3.1, 5.2]" in worse
    assert worse.endswith("with all labels of digits.")
    assert "beats" not in unclear + worse


def test_less_is_better_turns_the_words_not_the_figures() -> None:
    found = table(-0.3, -0.2, -0.1)
    assert found.comparison is not None
    lower = found.model_copy(update={"comparison": found.comparison.model_copy(update={"metric": "nll"})})
    assert "distilled 0.032 beats the best baseline source-finetuned 0.074 by 0.200 [0.100, 0.300]" in verdict(
        lower, {}
    )


def test_one_seed_says_that_it_is_one() -> None:
    found = table(0.01, 0.02, 0.03)
    assert found.comparison is not None
    one = found.comparison.model_copy(update={"seeds": 1, "seeds_better": 1, "confidence": 0.9})
    said = verdict(found.model_copy(update={"comparison": one}), {})
    assert "90% interval over test samples, one seed; better in 1 of 1 seed)" in said


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        (UNKNOWN, "truth of the test rows of digits is unknown"),
        (UNKNOWN, "it says what the teacher says on 93.1% of them"),
        ([arm("teacher", 0.9), arm("distilled", 0.9)], "no baseline with figures"),
        ([arm("distilled", note="out of memory"), arm("no-teacher", 0.9)], "no student to compare"),
        ([arm("distilled", 0.9)], "trained without a teacher, so there is no distillation to judge"),
    ],
)
def test_what_cannot_be_compared_is_said_as_such(arms: list[Any], said: str) -> None:
    assert said in verdict(table(0, 0, 0, comparison=None, arms=arms), BUDGETS)


def full_table(subject: str = "mobile", **more: Any) -> QualityTable:
    """All the metrics of pictures, as wide as they get."""
    metrics = ["accuracy", "macro_f1", "balanced_accuracy", "calibration_error", "nll"]
    figures = [dict.fromkeys(metrics, value) for value in (0.6, 0.74)]
    seeds = [{"seed": n, "selection": item, "final": item, "agreement": 0.5} for n, item in enumerate(figures)]
    arms = [{"arm": name, "seeds": seeds, "mean": figures[0]} for name in ("teacher", "distilled", "source-finetuned")]
    asked = {"subject": subject, "metrics": metrics, "errors": metrics[3:], "unbounded": ["nll"], "arms": arms}
    return table(0.01, 0.02, 0.03, **{**asked, **more})


def test_a_narrow_terminal_breaks_no_number_and_no_header() -> None:
    text = terminal(report(qualities=[full_table().dump(), teacher_table().dump()]), width=80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line.split("  ") for line in lines if line.startswith("arm ")]
    assert [[cell.strip() for cell in head if cell] for head in heads] == [
        ["arm", "acc %", "F1 %", "bal acc %", "agree %", "seeds"],
        ["arm", "ECE % ↓", "nll ↓"],
    ]
    first = next(line for line in lines if line.startswith("source-finetuned"))
    assert first.split() == ["source-finetuned", *["67.0", "±", "9.9"] * 3, "50.0", "±", "0.0", "2"]
    assert "acc: accuracy; F1: macro f1; bal acc: balanced accuracy; ECE:" in " ".join(text.split())
    costs = lines[lines.index("Costs") :]
    assert costs[2].split() == ["model", "params", "MACs", "size", "latency", "samples/s", "memory"]
    assert costs[4].split() == ["resnet", "144,000", "20.00", "M", "625.0", "KiB", "8.00", "ms", "500", "8.0", "MiB"]


def test_tables_hold_what_has_room() -> None:
    assert fit([10, 5, 5, 5], room=80) == [[0, 1, 2, 3]]
    assert fit([10, 5, 5, 5], room=31) == [[0, 1, 2, 3]]
    assert fit([10, 5, 5, 5], room=30) == [[0, 1, 2], [0, 3]]
    assert fit([10, 5, 5, 5], room=30, beside=1) == [[0, 1, 3], [0, 2]]
    assert fit([90, 5, 50, 5], room=40) == [[0, 1], [0, 2], [0, 3]]
    assert fit([90], room=40) == [[0]]


def test_many_students_have_one_line_of_selection_each() -> None:
    tables = [full_table(name).dump() for name in ("one", "two", "three")]
    text = terminal(report(qualities=tables))
    lines = text[text.index("Selection quality (50 validation labels a seed)") :].split("\n")
    assert [line.split()[0] for line in lines[4:7]] == ["one", "two", "three"]
    assert "three, source-finetuned" in render_markdown(report(qualities=tables))
    assert "two, source-finetuned" in terminal(report(qualities=tables[:2]))
    assert text.count("Mean ± standard deviation") == 1


def test_spread_is_explained_where_there_is_one() -> None:
    single = table(0, 0, 0, arms=[arm("teacher", 0.9), arm("distilled", 0.8, agreement=0.7)], comparison=None)
    for text in (render_markdown(report(qualities=[single])), terminal(report(qualities=[single]))):
        assert "±" not in text
        assert "less is better; agree" in text


def test_a_student_without_a_teacher_is_not_called_distilled() -> None:
    arms = [arm("distilled", 0.9, failed="out of memory"), arm("no-teacher", note="no model was given")]
    alone = table(0, 0, 0, arms=arms, comparison=None)
    for text in (render_markdown(report(qualities=[alone])), terminal(report(qualities=[alone]))):
        assert "trained without a teacher" in text
        assert "student mobile failed in 1 of 2 trainings (trained, seed 1): out of memory" in text
        assert "distilled" not in text
        assert "no model was given" not in text


def test_a_reason_to_fail_is_told_once() -> None:
    seeds = [{"seed": 0, "failure": "out of memory"}, {"seed": 1, "failure": "not finite"}]
    arms = [
        arm("teacher", 0.9),
        arm("distilled", 0.9, 0.8, failed="out of memory"),
        {"arm": "source-only", "seeds": seeds, "note": "out of memory; not finite"},
        {"arm": "no-teacher", "seeds": [{"seed": 0, "failure": "no labels"}], "note": "impossible at a budget of 0"},
    ]
    text = terminal(report(qualities=[table(0, 0, 0, arms=arms, comparison=None)]))
    assert "student mobile failed in 2 of 5 trainings (distilled, seed 2; source-only, seed 0): out of memory\n" in text
    assert "student mobile failed in 1 of 5 trainings (source-only, seed 1): not finite\n" in text
    assert "no-teacher: impossible at a budget of 0\n" in text
    assert "no labels" not in text


def grid_report(*arms: Any, **more: Any) -> Report:
    """Points of a grid at temperatures 1, 2, …, with these distilled arms."""
    names = [f"mobile-temperature-{number}" for number in range(1, len(arms) + 1)]
    tables = [
        table(0, 0, 0, subject=name, arms=[one, arm("no-teacher", 0.5)], comparison=None).dump()
        for name, one in zip(names, arms, strict=True)
    ]
    points = {name: {"method.temperature": number} for number, name in enumerate(names, 1)}
    return report(qualities=tables, grids=[{"name": "mobile", "points": points}], **more)


def stopped_arm(rung: int, quality: float) -> Any:
    stopped = {"rung": rung, "rungs": 3, "metric": "accuracy", "quality": quality}
    return {"arm": "distilled", "seeds": [{"seed": 0, "stopped": stopped}], "note": f"stopped at rung {rung} of 3"}


def test_the_best_of_a_grid_is_chosen_by_selection_quality_alone() -> None:
    """The point of the better final quality stands beside it, and is not taken."""
    better_final = arm("distilled", 0.9, 0.9)
    for seed in better_final["seeds"]:
        seed["selection"]["accuracy"] = 0.6
    shown = grid_report(better_final, arm("distilled", 0.8, 0.82), arm("distilled", 0.7, 0.7))
    for text in (render_markdown(shown), terminal(shown)):
        words = " ".join(text.split())
        assert "mobile: 3 points of its grid" in words
        assert (
            "Best by selection quality: temperature 2 (80.0 ± 1.4); its final quality is 81.0 ± 1.4. "
            "Final quality chose nothing." in words
        )
    rows = [line.split("  ")[0] for line in terminal(shown).splitlines() if line.startswith("temperature")]
    assert rows == ["temperature 2", "temperature 3", "temperature 1"]


def test_a_terminal_shows_the_best_point_and_the_grid_a_file_all_of_them() -> None:
    shown = grid_report(arm("distilled", 0.8), arm("distilled", 0.9), stopped_arm(1, 0.3))
    assert [name for name in shown.grids[0].points if f"{name} on digits" in terminal(shown)] == [
        "mobile-temperature-2"
    ]
    in_file = [name for name in shown.grids[0].points if f"## {name} on digits" in render_markdown(shown)]
    assert in_file == ["mobile-temperature-1", "mobile-temperature-2"], "of a stopped one, its row says all"


def test_stopped_points_stand_last_by_rung_and_have_not_failed() -> None:
    shown = grid_report(stopped_arm(1, 0.9), stopped_arm(2, 0.4), arm("distilled", 0.3), stopped_arm(2, 0.5))
    text = terminal(shown)
    rows = [line for line in text.splitlines() if line.startswith("temperature")]
    assert [row.split()[1] for row in rows] == ["3", "4", "2", "1"]
    assert "90.0 at rung 1 of 3" in rows[-1]
    assert rows[-1].split()[-1] == "stopped"
    assert "failed" not in text
    alone = table(0, 0, 0, arms=[stopped_arm(2, 0.4)], comparison=None)
    assert verdict(alone, {}) == "mobile: it was stopped at rung 2 of 3, at a selection quality of 40.0 (accuracy)."


def test_a_point_with_a_failed_seed_stands_behind_those_without() -> None:
    shown = grid_report(arm("distilled", 0.9, failed="out of memory"), arm("distilled", 0.8))
    assert "Best by selection quality: temperature 2" in terminal(shown)


def test_equal_points_and_unknown_ones_are_told_as_such() -> None:
    assert "Best by selection quality, as 1 other has: temperature 1" in terminal(
        grid_report(arm("distilled", 0.8), arm("distilled", 0.8), arm("distilled", 0.7))
    )
    nothing = grid_report(*UNKNOWN, *UNKNOWN)
    assert "No validation labels were held back, so none of them can be chosen." in terminal(nothing)


def test_an_empty_report_is_still_one() -> None:
    assert render_markdown(Report(name="nothing")) == "# nothing\n"
    assert terminal(Report(name="nothing")).strip() == ""


@given(st.text(max_size=60))
def test_foreign_text_stays_on_its_line_and_is_no_markup(text: str) -> None:
    shown = escape_markdown(printable(text))
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    bare = shown.replace("\\\\", "")
    for mark in "`*[]<>|":
        assert bare.count(mark) == bare.count("\\" + mark)


def test_names_keep_their_underscores() -> None:
    assert escape_markdown("my_student_2 is _odd_") == r"my_student_2 is \_odd\_"
    assert escape_markdown("# title") == r"\# title"
    assert escape_markdown("1. item") == r"1\. item"


def test_terminal_markup_in_notes_is_shown() -> None:
    assert "[red]x[/red]" in terminal(report(notes=["[red]x[/red]\x1b[31m"]))
