"""The demo: the same commands that an operator and a user type, one after the other, with what they print."""

from __future__ import annotations

import filecmp
import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.errors import NodeError, Unsupported, VerificationFailed
from aibrother_tools.app import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_PROGRAM: Final = (sys.executable, "-m", "aibrother_tools")
_BLOCKS: Final = 3  # with the embedding and the output about 64 MiB in Q8_0
_VOCABULARY: Final = 8192
_WIDTH: Final = 1536


def run_demo(folder: Path, gguf: Path | None, *, once: bool, say: Callable[[str], object]) -> int:
    """Run the demo.

    Args:
        folder: everything lies below it; what an earlier demo left there is replaced.
        gguf: a model of the user's; one is made where it is None.
        once: end after the pull.
        say: prints a line.

    Returns:
        The exit code.

    Raises:
        VerificationFailed: what came back is not what was stored.
        NodeError: a step failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, copy = folder / "node", folder / "pulled.gguf"
    # only what a demo makes: the folder may be somebody's
    for old in (data, folder / "state"):
        if old.exists():
            shutil.rmtree(old)
    copy.unlink(missing_ok=True)
    if gguf is None:
        gguf = folder / "demo-q8_0.gguf"
        say(f"Making a model of about 64 MiB: {gguf}")
        make_model(gguf)
    node = _json("init", "--data", data)["node"]
    say(f"Initialised the node {node['id'][:12]} and a catalog in {data}")
    entry = _json("publish", "--data", data, gguf, "--license", "apache-2.0")["entries"][0]
    name = f"{entry['name']}:{entry['variant']}"
    say(f"Published {human_bytes(entry['size_bytes'])} as {name}@{entry['version']}, sha256:{entry['sha256']}")
    root = data / "trust" / "root.json"
    with _serving(data) as (process, url):
        say(f"Serving on {url}")
        started = time.monotonic()
        _run("pull", name, "--from", url, "--root", root, "--state", folder / "state", "--output", copy)
        took = time.monotonic() - started
        if not filecmp.cmp(gguf, copy, shallow=False):
            raise VerificationFailed(f"{copy} differs from {gguf}")
        say(f"Pulled it by name in {took:.1f} s; catalog, every chunk and the whole verified: byte for byte the same")
        for line in _commands(url, entry, root):
            say(line)
        if once:
            return 0
        say("Serving until Ctrl-C.")
        return process.wait()


def _commands(url: str, entry: dict[str, Any], root: Path) -> list[str]:
    named = f"{url}/models/{entry['name']}-{entry['variant']}.gguf"
    digest = f"sha256:{entry['sha256']}"
    return [
        "",
        "Try it:",
        f"  curl -O {named}",
        f"  curl {url}/v1/catalog.json",
        f"  curl {named}.json                       # what the catalog says of it",
        f"  curl -r 0-3 {url}/v1/blobs/{digest}     # the first four bytes: GGUF",
        f"  curl -H 'Accept: application/json' {url}/v1/chunks/{digest}",
        f"  aria2c -x16 -s16 {named}",
        f"  aibrother-node pull {entry['name']}:{entry['variant']} --from {url} --root {root}",
        f"  aibrother-node pull {digest} --from {url}",
        f"  curl {url}/readyz",
        "",
    ]


@contextmanager
def _serving(data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `serve` on free ports; yields the process and its URL."""
    command = [*_PROGRAM, "serve", "--data", str(data), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise NodeError(f"the node did not start: `serve` ended with {process.wait()}")
            yield process, json.loads(line)["urls"]["public"][0]
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait()


def _run(*arguments: object) -> None:
    """Run a command of ours, with its output where ours goes."""
    code = subprocess.run([*_PROGRAM, *map(str, arguments)], check=False).returncode
    if code != 0:
        raise NodeError(f"aibrother-node {arguments[0]} ended with {code}")


def _json(*arguments: object) -> Any:
    """Run a command of ours and read the document that it prints."""
    result = subprocess.run([*_PROGRAM, *map(str, arguments), "--json"], check=False, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise NodeError(f"aibrother-node {arguments[0]} ended with {result.returncode}")
    return json.loads(result.stdout)


def make_model(path: Path) -> None:
    """Write a real GGUF file with a tokenizer, a chat template and several Q8_0 tensors, about 64 MiB.

    Raises:
        Unsupported: the `gguf` package is not installed (it comes with the extra `demo`).
    """
    try:
        import gguf  # noqa: PLC0415 - only the demo needs it
        import numpy as np  # noqa: PLC0415
    except ImportError as error:
        raise Unsupported(
            f"making a model needs {error.name}: pip install 'aibrother-node[demo]', or --gguf FILE"
        ) from None

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("AI Brother demo")
    writer.add_context_length(2048)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_BLOCKS)
    writer.add_head_count(12)
    writer.add_feed_forward_length(4 * _WIDTH)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<token {number}>".encode() for number in range(_VOCABULARY)])
    writer.add_token_scores([-float(number) for number in range(_VOCABULARY)])
    writer.add_token_types([1] * _VOCABULARY)
    writer.add_chat_template("{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}")
    random = np.random.default_rng(20261101)

    def add(name: str, rows: int, columns: int) -> None:
        values = random.standard_normal((rows, columns), dtype=np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", _VOCABULARY, _WIDTH)
    for number in range(_BLOCKS):
        writer.add_tensor(f"blk.{number}.attn_norm.weight", np.ones(_WIDTH, dtype=np.float32))
        add(f"blk.{number}.attn_q.weight", _WIDTH, _WIDTH)
        add(f"blk.{number}.ffn_up.weight", 4 * _WIDTH, _WIDTH)
    add("output.weight", _VOCABULARY, _WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
