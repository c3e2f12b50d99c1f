"""python -m unittest: all that can be said of the deployment without a cluster. What only a cluster could say:
deploy/kubernetes/README.md, "Not proven"."""

import json
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
import unittest
from functools import cache
from pathlib import Path

import helm_python
import yaml
from lint import END_SECONDS, lint, metric_names, pod_of, seconds
from manifests import CHART, KUBERNETES, ROOT, SETS, comparable, helm, kustomize, name_of, settings_of
from node import metrics_at, metrics_of_a_node, mount, running, settings
from schemas import models, schema

FAULTS = sorted((ROOT / "tests/deploy/faults").glob("*.yaml"))
kustomize, metrics_of_a_node = cache(kustomize), cache(metrics_of_a_node)


def metrics(things):
    for name in sorted(metric_names(things) - metrics_of_a_node()):
        yield "metrics", f"{name} is not on /metrics"


def found_in(things):
    """All that all checks say. After a wrong type the lint may not find its way, which is found enough."""
    found = [*schema(things), *models(things)]
    if any(check == "schema" for check, _ in found):
        return found
    return [*found, *lint(things), *settings(things), *metrics(things)]


def patched(things, fault):
    """A copy with one thing changed, by the operations of RFC 6902 that the faults need."""
    things = json.loads(json.dumps(things))
    thing = next(thing for thing in things if name_of(thing) == fault["object"])
    for step in fault["patch"]:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        inside = thing
        for part in way:
            inside = inside[int(part) if isinstance(inside, list) else part]
        if isinstance(inside, list):
            inside.append(step["value"]) if last == "-" else inside.__setitem__(int(last), step["value"])
        elif step["op"] == "remove":
            del inside[last]
        else:
            assert step["op"] == "add" or last in inside, f"nothing to replace at {step['path']}"
            inside[last] = step["value"]
    return things


