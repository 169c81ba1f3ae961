"""The modules of others are the ones that were reviewed, and import nothing from elsewhere."""

import hashlib
import json
import re

import pytest

from service.api.ui_page import FOLDER
from tools.vendor_web import MANIFEST, PACKAGES, VENDOR, rewritten

ENTRIES = json.loads(MANIFEST.read_text())
OWN = [path for path in FOLDER.rglob("*.js") if path.parent != VENDOR]
IMPORT = re.compile(r"""(?:\bfrom|(?<![.\w])import)\s*["']([./@\w][^"'\s]*)["']""")
NETWORK = re.compile(r"""["'(]\s*(?:https?:)?//[a-z0-9]""")
CODE_FROM_TEXT = re.compile(r"\beval\s*\(|\bnew Function\b|\bimport\s*\(|innerHTML\s*=(?!=)")


def test_the_manifest_has_every_file_with_its_hash():
    files = {name: digest for entry in ENTRIES for name, digest in entry["files"].items()}
    there = {path.name for path in VENDOR.iterdir()} - {MANIFEST.name}
    assert set(files) == there
    for name, digest in files.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest


def test_the_manifest_has_the_packages_that_the_tool_names():
    assert [(one["name"], one["version"], one["integrity"]) for one in ENTRIES] == [
        (one.name, one.version, one.integrity) for one in PACKAGES
    ]
    assert len({one["name"] for one in ENTRIES}) == len(ENTRIES), "two copies of one package"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_a_package_has_its_licence(entry):
    text = (VENDOR / entry["license_file"]).read_text()
    assert {"MIT": "MIT License", "Apache-2.0": "Apache License"}[entry["license"]] in text


@pytest.mark.parametrize("path", [*OWN, *VENDOR.glob("*.js")], ids=lambda path: path.name)
def test_a_module_imports_files_that_there_are(path):
    text = path.read_text()
    for name in IMPORT.findall(text):
        assert name.startswith("."), f"{name} is nothing that a browser finds"
        assert (path.parent / name).resolve().is_file(), name
    assert "sourceMappingURL" not in text


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_an_own_module_makes_no_code_of_text_and_names_no_other_host(path):
    text = path.read_text()
    assert not CODE_FROM_TEXT.search(text)
    assert not NETWORK.search(text)


def test_an_import_that_was_not_reviewed_is_refused():
    assert rewritten('import{h}from"preact"', {"preact": "p.js"}) == 'import{h}from"./p.js"'
    with pytest.raises(KeyError):
        rewritten('import{h}from"other"', {"preact": "p.js"})
