"""`python -m bench.guidellm`: a published load tool, unchanged, against /v1/completions.

guidellm requires PyTorch, so it is not among the development packages:

    python3.11 -m venv /tmp/guidellm && /tmp/guidellm/bin/pip install guidellm==0.8.1
    PATH=/tmp/guidellm/bin:$PATH .venv/bin/python -m bench.guidellm
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.server import server

PROMPTS, CHARACTERS, STREAMS = 400, 256, 16
WORDS = ("with", "for", "while", "import")


def main() -> None:
    """Run guidellm with concurrent streams against a new server, and print its report."""
    tool = shutil.which("guidellm")
    if tool is None:
        sys.exit("guidellm is not on the PATH; see the head of bench/guidellm.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Path(__file__).parents[1] / "model_store"
        shutil.copytree(store / "demo", folder / "model_store" / "demo")
        prompts = folder / "prompts.jsonl"
        prompts.write_text("".join(_prompt(i) for i in range(PROMPTS)))
        with server(folder / "model_store") as port:
            target = f"target=http://127.0.0.1:{port},model=demo,request_format=/v1/completions"
            command = [tool, "run", "--disable-progress"]
            command += ["--backend", f"kind=openai_http,{target}"]
            command += ["--profile", f"kind=concurrent,streams={STREAMS}"]
            command += ["--constraint", f"kind=max_requests,count={PROMPTS}"]
            command += ["--data", f"kind=json_file,path={prompts}"]
            command += ["--output", "kind=console"]
            environment = os.environ | {"HF_HUB_OFFLINE": "1"}
            subprocess.run(command, check=True, cwd=folder, env=environment)


def _prompt(i: int) -> str:
    prompt = f"The {WORDS[i % len(WORDS)]} statement "
    return json.dumps({"prompt": prompt, "output_tokens_count": CHARACTERS}) + "\n"


if __name__ == "__main__":
    main()
