"""Writes the files that the fuzzer of the C++ runtime begins with.

    cd tests && python -m drills.corpus BUNDLE CORPUS [--variants 200]

``CORPUS`` gets the manifests and ONNX graphs of ``BUNDLE`` and of its hostile variants, and odd photographs. libFuzzer
finds more when files are small, so the graphs are cut down to a few nodes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from PIL import Image

from drills.variants import MANIFEST, make_variant
from odd_images import CASES
from vcut_c import IMAGE_SUFFIXES

NODES = 24  # of a graph
MOST_BYTES = 1 << 16  # of a file


def write_corpus(bundle: Path, corpus: Path, variants: int = 200) -> int:
    """Write the corpus and return the number of its files.

    Args:
        bundle: a good bundle.
        corpus: a new folder.
        variants: how many variants of the bundle.
    """
    corpus.mkdir(parents=True)
    for content in _contents(bundle, variants):
        if 0 < len(content) <= MOST_BYTES:
            (corpus / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)  # equal files are kept once
    return len(list(corpus.iterdir()))


def _contents(bundle: Path, variants: int) -> Iterator[bytes]:
    yield from _photographs()
    with tempfile.TemporaryDirectory(dir=bundle.parent, prefix="corpus-") as work:
        short, folder = Path(work) / "short", Path(work) / "variant"
        shutil.copytree(bundle, short)
        for path in short.glob("onnx/*.onnx"):
            _shorten(path)
        yield from _bundle_files(short)
        for number in range(variants):
            make_variant(short, folder, number)
            yield from _bundle_files(folder)
            shutil.rmtree(folder)


def _shorten(path: Path) -> None:
    """Keep a few nodes of a graph, from all its parts, and the weights that a hostile change may need."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    nodes = list(graph.node)[:: len(graph.node) // NODES + 1]
    names = {name for node in nodes for name in node.input}
    names |= {weight.name for weight in [w for w in graph.initializer if w.external_data][:3]}
    weights = [weight for weight in graph.initializer if weight.name in names]
    for field in ("node", "initializer", "value_info"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    path.write_bytes(model.SerializeToString())


def _bundle_files(bundle: Path) -> Iterator[bytes]:
    for path in [bundle / MANIFEST, *bundle.glob("onnx/*.onnx")]:
        if path.is_file():
            yield path.read_bytes()


def _photographs() -> Iterator[bytes]:
    for name, case in CASES.items():
        if name.endswith(IMAGE_SUFFIXES):
            yield case.make()
    small = Image.linear_gradient("L").resize((16, 12))
    for mode in ("RGB", "L", "CMYK", "P", "LA", "1"):
        for kind in ("jpeg", "png"):
            file = io.BytesIO()
            try:
                small.convert(mode).save(file, kind, optimize=True)
            except OSError:  # a format that has no such mode
                continue
            yield file.getvalue()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="drills.corpus", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("bundle", type=Path, help="a good bundle; a small one gives a small corpus")
    parser.add_argument("corpus", type=Path, help="a new folder")
    parser.add_argument("--variants", type=int, default=200)
    options = parser.parse_args()
    count = write_corpus(options.bundle.resolve(), options.corpus, options.variants)
    print(f"{options.corpus}: {count} files")


if __name__ == "__main__":
    main()
