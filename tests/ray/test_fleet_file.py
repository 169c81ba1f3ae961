"""The fleet's file, and the environment that its processes get from it."""

import re
from pathlib import Path

import pytest

from service.errors import BadRequest
from service.ray.environment import check_head, fleet_environment, head_login, head_store
from service.ray.fleet_file import FleetFile, Replicas
from tests.process import ROOT, free_port

FILE = """
head: 10.0.0.1:6380
host: 0.0.0.0
port: 8080
replicas: {min: 2, max: 4, threads: 3}
settings: {drain_s: 60, autoload: true, allowed_hosts: api.example.com}
"""
SECRET = "a-secret-that-every-node-has-and-nobody-else"


def read(tmp_path: Path, text: str) -> FleetFile:
    (tmp_path / "fleet.yaml").write_text(text)
    return FleetFile.read(tmp_path / "fleet.yaml")


@pytest.fixture
def node_environment(monkeypatch):
    monkeypatch.setenv("CAROUSEL_REDIS_URL", "redis://10.0.0.9")
    monkeypatch.setenv("CAROUSEL_SECRET", SECRET)


def test_each_replica_has_the_settings_of_the_file_and_the_size(tmp_path):
    assert read(tmp_path, FILE).environment == {
        "CAROUSEL_DRAIN_S": "60",
        "CAROUSEL_AUTOLOAD": "true",
        "CAROUSEL_ALLOWED_HOSTS": "api.example.com",
        "CAROUSEL_HOST": "0.0.0.0",
        "CAROUSEL_PORT": "8080",
        "CAROUSEL_THREADS": "3",
        "CAROUSEL_SPIN": "off",
        "CAROUSEL_METRICS_PORT": "0",
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it needs at least `head: ADDRESS:PORT`"),
        ("- a", "it needs at least `head: ADDRESS:PORT`"),
        ("a: [", "is no YAML"),
        ("port: 8000", "head: Field required"),
        ("head: 10.0.0.1", "head: String should match"),
        ("head: a:1\nworkers: 2", "workers: Extra inputs are not permitted"),
        ("head: a:1\nhost: 'a b'", "host: String should match"),
        ("head: a:1\nreplicas: {min: 3, max: 2}", "max is 2, below min, which is 3"),
        ("head: a:1\nreplicas: {min: 0}", "replicas.min: Input should be greater"),
        ("head: a:1\nsettings: {secret: abc}", "secret is a secret: set CAROUSEL_SECRET"),
        ("head: a:1\nsettings: {redis_url: 'redis://x'}", "set CAROUSEL_REDIS_URL in the env"),
        ("head: a:1\nsettings: {threads: 2}", "threads is no setting of a replica"),
        ("head: a:1\nsettings: {tls_cert: x}", "tls_cert is no setting of a replica"),
        ("head: a:1\nsettings: {drains: 2}", "there is no setting drains; there are ["),
    ],
)
def test_a_wrong_file_is_refused_with_one_sentence(tmp_path, text, sentence):
    with pytest.raises(BadRequest) as refusal:
        read(tmp_path, text)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("node_environment")
