"""The stack of grafana/compose.yaml: what can be known of it without pulling images."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from compose_spec import PyCompose

from tests.fake_nvml import FakeDriver
from tests.servers import Exporter

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "grafana"
COMPOSE: dict[str, Any] = yaml.safe_load((GRAFANA / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PROVISIONING = GRAFANA / "provisioning"
EXPORTER_PORT = 9955


def mounts(name: str) -> dict[str, str]:
    """Where each source of a service is mounted; bind mounts have a path for a source."""
    found = {}
    for mount in SERVICES[name].get("volumes", []):
        source, target, *mode = mount.split(":")
        assert source.startswith("./") == (mode == ["ro"]), mount
        found[source] = target
    return found


def provisioned(kind: str) -> Any:
    (path,) = (PROVISIONING / kind).glob("*.yaml")
    return yaml.safe_load(path.read_text())


def test_it_is_a_compose_file() -> None:
    """The strict parser of compose-spec accepts the file, with anchors filled in."""
    parsed = PyCompose.from_yaml(yaml.safe_dump(COMPOSE))
    assert set(parsed.service_names()) == SERVICES.keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", ["1:1"]),
        ("read_only", 5),
        ("restart", "sometimes"),
        ("depends_on", {"x": {"condition": "y"}}),
    ],
)
def test_a_mistake_would_be_noticed(key: str, value: object) -> None:
    """The parser rejects the same file with an unknown key or value."""
    wrong = json.loads(json.dumps(COMPOSE))
    wrong["services"]["prometheus"][key] = value
    with pytest.raises(ValueError, match=r"services\.prometheus"):
        PyCompose.from_yaml(yaml.safe_dump(wrong))


def test_images_are_pinned() -> None:
    """Every image has a registry and a version, or is built from the exporter's Dockerfile."""
    problems = []
    for name, service in SERVICES.items():
        if build := service.get("build"):
            if (GRAFANA / build["context"]).resolve() != ROOT or not (ROOT / build["dockerfile"]).is_file():
                problems.append(f"{name}: {build}")
        elif not re.fullmatch(r"docker\.io/[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"]):
            problems.append(f"{name}: {service['image']}")
    assert problems == []


def test_images_are_those_that_were_tested() -> None:
    """Prometheus has the version that the tests build. Grafana has the version of the schema tests."""
    build = ROOT / "tests" / "servers" / "build"
    tested = re.search(r"prometheus\)\n.*?\bversion=(\S+)", build.read_text(), re.DOTALL)
    assert tested
    assert SERVICES["prometheus"]["image"].endswith(f":v{tested[1]}")
    manifest = json.loads((ROOT / "tests" / "grafana" / "dashboards" / "package.json").read_text())
    assert SERVICES["grafana"]["image"].endswith(f":{manifest['devDependencies']['@grafana/schema']}")


def test_ports_are_on_loopback() -> None:
    """All ports are on loopback, and no port is used twice in a profile."""
    problems = [
        f"{name}: {port}"
        for name, service in SERVICES.items()
        for port in service["ports"]
        if not re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)
    ]
    assert problems == []
    for profile in ("replay", "gpu"):
        ports = [one["ports"] for one in SERVICES.values() if one.get("profiles", [profile]) == [profile]]
        assert len({str(port) for port in ports}) == len(ports)


def test_a_service_can_do_no_more_than_it_must() -> None:
    """Services have no capabilities and no new privileges.

    Their configuration exists and is mounted read-only.
    """
    problems = []
    for name, service in SERVICES.items():
        if service["cap_drop"] != ["ALL"] or service["security_opt"] != ["no-new-privileges:true"]:
            problems.append(f"{name}: has privileges")
        for source in mounts(name):
            is_there = (
                (GRAFANA / source).is_dir() if source.startswith("./") else source in COMPOSE["volumes"]
            )
            if not is_there:
                problems.append(f"{name}: {source} is mounted and not there")
    assert problems == []


def test_without_a_gpu_it_replays() -> None:
    """.env selects the profile "replay". Each profile has one service, with the alias `exporter`."""
    chosen = dict(line.split("=") for line in (GRAFANA / ".env").read_text().splitlines() if line[0] != "#")
    assert chosen == {"COMPOSE_PROFILES": "replay"}
    by_profile = {profile: name for name, one in SERVICES.items() for profile in one.get("profiles", [])}
    assert by_profile == {"replay": "replay", "gpu": "gpu"}
    for name in by_profile.values():
        assert SERVICES[name]["networks"]["default"]["aliases"] == ["exporter"]
    (device,) = SERVICES["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"]) == ("nvidia", "all")
    assert "gpu" in device["capabilities"]


