"""Tests that the dashboard shows metrics that exist, in an order that can be read."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

type Template = dict[str, Any]

METRIC = re.compile(r"`([A-Z][A-Za-z]+)`")


@pytest.fixture
def widgets(source: Template) -> list[Any]:
    body = source["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    found: list[Any] = json.loads(body)["widgets"]
    return found


def test_each_metric_of_ours_is_documented_for_its_service(widgets: list[Any]) -> None:
    documented: dict[str, set[str]] = {}
    service = ""
    for line in Path("docs/operations.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and line.startswith("|"):
            service = cells[1].strip("`") if cells[1].startswith("`sluice-") else service
            if service and cells[1] in {"", f"`{service}`"}:
                documented.setdefault(service, set()).update(METRIC.findall(cells[2]))
    shown = [
        (metric[3], metric[1])
        for widget in widgets
        for metric in widget["properties"].get("metrics", [])
        if metric[0] == "Sluice"
    ]

    assert shown
    assert [each for each in shown if each[1] not in documented[each[0]]] == []


def test_what_it_refers_to_is_in_the_template(source: Template, widgets: list[Any]) -> None:
    names = re.findall(r"\$\{(\w+)(?:\.\w+)?\}", json.dumps(widgets))

    assert names
    assert [name for name in names if name not in source["Resources"]] == []


def test_it_is_read_from_top_to_bottom_without_gaps_or_overlaps(widgets: list[Any]) -> None:
    places = [(each["y"], each["x"], each["width"], each["height"]) for each in widgets]

    assert places == sorted(places)
    for (y, x, width, height), (next_y, next_x, _, _) in pairwise(places):
        assert (next_y, next_x) in {(y, x + width), (y + height, 0)}
        assert x + width <= 24
