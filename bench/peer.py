"""`python -m bench.peer llama-server PATH`: another server beside Carousel, with the same client.

PATH is llama.cpp's server, which you have built. It serves a transformer of 5 million parameters
with random weights, in each of three precisions; Carousel serves the article's LSTM, of as many
parameters, in int8. All servers run, and only one of them has work. The transformer is written with
gguf, which is not among the development packages:

    pip install --no-deps --target /tmp/gguf gguf
    PYTHONPATH=/tmp/gguf .venv/bin/python -m bench.peer llama-server PATH
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import load
from bench.machine import caption, machine, paired_ratio
from bench.progress import Progress
from bench.seed_model import VOCABULARY, write_seed_model
from bench.server import free_port, listening, server
from service.models.bundle import Precision

WIDTH, INNER_WIDTH, LAYERS, HEADS = 256, 768, 6, 4
CONTEXT, SLOTS = 512, 64
SPECIAL = ("<unk>", "<s>", "</s>", "<0x0A>")
PRECISIONS = ("F16", "Q8_0", "Q4_0")
ROUNDS, WARM_UP_S, MEASURE_S = 3, 0.5, 2.0
EXPECTED_S = 180.0


@dataclass(frozen=True, slots=True)
class Case:
    """Clients that ask for texts of so many characters, streamed or whole."""

    clients: int
    characters: int
    is_streamed: bool

    @property
    def title(self) -> str:
        """Say it for a table's row."""
        many = "s" if self.clients > 1 else ""
        kind = f"stream{many}" if self.is_streamed else f"client{many}, whole replies"
        return f"{self.clients} {kind} of {self.characters}"

    def ours(self, model: str) -> list[load.Request]:
        """Return a request of Carousel's for each client."""
        make = load.streaming if self.is_streamed else load.whole
        return [make(model, seed, self.characters) for seed in range(self.clients)]

    def theirs(self) -> list[load.Request]:
        """Return the same for llama.cpp, whose streams end with an event of their own."""
        body = {
            "prompt": "ROMEO:",
            "n_predict": self.characters,
            "stream": self.is_streamed,
            "temperature": 0.8,
            "samplers": ["temperature"],
            "ignore_eos": True,
        }
        events = self.characters + 1 if self.is_streamed else 0
        return [
            load.Request("/completion", body | {"seed": seed}, self.characters, events)
            for seed in range(self.clients)
        ]


CASES = (
    *(Case(clients, load.CHARACTERS, is_streamed=True) for clients in (1, 16, 64)),
    *(Case(16, characters, is_streamed=False) for characters in (1, 16)),
)


