"""From the GPU to the message: fake driver, exporter, Prometheus with these files, Alertmanager, webhook.

In these tests a minute of the rules lasts a second, and every scrape and evaluation is half a second apart.
"""

import copy
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.fake_nvml import FakeDriver
from tests.fake_nvml.load import constant
from tests.grafana.rule_files import GRAFANA, document, write_rules
from tests.grafana.webhook import Webhook
from tests.servers import Alertmanager, Exporter, Prometheus, PrometheusRelease, wait_until

pytestmark = pytest.mark.full
SECONDS_PER_MINUTE = 1.0
EVERY = "500ms"
GPUS = 6
DROPPING, NEAR_LIMIT, LOST, BRAKED, HOT, MISCOUNTING = range(GPUS)
"""Each fault has a GPU of its own."""
IDLE_WATTS, LIMIT_WATTS = 300.0, 700.0
# For 10 min and a mean over 5 min last 15 s here; the rest is for a busy machine.
ARRIVES_S = 120.0
DROPS, DROP_ARRIVES_S = 4, 15.0


@dataclass(frozen=True, slots=True)
class Rig:
    """All that runs."""

    driver: FakeDriver
    exporter: Exporter
    prometheus: Prometheus
    webhook: Webhook


def prometheus_configuration(
    exporter: Exporter, alertmanager: Alertmanager, rules: list[str]
) -> dict[str, Any]:
    """grafana/prometheus/prometheus.yml, with these servers as targets, and faster."""
    config = copy.deepcopy(document("prometheus.yml"))
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), EVERY)
    config["rule_files"] = rules
    config["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [alertmanager.address]}]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [exporter.address]}]
    return config


def alertmanager_configuration(webhook: Webhook) -> dict[str, Any]:
    """grafana/alertmanager/alertmanager.yml, faster, and everyone is the webhook."""
    config: dict[str, Any] = yaml.safe_load((GRAFANA / "alertmanager" / "alertmanager.yml").read_text())
    config["receivers"][0]["webhook_configs"] = [{"url": webhook.url, "send_resolved": True}]
    routes = [config["route"]]
    for route in routes:
        route |= {name: "500ms" for name in ("group_wait", "group_interval") if name in route}
        routes += route.get("routes", [])
    return config


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, prometheus_release: PrometheusRelease) -> Iterator[Rig]:
    """Six GPUs at 300 W, scraped, with no alert."""
    folder = tmp_path_factory.mktemp("rig")
    for server in ("alertmanager", "prometheus"):
        (folder / server).mkdir()
    with ExitStack() as servers:
        driver = servers.enter_context(FakeDriver(folder, gpus=GPUS, power_limit_watts=LIMIT_WATTS))
        for gpu in driver.gpus:
            gpu.set_load(constant(IDLE_WATTS))
        exporter = servers.enter_context(Exporter(env=driver.env, args=["--no-collector.codecarbon"]))
        webhook = servers.enter_context(Webhook())
        alertmanager = servers.enter_context(
            Alertmanager(folder / "alertmanager", alertmanager_configuration(webhook))
        )
        rules = write_rules(folder / "rules", seconds_per_minute=SECONDS_PER_MINUTE)
        config = prometheus_configuration(exporter, alertmanager, rules)
        prometheus = servers.enter_context(
            Prometheus(
                folder / "prometheus",
                config.pop("scrape_configs"),
                config=config,
                args=["--rules.alert.resend-delay=1s"],
                release=prometheus_release,
            )
        )
        wait_until(
            lambda: len(prometheus.query("uuid:llem_gpu_power_watts:mean5m")) == GPUS,
            "all GPUs in Prometheus",
        )
        yield Rig(driver, exporter, prometheus, webhook)


@pytest.fixture(scope="module")
def faulty(rig: Rig) -> Rig:
    """The rig with a fault on each GPU, so that the waits for their alerts overlap."""
    gpus = rig.driver.gpus
    gpus[NEAR_LIMIT].set_load(constant(690.0))
    gpus[LOST].lost = True
    gpus[BRAKED].throttle_reasons = 0x80
    gpus[HOT].throttle_reasons = 0x40
    gpus[MISCOUNTING].energy_gain = 1.2
    return rig


def test_every_rule_runs_on_a_real_page(rig: Rig) -> None:
    """No rule fails, and the recording rules have values."""
    rig.prometheus.wait_for("fleet:llem_gpu_energy_joules:increase5m")
    # More at first: what came before the first scrape is caught up on.
    rig.prometheus.wait_for("abs(instance:llem_history_confirmed_samples:ratio5m - 1) < 0.1")
    fleet_watts = rig.prometheus.value("fleet:llem_gpu_power_watts:sum")
    assert fleet_watts == pytest.approx(GPUS * IDLE_WATTS, rel=1e-6)
    groups = json.loads(rig.prometheus.fetch_text("/api/v1/rules"))["data"]["groups"]
    ran = [rule for group in groups for rule in group["rules"] if rule["health"] != "unknown"]
    assert {rule["health"] for rule in ran} == {"ok"}
    # CodeCarbon does not run here, and kWh of a day come only every 5 min.
    absent = ("codecarbon", "1d")
    for name in (rule["name"] for rule in ran if rule["type"] == "recording"):
        if not any(word in name for word in absent):
            assert rig.prometheus.query(name), name