@pytest.mark.full
@pytest.mark.parametrize("name", ["replay", "gpu"])
def test_the_exporters_options_are_taken(tmp_path: Path, name: str) -> None:
    """The exporter starts with the options of the service, except the address, and its page has GPUs."""
    listen, *options = SERVICES[name]["command"]
    assert listen == f"--web.listen-address=:{EXPORTER_PORT}"
    with FakeDriver(tmp_path, gpus=1) as driver, Exporter(env=driver.env, args=options) as exporter:
        assert ('power_source="replay"' in exporter.metrics()) == (name == "replay")
        assert "llem_gpu_info{" in exporter.metrics()


def test_who_asks_whom() -> None:
    """Prometheus scrapes the exporter and sends alerts to Alertmanager, by their names in this network."""
    config = yaml.safe_load((GRAFANA / "prometheus" / "prometheus.yml").read_text())
    targets = {
        target
        for job in config["scrape_configs"]
        for one in job["static_configs"]
        for target in one["targets"]
    }
    assert targets == {f"exporter:{EXPORTER_PORT}"}
    (managers,) = (
        one["targets"] for job in config["alerting"]["alertmanagers"] for one in job["static_configs"]
    )
    assert managers == ["alertmanager:9093"]
    assert SERVICES["alertmanager"]["ports"] == ["127.0.0.1:9093:9093"]


@pytest.mark.parametrize(
    ("name", "source"), [("prometheus", "./prometheus"), ("alertmanager", "./alertmanager")]
)
def test_configuration_is_where_it_is_looked_for(name: str, source: str) -> None:
    """--config.file is inside a mounted folder, and the file exists."""
    (file,) = (
        word.partition("=")[2] for word in SERVICES[name]["command"] if word.startswith("--config.file")
    )
    inside = Path(file).relative_to(mounts(name)[source])
    assert (GRAFANA / source / inside).is_file()
    (data,) = (
        word.partition("=")[2]
        for word in SERVICES[name]["command"]
        if re.match(r"--storage\.(tsdb\.)?path", word)
    )
    assert data == mounts(name)[name]


DATASOURCE_KEYS = {"name", "uid", "type", "access", "url", "isDefault", "editable", "jsonData"}
"""Of Grafana's provisioning documentation: those used here, and no others."""
JSON_DATA_KEYS = {
    "prometheus": {"httpMethod", "prometheusType", "timeInterval"},
    "alertmanager": {"implementation"},
}
PROVIDER_KEYS = {
    "name": str,
    "type": str,
    "folder": str,
    "folderUid": str,
    "allowUiUpdates": bool,
    "disableDeletion": bool,
    "updateIntervalSeconds": int,
    "options": dict,
}


def test_datasources() -> None:
    """Each datasource has only known keys, a uid, and a service as address. One is the default."""
    file = provisioned("datasources")
    assert file.keys() == {"apiVersion", "datasources"}
    assert file["apiVersion"] == 1
    for one in file["datasources"]:
        assert one.keys() <= DATASOURCE_KEYS
        assert one["jsonData"].keys() == JSON_DATA_KEYS[one["type"]]
        url = urlsplit(one["url"])
        assert (url.scheme, url.hostname in SERVICES, one["access"]) == ("http", True, "proxy")
        assert f"127.0.0.1:{url.port}:{url.port}" in SERVICES[str(url.hostname)]["ports"]
    (default,) = (one for one in file["datasources"] if one.get("isDefault"))
    assert (default["type"], default["jsonData"]["httpMethod"]) == ("prometheus", "POST")


def test_the_datasource_knows_the_scrape_interval() -> None:
    """$__rate_interval depends on the scrape interval of the datasource."""
    config = yaml.safe_load((GRAFANA / "prometheus" / "prometheus.yml").read_text())
    (default,) = (one for one in provisioned("datasources")["datasources"] if one.get("isDefault"))
    assert default["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


def test_alert_rules_ask_the_provisioned_datasource() -> None:
    """Grafana-managed rules use a provisioned datasource."""
    known = {one["uid"] for one in provisioned("datasources")["datasources"]} | {"__expr__"}
    named = re.findall(
        r"datasourceUid: (\S+)", "".join(path.read_text() for path in (PROVISIONING / "alerting").iterdir())
    )
    assert set(named) <= known


def test_dashboards_are_found() -> None:
    """The path of the provider is the mount point of the dashboards. The home page is one of them."""
    file = provisioned("dashboards")
    assert file.keys() == {"apiVersion", "providers"}
    assert file["apiVersion"] == 1
    (provider,) = file["providers"]
    assert {key: type(value) for key, value in provider.items()} == PROVIDER_KEYS
    where = mounts("grafana")["./dashboards"]
    assert provider["options"] == {"path": where}
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (GRAFANA / "dashboards" / home.relative_to(where)).is_file()
    for kind in ("dashboards", "datasources"):
        assert mounts("grafana")[f"./provisioning/{kind}"] == f"/etc/grafana/provisioning/{kind}"
