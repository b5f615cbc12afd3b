"""The dashboard as Grafana will load it. What its queries find is tests/deploy/test_live.py's."""

import json
from itertools import combinations
from typing import Any

import yaml

from tests.support.readme import ROOT

FOLDER = ROOT / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboards" / "dispatcher.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
OF_THE_RUNBOOK = ["Tick Rate", "Tick Duration", "Outbox Throughput", "Redis Publish Rate", "DLQ Size", "Error Rate"]


def provisioned(kind: str, file: str) -> list[dict[str, Any]]:
    """The entries of a provisioning file."""
    text = (FOLDER / "provisioning" / kind / file).read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = yaml.safe_load(text)["providers" if kind == "dashboards" else kind]
    return entries


def test_it_is_found_where_the_runbook_says() -> None:
    [provider] = provisioned("dashboards", "messaging.yml")
    assert (provider["folder"], DASHBOARD["title"]) == ("Messaging", "Dispatcher")
    titles = [panel["title"] for panel in PANELS]
    row = titles.index("Dispatcher Overview")
    following = [panel["type"] for panel in PANELS[row + 1 :]].index("row")
    assert set(titles[row + 1 : row + 1 + following]) == set(OF_THE_RUNBOOK)


def test_every_query_goes_to_the_provisioned_prometheus() -> None:
    [source] = provisioned("datasources", "prometheus.yml")
    wanted = {"type": source["type"], "uid": source["uid"]}
    asked = [target["datasource"] for panel in PANELS for target in panel.get("targets", [])]
    asked += [panel["datasource"] for panel in PANELS if panel["type"] != "row"]
    asked += [each["datasource"] for part in ("templating", "annotations") for each in DASHBOARD[part]["list"]]
    assert all(each == wanted for each in asked)
    interval = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == interval["scrape_interval"]


def test_panels_are_named_explained_and_beside_each_other() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["title"]
        assert panel["type"] == "row" or (panel["description"] and panel["targets"])
        place = panel["gridPos"]
        assert place["w"] > 0
        assert place["x"] + place["w"] <= 24
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_the_sla_is_on_the_graphs() -> None:
    lines = {
        panel["title"]: [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        for panel in PANELS
        if panel["type"] == "timeseries"
    }
    assert lines["Commit to Redis"] == lines["Tick Duration"] == [None, 1.5]
    assert lines["Error Rate"] == [None, 0.02]
