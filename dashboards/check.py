#!/usr/bin/env python3
"""Checks dashboards, rules and runbooks against each other and, optionally, against a live Prometheus.

    dashboards/check.py                                              # files only
    dashboards/check.py --prometheus http://127.0.0.1:9090           # every query must run
    dashboards/check.py --prometheus http://127.0.0.1:9090 --strict  # and must return data: needs a few minutes of traffic

Without --prometheus it checks that
- every panel has a title, a description, a unit, the datasource, a query and a unique id;
- every metric used by a dashboard, rule or test exists in common/src/telemetry/metrics.rs with the labels
  used, or is recorded;
- every alert has a severity, a summary, a description, a test and a runbook, and every runbook has an alert.

Uses only the standard library. Exits with status 1 if a check fails.
"""

import argparse
import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
METRICS = ROOT / "common/src/telemetry/metrics.rs"
RULES = HERE / "prometheus/rules"
TESTS = HERE / "prometheus/tests"
DASHBOARDS = HERE / "grafana/dashboards"
RUNBOOKS = ROOT / "docs/runbooks"
RUNBOOK_URL = "https://github.com/tenantry/tenantry/blob/main/docs/runbooks/"
RUNBOOK_PARTS = ["What it means", "User impact", "Check first", "Fix", "Prevent"]
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
SCHEMA_VERSION = 39
TIMEOUT_SECONDS = 10

# Labels that Prometheus adds to every scraped series.
SCRAPE_LABELS = {"job", "instance"}
# Metrics that every process, or Prometheus itself, exposes.
STANDARD = {
    "ALERTS": {"alertname", "alertstate", "severity"},
    "up": set(),
    "process_cpu_seconds_total": set(),
    "process_max_fds": set(),
    "process_open_fds": set(),
    "process_resident_memory_bytes": set(),
    "process_start_time_seconds": set(),
}
# Values for Grafana's built-in variables while queries are checked.
VARIABLES = {"__rate_interval": "1m", "__interval": "1m", "__range": "1h"}


class Report:
    """Counts the checks that pass and prints those that fail."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def expect(self, holds, place, problem):
        if holds:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {place}: {problem}")
        return holds


# ---- reading the files -------------------------------------------------------------------------------------------------


def declared_metrics():
    """Maps each metric in metrics.rs to its labels; a histogram appears as its three series."""
    metrics = {}
    for kind, name, labels in re.findall(r':\s*(\w+)\s*=\s*"(tenantry_\w+)"\s*(?:\[([^\]]*)\])?', METRICS.read_text()):
        # Listed values follow their label: "outcome": "sent" | "refused".
        labels = set(re.findall(r'"(\w+)"', re.sub(r':\s*"\w+"(?:\s*\|\s*"\w+")*', "", labels)))
        if kind.startswith("Histogram"):
            metrics |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            metrics[name] = labels
    return metrics


def rules():
    """Returns every rule as (file, kind, name, text of its block)."""
    found = []
    for path in sorted(RULES.glob("*.yml")):
        for block in re.split(r"(?m)^(?= *- (?:alert|record): )", path.read_text())[1:]:
            kind, name = re.match(r"\s*- (alert|record): (\S+)", block).groups()
            found.append((path.name, kind, name, block))
    return found


def rule_expression(block):
    """Returns the `expr` of a rule, written on one line or as a literal block."""
    inline = re.search(r"(?m)^\s*expr: (?!\|)(.+)$", block)
    if inline:
        return inline.group(1)
    folded = re.search(r"(?m)^(\s*)expr: \|\n((?:\1\s+.*\n|\s*\n)+)", block)
    return folded.group(2) if folded else ""


def panels_of(dashboard):
    """Yields every panel, including those in collapsed rows, but not the rows themselves."""
    for panel in dashboard.get("panels", []):
        if panel.get("type") == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def runbook_queries(path):
    return re.findall(r"(?ms)^ *```promql\n(.*?)^ *```$", path.read_text())


# ---- metrics in queries --------------------------------------------------------------------------------------------


def metrics_named(expression):
    """Returns every metric in a PromQL expression, with the labels in its selector."""
    named = []
    pattern = r"(?<![\w:$\"])((?:\w+:)?(?:tenantry|process)_\w+(?::\w+)?|up|ALERTS)(?![\w:(])\s*(\{[^}]*\})?"
    for name, selector in re.findall(pattern, expression):
        named.append((name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", selector)))))
    return named


def check_metrics(report, place, expression, declared, recorded):
    for name, labels in metrics_named(expression):
        if ":" in name:
            report.expect(name in recorded, place, f"{name} is not recorded by any rule")
            continue
        known = declared.get(name, STANDARD.get(name))
        if report.expect(known is not None, place, f"{name} is not in metrics.rs"):
            unknown = labels - known - SCRAPE_LABELS
            report.expect(not unknown, place, f"{name} has no label {', '.join(sorted(unknown))}")


# ---- checks --------------------------------------------------------------------------------------------------------


def check_rules(report, declared, recorded):
    alerts = {}
    for file, kind, name, block in rules():
        place = f"{file} {name}"
        expression = rule_expression(block)
        report.expect(expression, place, "has no expression")
        check_metrics(report, place, expression, declared, recorded)
        if kind == "record":
            continue
        severity = re.search(r"(?m)^\s*severity: (\S+)$", block)
        report.expect(severity and severity.group(1) in ("page", "ticket"), place, "severity must be page or ticket")
        for annotation in ("summary", "description"):
            report.expect(re.search(rf"(?m)^\s*{annotation}: \S", block), place, f"has no {annotation}")
        url = re.search(r"(?m)^\s*runbook_url: (\S+)$", block)
        report.expect(url and url.group(1) == f"{RUNBOOK_URL}{name}.md", place, f"runbook_url must be {RUNBOOK_URL}{name}.md")
        alerts[name] = place
    return alerts


def check_runbooks(report, alerts):
    books = {path.stem: path for path in RUNBOOKS.glob("*.md") if path.stem != "README"}
    index = RUNBOOKS / "README.md"
    listed = index.read_text() if index.exists() else ""
    for name, place in alerts.items():
        report.expect(name in books, place, f"has no runbook docs/runbooks/{name}.md")
        report.expect(f"({name}.md)" in listed, place, "is not in docs/runbooks/README.md")
    for name, path in sorted(books.items()):
        report.expect(name in alerts, path.name, "has no alert of this name")
        text = path.read_text()
        missing = [part for part in RUNBOOK_PARTS if not re.search(rf"(?m)^## {part}$", text)]
        report.expect(not missing, path.name, f"is missing the sections {', '.join(missing)}")


def check_runbook_queries(report, declared, recorded):
    for path in sorted(RUNBOOKS.glob("*.md")):
        for query in runbook_queries(path):
            check_metrics(report, path.name, query, declared, recorded)


def check_tests(report, alerts, declared, recorded):
    """A mistyped metric in a test would make \"nothing fires\" pass for the wrong reason."""
    tested = ""
    for path in sorted(TESTS.glob("*.yml")):
        text = path.read_text()
        tested += text
        for series in re.findall(r"series: '([^']*)'", text):
            check_metrics(report, path.name, series, declared, recorded)
    for name, place in alerts.items():
        fires = re.search(rf'labels: \'{{alertname="{name}"', tested) or re.search(rf"alertname: {name}\b", tested)
        report.expect(fires, place, "has no test in which it fires")


