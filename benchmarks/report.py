"""The table that a run prints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass
class Report:
    """The rows of the table: what, ours, the baseline's, the ratio, the goal, and whether it is met."""

    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(
        self,
        what: str,
        ours: Sequence[float],
        unit: str,
        *,
        baseline: Sequence[float] = (),
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Add a row; the goal is of the ratio to the baseline, or of the figure where there is none."""
        figure = median(ours)
        compared = figure / median(baseline) if baseline else figure
        goal, is_met = "", ""
        sign = "× baseline" if baseline else unit
        if at_least is not None:
            goal, is_met = f">= {at_least:g} {sign}", "yes" if compared >= at_least else "NO"
        if at_most is not None:
            goal, is_met = f"<= {at_most:g} {sign}", "yes" if compared <= at_most else "NO"
        row = (
            what,
            f"{figure:,.{1 if figure < 100 else 0}f} {unit}",
            f"{median(baseline):,.{1 if median(baseline) < 100 else 0}f} {unit}" if baseline else "-",
            f"{compared:.2f}" if baseline else "-",
            goal,
            is_met,
        )
        self.rows.append(row)
        print(" | ".join(row), flush=True)

    def compare(
        self,
        what: str,
        rounds: Sequence[Mapping[str, float]],
        label: str,
        baseline: str | None,
        *,
        at_most: float,
    ) -> None:
        """Add a row of times in milliseconds; its goal is a ratio to another time of the same rounds."""
        self.add(
            what,
            [times[label] for times in rounds],
            "ms",
            baseline=[times[baseline] for times in rounds] if baseline else (),
            at_most=at_most if baseline else None,
        )

    def print(self) -> None:
        """Print the table as Markdown."""
        heads = ("", "ours", "library", "ratio", "goal", "met")
        print("\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
        for row in self.rows:
            print("| " + " | ".join(row) + " |")
