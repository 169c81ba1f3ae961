"""Certificates for 127.0.0.1 that sign themselves, as an operator makes one for a trial."""

import subprocess
from pathlib import Path


def new_certificate(folder: Path, *, days: int = 2) -> tuple[Path, Path]:
    """A certificate that ends in so many days, and its key; both replace those of the folder."""
    certificate, key, names = folder / "cert.pem", folder / "key.pem", folder / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    request = folder / "request.pem"
    _openssl(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
        f" -keyout {key} -out {request}"
    )
    _openssl(
        f"x509 -req -in {request} -signkey {key} -days {days} -extfile {names} -out {certificate}"
    )
    return certificate, key


def _openssl(words: str) -> None:
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)