def check_dashboard(report, path, dashboard, declared, recorded):
    place = path.name
    report.expect(dashboard.get("schemaVersion") == SCHEMA_VERSION, place, f"schemaVersion must be {SCHEMA_VERSION}")
    report.expect(dashboard.get("uid") == f"tenantry-{path.stem}", place, f"uid must be tenantry-{path.stem}")
    report.expect(dashboard.get("title") and dashboard.get("description"), place, "must have a title and a description")
    ids = [panel.get("id") for panel in dashboard.get("panels", [])]
    ids += [panel.get("id") for row in dashboard.get("panels", []) for panel in row.get("panels", [])]
    report.expect(None not in ids and len(ids) == len(set(ids)), place, "each panel must have a unique id")
    names = {variable["name"] for variable in dashboard.get("templating", {}).get("list", [])}
    titles = [panel.get("title") for panel in panels_of(dashboard)]
    report.expect(len(titles) == len(set(titles)), place, "each panel must have a unique title")
    taken = {}
    for panel in dashboard.get("panels", []):
        grid = panel.get("gridPos", {})
        report.expect(0 <= grid.get("x", -1) and grid.get("x", 0) + grid.get("w", 25) <= 24, place, f"{panel.get('title')} extends beyond the grid")
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        over = {taken[cell] for cell in cells & taken.keys()}
        report.expect(not over, place, f"{panel.get('title')} overlaps {', '.join(map(str, over))}")
        taken |= dict.fromkeys(cells, panel.get("title"))
    for panel in panels_of(dashboard):
        here = f"{place} {panel.get('title') or panel.get('id')}"
        for part in ("title", "description"):
            report.expect(panel.get(part), here, f"has no {part}")
        report.expect(panel.get("fieldConfig", {}).get("defaults", {}).get("unit"), here, "has no unit")
        report.expect(panel.get("datasource") == DATASOURCE, here, "must name the datasource `prometheus`")
        targets = panel.get("targets", [])
        report.expect(targets, here, "has no query")
        references = [target.get("refId") for target in targets]
        report.expect(len(references) == len(set(references)), here, "each query must have a unique refId")
        for target in targets:
            report.expect(target.get("datasource") == DATASOURCE, here, "each query must name the datasource `prometheus`")
            report.expect(target.get("expr"), here, f"query {target.get('refId')} is empty")
            check_metrics(report, here, target.get("expr", ""), declared, recorded)
            unknown = set(re.findall(r"\$\{?(\w+)", target.get("expr", ""))) - names - VARIABLES.keys()
            report.expect(not unknown, here, f"unknown variable {', '.join(sorted(unknown))}")
        for link in panel.get("links", []):
            slug = link["url"].removeprefix(RUNBOOK_URL).removesuffix(".md")
            report.expect((RUNBOOKS / f"{slug}.md").exists(), here, f"links to {link['url']}, which does not exist")


