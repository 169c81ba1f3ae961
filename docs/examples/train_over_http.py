"""From a text file to streamed text, over HTTP alone: upload, submit, follow, generate.

    python docs/examples/train_over_http.py FILE [--url http://127.0.0.1:8000] [--units 512] …

Needs nothing but Python. Where there are keys it sends CAROUSEL_API_KEY, of the scopes train and
generate.
"""

import argparse
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> None:
    """Train a model on a file and let it write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--name", default="mine")
    for option in ("units", "layers", "embedding-dim", "epochs", "batch-size", "sequence-length"):
        parser.add_argument(f"--{option}", type=int)
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument("--characters", type=int, default=400)
    options = parser.parse_args()

    text = options.file.read_bytes()
    place = f"{options.url}/corpora?name={urllib.parse.quote(options.name)}"
    corpus = json.load(send(place, text, "text/plain; charset=utf-8"))
    print(f"corpus {corpus['id']}: {corpus['characters']:,} characters", file=sys.stderr)

    body = {
        "name": options.name,
        "corpus": corpus["id"],
        "architecture": given(options, "units", "layers", "embedding_dim"),
        "training": given(options, "epochs", "batch_size", "sequence_length", "max_seconds"),
    }
    job = json.load(send_json(f"{options.url}/train-jobs", body))
    end: dict[str, Any] = {}
    for name, data in events(send(f"{options.url}/train-jobs/{job['id']}/events")):
        if name == "validation":
            print(
                f"epoch {data['epoch']:.2f}: {data['validation_nats']:.4f} nats, "
                f"{data['bits_per_character']:.4f} bits a character, "
                f"{data['bits_per_byte']:.4f} a byte",
                file=sys.stderr,
            )
        elif name == "sample":
            print(f"  {data['text'][:100]!r}", file=sys.stderr)
        elif name == "done":
            end = data
    if end.get("model") is None:
        raise SystemExit(f"{end['status']}: {end.get('error')}")

    prompt = text.decode("utf-8-sig").strip()[:1]
    parameters = {"max_new_tokens": options.characters, "do_sample": True, "temperature": 0.8}
    request = {"inputs": prompt, "model": end["model"], "parameters": parameters}
    for _, data in events(send_json(f"{options.url}/generate_stream", request)):
        print(data["token"]["text"], end="", flush=True)
    print()


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were given; the server has a default for each other."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def send(url: str, body: bytes | None = None, kind: str = "application/json") -> Any:
    """POST a body, or GET without one; with the key where there is one."""
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    if key := os.environ.get("CAROUSEL_API_KEY"):
        request.add_header("Authorization", f"Bearer {key}")
    return urllib.request.urlopen(request)


def send_json(url: str, body: dict[str, Any]) -> Any:
    """POST a JSON object."""
    return send(url, json.dumps(body).encode(), "application/json")


def events(stream: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Server-sent events: each one's name and data."""
    name, data = "message", ""
    for raw in stream:
        line = raw.decode().rstrip("\n")
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data = line[5:]
        elif not line and data:
            yield name, json.loads(data)
            name, data = "message", ""


if __name__ == "__main__":
    try:
        main()
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{error}: {error.read().decode()}") from None
    except urllib.error.URLError as error:
        raise SystemExit(f"{error.reason}; is the server running at --url?") from None
