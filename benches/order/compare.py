"""What the canonical order costs: the same kernels with it, and built free of it, alternating.

    python benches/order/compare.py [--sections step] [--threads 2] [--rounds 5] [--repetitions 3] [--out results/order]

Builds `target/release` as it is and `target/free-order` with `--cfg selfsame_free_order` (see `engine/src/order.rs`),
runs `selfsame bench` of both in turn, and prints the medians of the rounds with their ratio. The side that begins
changes from round to round.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FREE = ROOT / "target/free-order"
BINARIES = {"canonical": ROOT / "target/release/selfsame", "free": FREE / "release/selfsame"}


def build():
    free = {**os.environ, "RUSTFLAGS": "--cfg selfsame_free_order", "CARGO_TARGET_DIR": str(FREE)}
    for environment in (None, free):
        subprocess.run(["cargo", "build", "--release"], cwd=ROOT, env=environment, check=True)


def cpu_name():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sections", nargs="+", default=["step"])
    parser.add_argument("--threads", nargs="+", type=int, default=[2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--built", action="store_true", help="both builds are there already")
    parser.add_argument("--out", type=Path, help="write NAME.md and NAME.json")
    args = parser.parse_args()
    if not args.built:
        build()

    seconds, isa = {}, None
    for number in range(args.rounds):
        sides = sorted(BINARIES, reverse=number % 2 == 1)
        for section in args.sections:
            for threads in args.threads:
                for side in sides:
                    print(f"round {number + 1}: {section}, {threads} threads, {side}", file=sys.stderr)
                    flags = [section, "--threads", str(threads), "--repetitions", str(args.repetitions), "--json"]
                    command = [BINARIES[side], "bench", *flags]
                    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
                    result = json.loads(output.stdout)
                    isa = result["isa"]
                    for timing in result["timings"]:
                        figures = seconds.setdefault((timing["name"], threads), {side: [] for side in BINARIES})
                        figures[side].append(timing["median_s"])

    lines = [
        f"{cpu_name()}, {os.cpu_count()} cores, {isa}, {datetime.date.today()}; medians of {args.rounds} alternating "
        f"rounds of {args.repetitions} repetitions.",
        "",
        "| case | threads | canonical ms | free ms | canonical / free | by round |",
        "|---|---|---|---|---|---|",
    ]
    for (name, threads), figures in seconds.items():
        canonical, free = (statistics.median(figures[side]) for side in ("canonical", "free"))
        ratios = [a / b for a, b in zip(figures["canonical"], figures["free"])]
        lines.append(
            f"| {name} | {threads} | {1e3 * canonical:.2f} | {1e3 * free:.2f} | {canonical / free:.3f} "
            f"| {min(ratios):.3f} to {max(ratios):.3f} |"
        )
    table = "\n".join(lines) + "\n"
    print(table)
    if args.out:
        args.out.with_suffix(".md").write_text(table)
        raw = [{"case": name, "threads": threads, "seconds": both} for (name, threads), both in seconds.items()]
        args.out.with_suffix(".json").write_text(json.dumps({"cpu": cpu_name(), "isa": isa, "runs": raw}, indent=1))


if __name__ == "__main__":
    main()