def test_every_process_has_the_ingress_of_haproxy_whatever_its_shell_has(tmp_path):
    given = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_worker_niceness": "15", "PATH": "/bin"}
    found = fleet_environment(read(tmp_path, FILE), Path("/run/haproxy"), given)
    assert found["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert found["RAY_worker_niceness"] == "0"
    assert found["RAY_SERVE_HAPROXY_BINARY_PATH"] == "/run/haproxy"
    assert found["RAY_REDIS_ADDRESS"] == "10.0.0.9:6379"
    assert found["CAROUSEL_HOST"] == "0.0.0.0"
    assert found["PATH"] == "/bin"


@pytest.mark.usefixtures("node_environment")
def test_what_a_shell_has_of_rays_tuning_stays(tmp_path):
    name = "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"
    file = read(tmp_path, FILE)
    assert fleet_environment(file, Path("/run/haproxy"), {})[name] == "5"
    assert fleet_environment(file, Path("/run/haproxy"), {name: "1"})[name] == "1"


@pytest.mark.usefixtures("node_environment")
def test_a_stream_may_outlast_a_change_of_the_replicas_by_the_drain(tmp_path):
    name = "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"
    longer = read(tmp_path, FILE.replace("drain_s: 60", "drain_s: 3600"))
    assert int(fleet_environment(longer, Path("/run/haproxy"), {})[name]) >= 3_600


def test_the_nodes_know_each_other_by_the_secret_and_do_not_tell_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CAROUSEL_REDIS_URL", "redis://10.0.0.9")
    found = []
    for secret in (SECRET, SECRET, SECRET + "!"):
        monkeypatch.setenv("CAROUSEL_SECRET", secret)
        found.append(fleet_environment(read(tmp_path, FILE), Path("x"), {})["RAY_AUTH_TOKEN"])
    assert found[0] == found[1] != found[2]
    assert SECRET not in found[0]


@pytest.mark.usefixtures("node_environment")
@pytest.mark.parametrize("missing", ["CAROUSEL_REDIS_URL", "CAROUSEL_SECRET"])
def test_a_fleet_without_a_store_of_all_is_refused(tmp_path, monkeypatch, missing):
    monkeypatch.delenv(missing)
    with pytest.raises(BadRequest, match="set CAROUSEL_REDIS_URL and CAROUSEL_SECRET"):
        fleet_environment(read(tmp_path, FILE), Path("x"), {})


def test_a_secret_that_is_too_short_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CAROUSEL_REDIS_URL", "redis://10.0.0.9")
    for secret in ("", "short"):
        monkeypatch.setenv("CAROUSEL_SECRET", secret)
        with pytest.raises(BadRequest, match="CAROUSEL_SECRET"):
            fleet_environment(read(tmp_path, FILE), Path("x"), {})


def test_a_head_that_does_not_listen_is_named_at_once(tmp_path):
    place = f"127.0.0.1:{free_port()}"
    with pytest.raises(BadRequest, match=f"the head of the fleet does not listen at {place}"):
        check_head(read(tmp_path, f"head: {place}"))


def test_the_head_keeps_its_state_in_the_store():
    assert head_store("rediss://user:p%40ss@host:7/0") == {"RAY_REDIS_ADDRESS": "rediss://host:7"}
    assert head_login("rediss://user:p%40ss@host:7/0") == [
        "--redis-username=user",
        "--redis-password=p@ss",
    ]
    assert head_login("redis://host") == []


@pytest.mark.parametrize(
    "url", ["unix:///run/valkey", "redis+cluster://a:1,b:2", "redis://host/3", "redis://"]
)
def test_a_store_that_the_head_cannot_use_is_refused(url):
    with pytest.raises(BadRequest, match="the head of a fleet"):
        head_store(url)


def test_replicas_listen_for_other_machines_only_where_there_can_be_any(tmp_path):
    hosts = [
        read(tmp_path, f"head: {name}:1").replica_host
        for name in ("127.0.0.1", "localhost", "10.0.0.1", "head.example.com")
    ]
    assert hosts == ["127.0.0.1", "127.0.0.1", "0.0.0.0", "0.0.0.0"]


def test_the_files_of_the_documentation_are_valid_and_name_every_key(tmp_path):
    shipped = FleetFile.read(ROOT / "docker" / "ray" / "fleet.yaml")
    assert shipped.model_fields_set == set(FleetFile.model_fields)
    assert shipped.replicas.model_fields_set == set(Replicas.model_fields)
    page = (ROOT / "docs" / "how-to" / "scale.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert read(tmp_path, example).replicas.max == 8
    for name in {*FleetFile.model_fields, *Replicas.model_fields} - {"replicas", "name"}:
        assert re.search(rf"`(replicas\.)?{name}`", page), name