# ---- live ----------------------------------------------------------------------------------------------------------


def ask(server, path, **parameters):
    """Returns the `data` of a response from Prometheus; raises RuntimeError with the reason if there is none."""
    url = f"{server.rstrip('/')}{path}"
    body = urllib.parse.urlencode(parameters).encode() if parameters else None
    try:
        with urllib.request.urlopen(url, body, timeout=TIMEOUT_SECONDS) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        try:
            reason = json.load(error).get("error", error)
        except ValueError:
            reason = error
        raise RuntimeError(str(reason)) from error
    except (OSError, ValueError, KeyError) as error:
        raise RuntimeError(str(error)) from error


def substituted(expression, names):
    for name, value in VARIABLES.items():
        expression = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", value, expression)
    for name in names:
        expression = re.sub(rf"\$(?:{name}\b|\{{{name}(?::\w+)?\}})", ".*", expression)
    return expression


def has_value(data):
    """Returns whether the result contains a number; a quantile of no data is NaN."""
    if data["resultType"] == "scalar":
        return True
    return any(not math.isnan(float(sample["value"][1])) for sample in data["result"])


def check_query(report, server, place, expression, strict):
    try:
        data = ask(server, "/api/v1/query", query=expression, time=time.time())
    except RuntimeError as error:
        report.expect(False, place, f"{error}: {expression}")
        return
    report.expect(not strict or has_value(data), place, f"returned no data: {expression}")


def check_live(report, server, strict):
    try:
        groups = ask(server, "/api/v1/rules")["groups"]
    except RuntimeError as error:
        report.expect(False, server, f"does not answer: {error}")
        return
    loaded = {rule["name"] for group in groups for rule in group["rules"]}
    for _, _, name, _ in rules():
        report.expect(name in loaded, name, "is not loaded by the server")
    for group in groups:
        for rule in group["rules"]:
            report.expect(rule["health"] != "err", rule["name"], rule.get("lastError", "fails"))
            for alert in rule.get("alerts", []):
                words = " ".join(alert["annotations"].values())
                report.expect("error expanding template" not in words, rule["name"], f"its annotations do not expand: {words}")
    for path in sorted(RUNBOOKS.glob("*.md")):
        for query in runbook_queries(path):
            check_query(report, server, path.name, query, False)
    for path in sorted(DASHBOARDS.glob("*.json")):
        dashboard = json.loads(path.read_text())
        variables = dashboard.get("templating", {}).get("list", [])
        names = [variable["name"] for variable in variables]
        for variable in variables:
            series = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.get("definition", ""))
            place = f"{path.name} ${variable['name']}"
            if report.expect(series, place, "must be label_values(series, label)"):
                check_query(report, server, place, f"count by ({series.group(2)}) ({series.group(1)})", strict)
        for panel in panels_of(dashboard):
            for target in panel.get("targets", []):
                place = f"{path.name} {panel.get('title')} {target.get('refId')}"
                check_query(report, server, place, substituted(target.get("expr", ""), names), strict)
        for annotation in dashboard.get("annotations", {}).get("list", []):
            if "expr" in annotation:
                check_query(report, server, f"{path.name} {annotation['name']}", substituted(annotation["expr"], names), False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--prometheus", metavar="URL", help="also run every query against this server")
    parser.add_argument("--strict", action="store_true", help="with --prometheus: a query that returns no data is a failure; needs a few minutes of traffic")
    options = parser.parse_args()
    if options.strict and not options.prometheus:
        parser.error("--strict needs --prometheus")

    report = Report()
    declared = declared_metrics()
    report.expect(declared, METRICS.name, "no metric found")
    recorded = {name for _, kind, name, _ in rules() if kind == "record"}
    alerts = check_rules(report, declared, recorded)
    check_runbooks(report, alerts)
    check_runbook_queries(report, declared, recorded)
    check_tests(report, alerts, declared, recorded)
    for path in sorted(DASHBOARDS.glob("*.json")):
        try:
            dashboard = json.loads(path.read_text())
        except ValueError as error:
            report.expect(False, path.name, f"is not JSON: {error}")
            continue
        check_dashboard(report, path, dashboard, declared, recorded)
    if options.prometheus:
        check_live(report, options.prometheus, options.strict)

    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