def write_transformer(path: Path, precision: str) -> int:
    """Write a transformer with random weights as GGUF; return its number of parameters."""
    import gguf  # noqa: PLC0415 (see the head of this file)

    writer, rng = gguf.GGUFWriter(path, "llama"), np.random.default_rng(2015)
    kind, n_parameters = gguf.GGMLQuantizationType[precision], 0

    def add(name: str, *shape: int) -> None:
        nonlocal n_parameters
        n_parameters += int(np.prod(shape))
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
            return
        values = rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)

    tokens = [*SPECIAL, *(each.replace(" ", "\u2581") for each in VOCABULARY if each != "\n")]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, gguf.TokenType.BYTE]
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER_WIDTH)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(value=False)
    add("token_embd", len(tokens), WIDTH)
    for i in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{i}.{name}", WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{name}", WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{i}.{name}", INNER_WIDTH, WIDTH)
        add(f"blk.{i}.ffn_down", WIDTH, INNER_WIDTH)
    add("output_norm", WIDTH)
    add("output", len(tokens), WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return n_parameters


def _command(binary: Path, model: Path, port: int, threads: int) -> list[str]:
    context = str(SLOTS * CONTEXT)
    command = [str(binary), "--model", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--parallel", str(SLOTS), "--ctx-size", context, "--threads", str(threads)]
    return [*command, "--offline", "--log-verbosity", "1"]


def measured(binary: Path, threads: int) -> dict[str, Any]:
    """Measure every case on every server, by turns."""
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    steps = ROUNDS * len(CASES) * (1 + len(PRECISIONS))
    about, progress = machine(), Progress("peer", steps, EXPECTED_S)
    found: defaultdict[tuple[str, str], list[load.Load]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = str(write_seed_model(folder, Precision.INT8))
        own = server(folder, CAROUSEL_THREADS=str(threads))
        ports, n_parameters = {"carousel": stack.enter_context(own)}, 0
        for precision in PRECISIONS:
            ports[precision] = port = free_port()
            path = folder / f"{precision}.gguf"
            n_parameters = write_transformer(path, precision)
            stack.enter_context(listening(_command(binary, path, port, threads), port, "/health"))
        for _ in range(ROUNDS):
            for case in CASES:
                for name, port in ports.items():
                    requests = case.ours(model) if name == "carousel" else case.theirs()
                    one = load.closed_loop(port, requests, warm_up_s=WARM_UP_S, measure_s=MEASURE_S)
                    found[case.title, name].append(one)
                    progress.done(f"{case.title}, {name}: {one.characters_per_s:,.0f} characters/s")
    return {
        "machine": about,
        "threads": threads,
        "llama_server": (version.stdout + version.stderr).splitlines()[:2],
        "transformer_parameters": n_parameters,
        "cases": {case.title: _compared(found, case.title, tuple(ports)) for case in CASES},
    }


def _compared(
    found: dict[tuple[str, str], list[load.Load]], case: str, names: tuple[str, ...]
) -> dict[str, Any]:
    """Return the medians of each server, and Carousel's ratio to the other's best precision."""
    rates = {name: [each.characters_per_s for each in found[case, name]] for name in names}
    best = max(PRECISIONS, key=lambda name: statistics.median(rates[name]))
    medians = {name: _median([asdict(each) for each in found[case, name]]) for name in names}
    ratio = paired_ratio(rates["carousel"], rates[best])
    return {"best": best, "ratio": ratio, "rounds_characters_per_s": rates, **medians}


def _median(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {name: [each[name] for each in rounds] for name in rounds[0]}
    return {name: statistics.median(each) for name, each in columns.items() if None not in each}


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table, with the other's best precision in each row."""
    heads = "characters/s | Carousel | llama-server, its best precision | ×"
    heads += "".join(
        f" | {what}, {name}"
        for what in ("processor µs a character, server · client", "reply p50 / p99 ms")
        for name in ("Carousel", "llama-server")
    )
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''} of each server"
    version = result["llama_server"][0].removeprefix("version: ")
    lines = [
        f"{caption(result['machine'])}; {threads}; llama-server {version}",
        "",
        f"| {heads} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for title, case in result["cases"].items():
        ours, theirs = case["carousel"], case[case["best"]]
        costs = [
            f"{one['server_cpu_us']:.1f} · {one['client_cpu_us']:.1f}" for one in (ours, theirs)
        ]
        times = [f"{_ms(one, 'p50')} / {_ms(one, 'p99')}" for one in (ours, theirs)]
        lines.append(
            f"| {title} | {ours['characters_per_s']:,.0f} "
            f"| {theirs['characters_per_s']:,.0f} ({case['best'].lower()}) | {case['ratio']:.2f} "
            f"| {' | '.join(costs)} | {' | '.join(times)} |"
        )
    return "\n".join(lines)


def _ms(figures: dict[str, Any], quantile: str) -> str:
    """Say a quantile of the replies' times, where there was a reply within the measurement."""
    found = figures.get(f"reply_{quantile}_ms")
    return "–" if found is None else f"{found:.1f}"


def main() -> None:
    """Print the figures as JSON, and the table on standard error."""
    options = argparse.ArgumentParser(prog="python -m bench.peer")
    options.add_argument("peer", choices=["llama-server"])
    options.add_argument("path", type=Path, help="the built server")
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each server")
    chosen = options.parse_args()
    result = measured(chosen.path, chosen.threads)
    print(json.dumps(result, indent=1))
    print(table(result), file=sys.stderr)


if __name__ == "__main__":
    main()
