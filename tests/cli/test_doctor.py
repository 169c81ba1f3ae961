"""`carousel doctor`: each fault that a start would meet, with the line that mends it."""

import re
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service.app import open_store
from service.cgroup import machine_share
from service.cli.checkup import Check, available_bytes, checks_of
from service.errors import BadRequest
from service.models.bundle import Precision
from service.models.cell import LayerSpec
from service.models.compile import has_vnni
from service.models.kernel_choice import KernelChoices
from service.models.spec import ModelSpec
from service.settings import Settings
from service.start_checks import check_int8_kernel
from tests.api.conftest import new_home
from tests.certificates import new_certificate
from tests.cli.commands import carousel
from tests.models.networks import random_weights
from tests.process import Server, free_port, serving


def found(tmp_path, **settings) -> dict[str, Check]:
    folders = {name: tmp_path / name for name in ("model_store", "import_dir", "data_dir")}
    given = Settings(**{"port": free_port(), "memory_budget": 1, **folders, **settings})
    return {check.name: check for check in checks_of(given)}


def test_a_machine_without_faults_is_left_as_it_is(tmp_path):
    checks = found(tmp_path)
    assert [check for check in checks.values() if check.is_fault] == []
    assert set(checks) >= {"python", "threads", "data_dir", "store", "port", "memory", "training"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model_store", "import_dir", "data_dir"])
def test_a_folder_that_is_a_file(tmp_path, name):
    (tmp_path / "file").touch()
    check = found(tmp_path, **{name: tmp_path / "file"})[name]
    assert check.is_fault
    assert f"set CAROUSEL_{name.upper()} to another folder" in check.found


def test_a_port_in_use_by_another_program(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever).start()
        check = found(tmp_path, port=other.server_port)["port"]
        other.shutdown()
    assert check.is_fault
    assert "is in use by another process; end it, or set CAROUSEL_PORT" in check.found


def test_a_port_whose_program_says_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        check = found(tmp_path, port=other.getsockname()[1])["port"]
    assert check.is_fault
    assert "is in use by another process" in check.found


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory) -> Iterator[tuple[Server, dict[str, Path]]]:
    """A server with TLS whose clients need a key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = new_certificate(folder)
    names = {"tls_cert": certificate, "tls_key": key}
    given = {f"CAROUSEL_{name.upper()}": str(path) for name, path in names.items()}
    home, key = new_home(folder / "home"), "k" * 32
    with serving(home, certificate=certificate, CAROUSEL_ADMIN_KEY=key, **given) as server:
        yield server, names


@pytest.mark.parametrize("has_tls", [True, False])
def test_a_server_with_tls_is_known_at_its_port(tmp_path, with_tls, has_tls):
    """Also by a doctor that was not told of the TLS, as in another shell."""
    server, names = with_tls
    check = found(tmp_path, port=server.port, **(names if has_tls else {}))["port"]
    assert check == Check("port", f"a Carousel serves 127.0.0.1:{server.port}")


def test_processes_and_threads_are_compared_with_the_cores(tmp_path):
    cores = machine_share().cores
    checks = found(tmp_path, processes="auto")
    assert f"{cores} of " in checks["processes"].found
    assert "by auto" in checks["processes"].found
    assert not checks["threads"].is_fault
    checks = found(tmp_path, processes=256)
    assert checks["processes"].is_fault
    assert "set CAROUSEL_PROCESSES to less" in checks["processes"].found
    check = found(tmp_path, processes=2, threads=cores)["threads"]
    assert check.is_fault is (cores > 1)
    assert f"{cores} of the network, not spinning, in each of 2 processes" in check.found


def test_the_metrics_of_every_process_have_a_port(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        check = found(tmp_path, processes=2, metrics_port=port - 1)["metrics"]
    assert check.is_fault
    assert f"127.0.0.1:{port}" in check.found


def test_a_store_that_does_not_answer(tmp_path):
    check = found(tmp_path, redis_url=f"redis://127.0.0.1:{free_port()}")["store"]
    assert check.is_fault
    assert "start it, or set CAROUSEL_REDIS_URL" in check.found


def test_threads_are_compared_with_the_cores(tmp_path):
    assert "1 of the network" in found(tmp_path, threads=1)["threads"].found
    check = found(tmp_path, threads=256)["threads"]
    assert check.is_fault
    assert "set CAROUSEL_THREADS to less" in check.found


def test_the_kernel_of_int8_is_named_with_what_was_measured(tmp_path):
    store = tmp_path / "model_store"
    store.mkdir()
    assert found(tmp_path, int8_kernel="onnxruntime")["int8"].found == "ONNX Runtime"
    if has_vnni():
        assert found(tmp_path)["int8"].found.endswith("no model has been loaded yet")
        spec = ModelSpec(5, 4, (LayerSpec("lstm", 8),))
        gains = {16: 1.5, 64: 1.25}
        KernelChoices(store).choose(spec, random_weights(spec), Precision.INT8, 1, lambda *_: gains)
        line = f"own for {spec.summary} (1.5 × at 16, 1.25 × at 64 rows)"
        assert found(tmp_path)["int8"].found.endswith(line)


def test_a_kernel_that_the_processor_lacks_is_refused():
    check_int8_kernel(Settings(int8_kernel="own"), "AVX2")
    check_int8_kernel(Settings(int8_kernel="auto"), "")
    with pytest.raises(BadRequest, match="no AVX2; set it to auto"):
        check_int8_kernel(Settings(int8_kernel="own"), "")


def test_memory_is_compared_with_the_budget(tmp_path):
    check = found(tmp_path, memory_budget=10**18)["memory"]
    assert check.is_fault
    assert "set CAROUSEL_MEMORY_BUDGET to less" in check.found
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 5 kB\n")
    assert available_bytes(10**9, tmp_path / "meminfo") == 5_120
    assert available_bytes(7, tmp_path / "nothing") == 7


@pytest.mark.parametrize(
    ("name", "settings", "mend"),
    [
        ("tls", {"tls_cert": Path("nowhere.pem")}, "both are PEM files"),
        ("tls", {"tls_key": Path("nowhere.pem")}, "set both"),
        ("keys", {"host": "0.0.0.0"}, "make one with `carousel keys add"),
        ("keys", {"admin_key": "short", "host": "0.0.0.0"}, "it needs at least 32"),
        ("limits", {"default_limits": "rpm=3"}, "'rpm' is no limit"),
        ("secret", {"secret": "short"}, "it needs at least 32"),
    ],
)
def test_what_a_start_would_refuse(tmp_path, name, settings, mend):
    check = found(tmp_path, **settings)[name]
    assert check.is_fault
    assert mend in check.found


def test_keys_are_counted_where_the_store_runs_and_not_denied_where_it_does_not(tmp_path):
    data = tmp_path / "data"  # of the command, too
    assert found(tmp_path, data_dir=data)["keys"].found.startswith("none is needed at 127.0.0.1")
    assert carousel("keys", "add", "ana", "--scope", "generate", folder=tmp_path).returncode == 0
    check = found(tmp_path, data_dir=data)["keys"]
    assert check.found.startswith("not known while the store does not run: `carousel keys list`")
    assert not check.is_fault
    with open_store(Settings(data_dir=data)) as url:
        check = found(tmp_path, data_dir=data)["keys"]
        assert check == Check("keys", "1 in the store, so that each request needs one")
        assert found(tmp_path, redis_url=url)["keys"] == check
    assert not found(tmp_path, data_dir=data)["secret"].is_fault
    (data / "secret").unlink()
    lost = found(tmp_path, data_dir=data)["secret"]
    assert lost.is_fault
    assert "exports of before are refused" in lost.found
    assert f"warning: {lost.found}" in carousel("keys", "list", folder=tmp_path).stderr
    assert not found(tmp_path, data_dir=data)["secret"].is_fault  # a new one has been made


def test_a_certificate_that_has_ended_and_one_that_has_not(tmp_path):
    certificate, key = new_certificate(tmp_path, days=2)
    check = found(tmp_path, tls_cert=certificate, tls_key=key)["tls"]
    assert not check.is_fault
    assert re.fullmatch(r"the certificate is valid until \w+ .* GMT", check.found)
    certificate, key = new_certificate(tmp_path, days=-1)
    check = found(tmp_path, tls_cert=certificate, tls_key=key)["tls"]
    assert check.is_fault
    assert check.found.endswith("is refused by clients: certificate has expired; have it renewed")


def test_a_port_of_the_metrics_that_another_program_has(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever).start()
        check = found(tmp_path, metrics_port=other.server_port)["metrics"]
        other.shutdown()
    assert check.is_fault
    assert "set CAROUSEL_METRICS_PORT to a free port, or to 0" in check.found


def test_traces_without_what_sends_them(tmp_path, monkeypatch):
    assert found(tmp_path)["traces"].found == "none are sent"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert found(tmp_path)["traces"].found == "OTEL_EXPORTER_OTLP_ENDPOINT"
    monkeypatch.setitem(sys.modules, "service.api.otel_tracer", None)
    check = found(tmp_path)["traces"]
    assert check.is_fault
    assert "pip install 'carousel-serve[otel]'" in check.found


def test_the_command_ends_with_1_on_a_fault_and_compiles_without_a_check(tmp_path):
    (tmp_path / "imports").touch()
    done = carousel("doctor", folder=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAULT  import_dir" in done.stdout
    assert "ok     data_dir" in done.stdout
    rows = done.stdout.splitlines()
    assert [row for row in rows if (row[5:7], row[19:21]) != ("  ", "  ") or row[21] == " "] == []
    assert "ok     program       float32 by " in done.stdout
    alone = carousel("doctor", "--compile-only", folder=tmp_path)
    assert (alone.returncode, alone.stderr) == (0, "")
    assert "data_dir" not in alone.stdout