def test_a_hardware_counter_that_counts_too_much_arrives(faulty: Rig) -> None:
    """LlemBackendsDisagree fires for the GPU with the wrong counter, and for no other."""
    gpu = faulty.driver.gpus[MISCOUNTING]
    notice = faulty.webhook.wait_for("LlemBackendsDisagree", "firing", 2 * ARRIVES_S)
    assert notice.labels["uuid"] == gpu.uuid
    percent = re.search(r"lie ([\d.]+)% apart", notice.annotations["description"])
    assert percent
    assert 5 < float(percent[1]) < 25
    assert {notice.labels["uuid"] for notice in faulty.webhook.of("LlemBackendsDisagree", "firing")} == {
        gpu.uuid
    }


def test_a_load_near_the_limit_arrives_with_its_labels_and_text_and_resolves(faulty: Rig) -> None:
    """The alert fires only for the one of six GPUs that is under load."""
    gpu, webhook = faulty.driver.gpus[NEAR_LIMIT], faulty.webhook
    notice = webhook.wait_for("LlemGpuNearPowerLimit", "firing", ARRIVES_S)
    assert notice.labels == {
        "alertname": "LlemGpuNearPowerLimit",
        "instance": faulty.exporter.address,
        "job": "llem",
        "gpu": f"{NEAR_LIMIT}",
        "uuid": gpu.uuid,
        "severity": "warning",
    }
    assert (
        notice.annotations["summary"]
        == f"GPU {NEAR_LIMIT} of {faulty.exporter.address} is at its power limit"
    )
    percent = re.fullmatch(
        rf"{gpu.uuid} has drawn ([\d.]+)% of its enforced limit, .*", notice.annotations["description"]
    )
    assert percent
    assert 95 < float(percent[1]) <= 100 * 690 / LIMIT_WATTS + 0.1
    assert notice.annotations["runbook_url"].startswith("grafana/README.md#")

    gpu.set_load(constant(IDLE_WATTS))
    webhook.wait_for("LlemGpuNearPowerLimit", "resolved", ARRIVES_S, uuid=gpu.uuid)
    assert {notice.labels["uuid"] for notice in webhook.of("LlemGpuNearPowerLimit", "firing")} == {gpu.uuid}


def test_a_sudden_drop_while_in_use_arrives_and_resolves(faulty: Rig) -> None:
    """The drop lasts only seconds. It is repeated if a busy machine missed it."""
    gpu, webhook = faulty.driver.gpus[DROPPING], faulty.webhook
    for _ in range(DROPS):
        gpu.set_load(constant(650.0))
        faulty.prometheus.wait_for(
            f'uuid:llem_gpu_power_watts:mean5m{{gpu="{DROPPING}"}} offset 3s > 640', ARRIVES_S
        )
        gpu.set_load(constant(200.0))
        with suppress(TimeoutError):
            dropped = webhook.wait_for("LlemGpuPowerDrop", "firing", DROP_ARRIVES_S, uuid=gpu.uuid)
            break
    else:
        pytest.fail(f"none of {DROPS} drops arrived")
    assert dropped.labels["severity"] == "warning"
    assert re.search(r" fell to \d+ W$", dropped.annotations["summary"])
    webhook.wait_for("LlemGpuPowerDrop", "resolved", ARRIVES_S, uuid=gpu.uuid)


def test_power_brake_and_heat_arrive(faulty: Rig) -> None:
    """The alerts follow the throttle reasons that the driver reports."""
    brake = faulty.webhook.wait_for("LlemGpuPowerBrake", "firing", ARRIVES_S)
    assert (brake.labels["gpu"], brake.labels["severity"]) == (f"{BRAKED}", "critical")
    heat = faulty.webhook.wait_for("LlemGpuThermalSlowdown", "firing", ARRIVES_S)
    assert (heat.labels["gpu"], heat.labels["reason"]) == (f"{HOT}", "hw_thermal")


def test_a_lost_gpu_and_a_killed_exporter_arrive_and_resolve(faulty: Rig) -> None:
    """A killed exporter fires LlemExporterDown, but not LlemGpuVanished for its GPUs."""
    gpu, webhook = faulty.driver.gpus[LOST], faulty.webhook
    notice = webhook.wait_for("LlemGpuVanished", "firing", ARRIVES_S)
    assert notice.labels["uuid"] == gpu.uuid
    assert notice.labels["severity"] == "critical"
    assert f"GPU {LOST} of {faulty.exporter.address} has vanished" == notice.annotations["summary"]
    gpu.lost = False
    webhook.wait_for("LlemGpuVanished", "resolved", ARRIVES_S)

    faulty.exporter.kill()
    down = webhook.wait_for("LlemExporterDown", "firing", ARRIVES_S)
    assert down.labels["instance"] == faulty.exporter.address
    assert down.annotations["description"].startswith(f"/metrics of {faulty.exporter.address} (job llem)")
    faulty.exporter.start()
    webhook.wait_for("LlemExporterDown", "resolved", ARRIVES_S)
    assert {notice.labels["uuid"] for notice in webhook.of("LlemGpuVanished", "firing")} == {gpu.uuid}
