"""The Kubernetes manifests: by Kubernetes' own schemas, and by what a real Prometheus makes of them."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.servers import Exporter, Prometheus, PrometheusRelease, Server, wait_until

pytestmark = pytest.mark.full

FOLDER = Path(__file__).parents[2] / "exporter" / "deploy" / "kubernetes"
POD_NAME = "prometheus-k8s-0"
OURS = {"monitoring.coreos.com/v1", "kustomize.config.k8s.io/v1beta1"}
"""Kinds that Kubernetes itself does not know."""

ENDPOINT_FIELDS = {
    "port",
    "path",
    "params",
    "interval",
    "scrapeTimeout",
    "honorTimestamps",
    "trackTimestampsStaleness",
    "relabelings",
}
"""Of a ServiceMonitor's endpoint, those that these tests know. Source: the operator's API, v1 Endpoint."""


def manifest(name: str) -> Any:
    (document,) = yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text())
    return document


def pod() -> Any:
    return manifest("daemonset")["spec"]["template"]


def names() -> Iterator[str]:
    return (path.stem for path in sorted(FOLDER.glob("*.yaml")))


@pytest.mark.parametrize("version", ["1.27", kubernetes_validate.latest_version()])
def test_kubernetes_knows_every_field(version: str) -> None:
    """Each manifest fits the strict schema of its kind, in an old and in the newest version."""
    standard = [name for name in names() if manifest(name)["apiVersion"] not in OURS]
    assert standard
    for name in standard:
        kubernetes_validate.validate(manifest(name), version, strict=True)
        wrong = manifest(name) | {"spec": manifest(name)["spec"] | {"hostNetwok": True}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, version, strict=True)


def test_kustomization_has_them_all_and_no_namespace() -> None:
    """`kubectl apply -k` applies every manifest, into the namespace that the user chooses."""
    assert {f"{name}.yaml" for name in names()} == {
        "kustomization.yaml",
        *manifest("kustomization")["resources"],
    }
    assert not [name for name in names() if "namespace" in json.dumps(manifest(name).get("metadata", {}))]


def test_the_pod_can_do_nothing_but_look() -> None:
    """No root, no capability, nothing writable, no token, no host, no GPU of its own."""
    spec = pod()["spec"]
    (container,) = spec["containers"]
    security = spec["securityContext"] | container["securityContext"]
    assert security == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    assert "nvidia.com/gpu" not in json.dumps(container["resources"])


def test_every_part_means_the_same_pods_and_port() -> None:
    """DaemonSet, Service, NetworkPolicy and ServiceMonitor select each other, by label and by port's name."""
    label = {"app.kubernetes.io/name": "llem-exporter"}
    service, monitor, policy = manifest("service"), manifest("servicemonitor"), manifest("networkpolicy")
    (port,) = service["spec"]["ports"]
    (container_port,) = pod()["spec"]["containers"][0]["ports"]
    assert pod()["metadata"]["labels"] == service["spec"]["selector"] == label
    assert manifest("daemonset")["spec"]["selector"]["matchLabels"] == label
    assert policy["spec"]["podSelector"]["matchLabels"] == label
    assert service["metadata"]["labels"] == monitor["spec"]["selector"]["matchLabels"] == label
    assert port["targetPort"] == container_port["name"]
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} == {port["name"]}
    (ingress,) = policy["spec"]["ingress"]
    assert [entry["port"] for entry in ingress["ports"]] == [container_port["name"]]


RELABELING = {"sourceLabels": "source_labels", "targetLabel": "target_label", "replacement": "replacement"}


def scrape_job(number: int, endpoint: dict[str, Any], target: Server) -> dict[str, Any]:
    """The scrape config that the operator makes of an endpoint, with $(POD_NAME) expanded."""
    assert set(endpoint) <= ENDPOINT_FIELDS
    expanded = json.loads(json.dumps(endpoint).replace("$(POD_NAME)", POD_NAME))
    given = {
        "params": expanded.get("params"),
        "honor_timestamps": expanded.get("honorTimestamps"),
        "relabel_configs": [
            {RELABELING[name]: value for name, value in entry.items()} for entry in expanded["relabelings"]
        ],
    }
    assert not expanded.get("trackTimestampsStaleness")
    assert (expanded["interval"], expanded["scrapeTimeout"]) == ("15s", "10s")
    return {
        "job_name": f"monitor/{number}",
        "metrics_path": expanded["path"],
        "scrape_interval": "1s",  # what takes 15 s there is waited for here
        "static_configs": [
            {
                "targets": [target.address],
                # The operator names a job after its service.
                "labels": {
                    "__meta_kubernetes_pod_node_name": "gpu-node-7",
                    "job": manifest("service")["metadata"]["name"],
                },
            }
        ],
        **{name: value for name, value in given.items() if value is not None},
    }


def test_the_service_monitor_scrapes_the_daemon_set(
    servers: ExitStack, tmp_path: Path, prometheus_release: PrometheusRelease
) -> None:
    """The exporter with the DaemonSet's arguments answers its probes, and both endpoints are scraped."""
    (container,) = pod()["spec"]["containers"]
    listen, *args = container["args"]
    assert listen == f"--web.listen-address=:{container['ports'][0]['containerPort']}"
    exporter = servers.enter_context(Exporter(args=[*args, "--replay", "demo"]))
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        path = container[probe]["httpGet"]["path"]
        wait_until(lambda path=path: exporter.fetch(path).status == 200, f"{probe} on {path}")  # type: ignore[misc]
    endpoints = manifest("servicemonitor")["spec"]["endpoints"]
    jobs = [scrape_job(number, endpoint, exporter) for number, endpoint in enumerate(endpoints)]
    prometheus = servers.enter_context(Prometheus(tmp_path, jobs, release=prometheus_release))
    prometheus.wait_for('llem_gpu_power_watts{instance="gpu-node-7"}')
    prometheus.wait_for('llem_gpu_power_trace_watts{instance="gpu-node-7"}')
    assert prometheus.value("min(up)") == 1
    assert sorted(one["metric"]["job"] for one in prometheus.query("up")) == ["llem-exporter", "llem-history"]
    assert "llem_history_scrapers 1.0" in exporter.metrics()
