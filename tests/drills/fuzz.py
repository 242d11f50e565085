"""Makes variants of a bundle from fixed seeds and says what Python makes of each.

    cd tests && python -m drills.fuzz BUNDLE --variants 700 [--first 0] [--corpus DIR]

It prints a line for each fault and a summary, and ends with 1 if there is a fault. ``--corpus`` keeps the variants and
writes ``verdicts.jsonl``: the name of each variant and what Python says about it, for runtimes in other languages.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from drills.variants import make_variant
from drills.verdict import Verdict, judge_apart


def fuzz(bundle: Path, numbers: range, folder: Path, *, keep: bool = False) -> Iterator[tuple[str, Verdict]]:
    """Yield the name and the verdict of each variant, the unchanged bundle's first.

    Args:
        bundle: a good bundle.
        numbers: which variants.
        folder: on the bundle's file system; variants are made there.
        keep: leave them there, by name.
    """
    import onnxruntime  # noqa: F401  # loaded once, before the forks
    import rich.console  # noqa: F401

    import vcut_runtime.inspect  # noqa: F401

    good = judge_apart(bundle)
    yield "good", good
    for number in numbers:
        variant = folder / "variant"
        name = make_variant(bundle, variant, number)
        verdict = judge_apart(variant, good.memory)
        if keep:
            variant.rename(folder / name)
        else:
            shutil.rmtree(variant)
        yield name, verdict


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="drills.fuzz", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("bundle", type=Path, help="a good bundle; a small one is as hostile and faster")
    parser.add_argument("--variants", type=int, default=700)
    parser.add_argument("--first", type=int, default=0, help="number of the first variant")
    parser.add_argument("--corpus", type=Path, help="keep the variants in this new folder, with verdicts.jsonl")
    options = parser.parse_args()
    if options.corpus:
        options.corpus.mkdir(parents=True)
    beside = options.bundle.resolve().parent
    place = nullcontext(options.corpus) if options.corpus else tempfile.TemporaryDirectory(dir=beside, prefix="fuzz-")
    faults, outcomes, slowest, largest = [], Counter[str](), 0.0, 0
    with place as folder:
        numbers = range(options.first, options.first + options.variants)
        for name, verdict in fuzz(options.bundle.resolve(), numbers, Path(folder), keep=bool(options.corpus)):
            if options.corpus and name != "good":
                line = {"variant": name, "inspect": verdict.inspect, "run": verdict.run, "fault": verdict.fault}
                with (options.corpus / "verdicts.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            outcomes[verdict.run.split(":")[0] or "nothing"] += 1
            slowest, largest = max(slowest, verdict.seconds), max(largest, verdict.memory)
            if verdict.fault:
                faults.append(name)
                print(f"{name}: {verdict.fault}", flush=True)
            elif name == "good":
                print(f"good: {verdict.run}, {verdict.seconds} s, {verdict.memory / 1e9:.2f} GB", flush=True)
    summary = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    print(f"{summary}; {len(faults)} faults, slowest {slowest:.1f} s, most memory {largest / 1e9:.2f} GB")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
