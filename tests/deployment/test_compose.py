"""The compose file and the image: settings that there are, nothing open that need not be."""

import re

import pytest
import yaml

from tests.deployment.settings import read, unknown
from tests.process import ROOT

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]


def defaults(service: str) -> dict[str, str]:
    """Return a service's environment where `.env` has nothing."""
    found = {}
    for name, value in (SERVICES[service].get("environment") or {}).items():
        if value is not None:
            found[name] = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
    return found


@pytest.mark.parametrize("service", ["api", "replica", "worker"])
def test_its_variables_are_settings_with_values_that_are_taken(service):
    environment = SERVICES[service]["environment"]
    assert not unknown(environment)
    read(**defaults(service))


def test_a_service_that_everybody_reaches_refuses_without_keys():
    assert read(**defaults("api")).allow_anonymous
    for name, service in SERVICES.items():
        open_ports = [one for one in service.get("ports", ()) if not one.startswith("127.0.0.1:")]
        assert not open_ports or name == "caddy", open_ports
    assert SERVICES["caddy"]["profiles"] == ["tls"]
    assert 'if [ "$$CAROUSEL_ALLOW_ANONYMOUS" != false ]; then' in SERVICES["caddy"]["command"][2]


def test_a_stop_outlasts_the_drain():
    for name in ("api", "replica", "worker"):
        grace_s = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s >= read(**defaults(name)).drain_s + 5


def test_plain_up_starts_the_service_alone_and_profiles_the_rest():
    plain = {name for name, service in SERVICES.items() if not service.get("profiles")}
    assert plain == {"api", "valkey", "worker"}
    observed = {name for name, one in SERVICES.items() if one.get("profiles") == ["observability"]}
    assert observed == {"prometheus", "grafana", "redis_exporter"}
    scaled = {name for name, one in SERVICES.items() if one.get("profiles") == ["scale"]}
    assert scaled == {"haproxy", "replica"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_pinned_limited_and_cannot_write_its_own_code(name):
    service = SERVICES[name]
    assert "build" in service or re.search(r":v?\d+(\.\d+)*(-alpine)?$", service["image"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}


def test_every_file_that_is_mounted_is_there():
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
            else:
                assert source in COMPOSE["volumes"], source


def test_the_builder_is_sent_what_the_image_copies():
    sent = (ROOT / ".dockerignore").read_text()
    dockerfile = (ROOT / "Dockerfile").read_text()
    sources = re.findall(r"^COPY (?!--from)(\S+) ", dockerfile, re.MULTILINE)
    for source in sources:
        for kind in ("serve", "cpu", "gpu"):
            assert f"!{source.replace('${REQUIREMENTS}', kind)}\n" in sent, source


def test_grafana_finds_its_board_and_prometheus():
    folder = ROOT / "docker/observability/grafana"
    source = yaml.safe_load((folder / "provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((folder / "provisioning/dashboards/carousel.yml").read_text())
    mounts = [volume.split(":") for volume in SERVICES["grafana"]["volumes"]]
    inside = {target: source for source, target, *_ in mounts}
    boards = ROOT / inside[provider["providers"][0]["options"]["path"]]
    assert (boards / "carousel.json").is_file()


def test_prometheus_scrapes_the_metrics_port():
    config = yaml.safe_load((ROOT / "docker/observability/prometheus.yml").read_text())
    (carousel, _) = config["scrape_configs"]
    assert carousel["dns_sd_configs"][0]["names"] == ["api"]
    settings = read(**defaults("api"))
    assert carousel["dns_sd_configs"][0]["port"] == settings.metrics_port
    assert settings.metrics_host == "0.0.0.0"