class Deployments(unittest.TestCase):
    maxDiff = None

    def test_every_overlay_is_without_fault(self):
        for name, (folder, _) in SETS.items():
            with self.subTest(name):
                self.assertEqual(found_in(kustomize(folder)), [])

    def test_every_fault_is_caught_by_its_check(self):
        self.assertGreaterEqual(len(FAULTS), 25)
        for file in FAULTS:
            with self.subTest(file.stem):
                fault = yaml.safe_load(file.read_text())
                found = found_in(patched(kustomize(SETS[fault["set"]][0]), fault))
                self.assertIn(fault["caught_by"], {check for check, _ in found}, found)

    def test_chart_and_overlay_are_the_same(self):
        for name, (folder, values) in SETS.items():
            with self.subTest(name):
                ours, theirs = comparable(kustomize(folder)), comparable(helm(yaml.safe_load(values.read_text())))
                # The chart takes the image from its values and its version; the variant has no registry of its own.
                self.assertEqual(sorted(ours), sorted(theirs))
                for object in ours:
                    self.assertEqual(ours[object], theirs[object], object)

    def test_the_same_with_a_difference_is_not_the_same(self):
        folder, values = SETS["production"]
        other = yaml.safe_load(values.read_text()) | {"preStopSeconds": 11}
        self.assertNotEqual(comparable(kustomize(folder)), comparable(helm(other)))

    def test_the_chart_computes_the_grace(self):
        for deadline, expected in {"90s": 110, "2m": 140, "1m 30s": 110, None: 110}.items():
            with self.subTest(deadline):
                config = f'[drain]\ndeadline = "{deadline}"\n' if deadline else "[node]\n"
                node = next(thing for thing in helm({"config": config}) if name_of(thing) == "Deployment/skywave")
                self.assertEqual(pod_of(node)["terminationGracePeriodSeconds"], expected)
                self.assertEqual(10 + seconds(deadline or "90s") + END_SECONDS, expected)
        for config in ('[drain]\ndeadline = "1.5h"\n', "[drain\n"):
            with self.subTest(config), self.assertRaises(helm_python.HelmError):
                helm({"config": config})

    def test_the_chart_refuses_values_that_nobody_knows(self):
        for values in ({"replica": 3}, {"replicas": "3"}, {"autoscaling": {"by": "hope"}}, {"image": {"tag": "latest"}}):
            with self.subTest(values), self.assertRaises(helm_python.HelmError):
                helm(values)

    def test_helm_has_nothing_to_say_of_the_chart(self):
        found = [one["error"] for one in helm_python.lint(str(CHART))["messages"]]
        self.assertEqual([message for message in found if message != "icon is recommended"], [])

    def test_versions_are_those_of_the_workspace(self):
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((str(chart["version"]), str(chart["appVersion"])), (version, version))
        for name in ("production", "redis-cluster"):
            node = next(thing for thing in kustomize(SETS[name][0]) if name_of(thing) == "Deployment/skywave")
            self.assertEqual(pod_of(node)["containers"][0]["image"], f"registry.example.com/skywave:{version}")

    def test_rules_are_those_of_prometheus(self):
        groups = [group for file in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
                  for group in yaml.safe_load(file.read_text())["groups"]]
        self.assertTrue(groups)
        hint = "scripts/prometheus-rule.sh was forgotten"
        for things in (kustomize(SETS["production"][0]), helm(yaml.safe_load(SETS["production"][1].read_text()))):
            rule = next(thing for thing in things if thing["kind"] == "PrometheusRule")
            self.assertEqual(rule["spec"]["groups"], groups, hint)

    def test_a_node_takes_a_changed_config_map(self):
        def version(address):
            return re.search(r'skywave_config_info\{.*version="([^"]+)"', metrics_at(address))[1]

        with tempfile.TemporaryDirectory() as folder:
            file = mount(folder, "..1", "[auth]\nanonymous = true\n")
            with running("--config", file) as address:
                before = version(address)
                mount(folder, "..2", "[auth]\nanonymous = false\n")
                deadline = time.monotonic() + 20
                while version(address) == before:
                    self.assertLess(time.monotonic(), deadline, "the node did not see the change")
                    time.sleep(0.1)

    def test_prometheus_adapter_hands_out_what_the_autoscaler_asks_for(self):
        rules = yaml.safe_load((KUBERNETES / "components/hpa/prometheus-adapter-values.yaml").read_text())
        asked = {metric["pods"]["metric"]["name"] for thing in kustomize(SETS["production"][0])
                 if thing["kind"] == "HorizontalPodAutoscaler" for metric in thing["spec"]["metrics"] if "pods" in metric}
        self.assertEqual({rule["name"]["as"] for rule in rules["rules"]["custom"]}, asked)


class Systemd(unittest.TestCase):
    UNIT = ROOT / "deploy/systemd/skywave.service"

    def unit(self):
        return [line.partition("=")[::2] for line in self.UNIT.read_text().splitlines() if "=" in line and line[0] != "#"]

    def test_it_waits_for_the_whole_drain(self):
        text = (self.UNIT.parent / "skywave.toml").read_text()
        deadline = seconds(tomllib.loads(text)["drain"]["deadline"])
        self.assertGreaterEqual(int(dict(self.unit())["TimeoutStopSec"]), deadline + END_SECONDS)

    def test_the_node_takes_its_settings(self):
        text = (self.UNIT.parent / "skywave.toml").read_text().replace("/run/credentials/skywave.service", "/run/secrets/skywave")
        things = [{"kind": "ConfigMap", "metadata": {"name": "skywave"}, "data": {"skywave.toml": text}}]
        self.assertEqual(list(settings(things)), [])

    def test_every_credential_is_there(self):
        text = (self.UNIT.parent / "skywave.toml").read_text()
        for name in (value.partition(":")[0] for key, value in self.unit() if key == "LoadCredential"):
            self.assertIn(f"/run/credentials/skywave.service/{name}", text)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd-analyze here")
    def test_systemd_takes_it_and_finds_little_exposed(self):
        with tempfile.TemporaryDirectory() as folder:
            # `verify` wants a program that is there.
            unit = Path(folder, "skywave.service")
            unit.write_text(self.UNIT.read_text().replace("/usr/local/bin/skywave", "/bin/true"))
            done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
            ours = [line for line in done.stderr.splitlines() if "skywave" in line]
            self.assertEqual((done.returncode, ours), (0, []), done.stderr)
            done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=15", unit],
                                  capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
