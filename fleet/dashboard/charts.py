"""Line charts over time, one line per stream."""

from __future__ import annotations

import time
from collections.abc import Iterable

from nicegui import ui

COLOURS = ["#3b8fe8", "#2bb083", "#d19a22", "#e0604f", "#9a6fe0", "#36b3ba"]
GREY = "#788294"
WINDOW_S = 3600.0
GAP_S = 150.0
"""A gap longer than this breaks the line."""


def line_chart(unit: str) -> ui.echart:
    """An empty chart; `unit` is written at its vertical axis, times are in UTC."""
    line = {"lineStyle": {"color": "#8a94a533"}}
    chart = ui.echart(
        {
            "color": COLOURS,
            "animation": False,
            "useUTC": True,
            "title": {
                "text": "",
                "left": "center",
                "top": "middle",
                "textStyle": {"color": GREY, "fontSize": 13, "fontWeight": "normal"},
            },
            "grid": {"left": 44, "right": 38, "top": 28, "bottom": 26},
            "tooltip": {"trigger": "axis", "confine": True},
            "xAxis": {
                "type": "time",
                "name": "UTC",
                "nameTextStyle": {"color": GREY},
                "nameGap": 6,
                "axisLabel": {"color": GREY, "hideOverlap": True, "formatter": "{HH}:{mm}"},
                "axisLine": line,
            },
            "yAxis": {
                "type": "value",
                "name": unit,
                "nameTextStyle": {"color": GREY, "align": "right"},
                "axisLabel": {"color": GREY},
                "splitLine": line,
                "scale": False,
            },
            "series": [],
        }
    )
    return chart.style("height:210px")


def show_lines(
    chart: ui.echart, points: Iterable[tuple[str, float, float | None]], *, named: bool = True
) -> None:
    """Replace the chart's data by `(stream, Unix seconds, value)`; `named` shows a legend."""
    lines: dict[str, list[list[float | None]]] = {}
    last: dict[str, float] = {}
    for stream, at, value in points:
        if value is not None:
            line = lines.setdefault(stream, [])
            if at - last.get(stream, at) > GAP_S:
                line.append([round(last[stream] * 1000) + 1, None])
            line.append([round(at * 1000), round(value, 3)])
            last[stream] = at
    series = [
        {"name": name, "type": "line", "showSymbol": len(values) < 3, "smooth": 0.2, "lineStyle": {"width": 2},
         "areaStyle": {"opacity": 0.08}, "data": values}
        for name, values in sorted(lines.items())
    ]  # fmt: skip
    text = "" if series else "No reports in this time"
    if chart.options.get("series") == series and chart.options["title"]["text"] == text:
        return
    chart.options["title"]["text"] = text
    now = time.time()
    first = min((values[0][0] or 0.0 for values in lines.values()), default=now * 1000)
    chart.options["xAxis"]["min"] = max(first, round((now - WINDOW_S) * 1000))
    chart.options["series"] = series
    chart.options["legend"] = {"show": named, "textStyle": {"color": GREY}, "top": 0, "right": 0}
    chart.update()
