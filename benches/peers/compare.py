"""Runs `selfsame bench` and PyTorch on the same cases, alternating, and prints a table of medians and ratios.

    cargo build --release
    python benches/peers/compare.py [--sections gemm conv step loss] [--threads 1 2] [--rounds 5] [--out results/NAME]

Needs a Python with PyTorch. PyTorch runs twice a round: with its allocator as it comes, and with one that keeps its
memory (fewer page faults, larger resident set). Each case is compared with the faster of the two, memory with the
smaller. The figure of a round is its process's median; the table gives the median of the rounds.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TUNED = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.hugetlb=1"
MEMORY = "above_the_first_step's_MiB"


def measure(command, environment=None):
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(output.stdout)


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sections", nargs="+", default=["gemm", "conv", "loss", "step"])
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write NAME.md and NAME.json")
    args = parser.parse_args()

    sides = ("selfsame", "torch", "torch tuned")
    tuned = {**os.environ, "GLIBC_TUNABLES": TUNED}
    seconds, memory, versions = {}, {}, {}
    for section in args.sections:
        for threads in args.threads:
            flags = [section, "--threads", str(threads), "--repetitions", str(args.repetitions)]
            commands = {
                "selfsame": ([str(ROOT / "target/release/selfsame"), "bench", *flags, "--json"], None),
                "torch": ([sys.executable, str(HERE / "torch_bench.py"), *flags], None),
                "torch tuned": ([sys.executable, str(HERE / "torch_bench.py"), *flags], tuned),
            }
            for round_number in range(args.rounds):
                print(f"{section}, {threads} threads, round {round_number + 1}", file=sys.stderr)
                for side in sides:
                    result = measure(*commands[side])
                    versions[side] = result.get("version") or result.get("isa")
                    for timing in result["timings"]:
                        case = (timing["name"], threads)
                        seconds.setdefault(case, {}).setdefault(side, []).append(timing["median_s"])
                        if MEMORY in timing:
                            memory.setdefault(case, {}).setdefault(side, []).append(timing[MEMORY])

    def row(case, figures, scale, best):
        mine = statistics.median(figures["selfsame"])
        theirs = [statistics.median(figures[side]) for side in sides[1:] if side in figures]
        cells = [f"{scale * value:.2f}" for value in (mine, *theirs)] + ["-"] * (len(sides) - 1 - len(theirs))
        ratio = f"{best(theirs) / mine:.2f}" if theirs else "-"
        return f"| {case[0]} | {case[1]} | {' | '.join(cells)} | {ratio} |"

    lines = [
        f"{cpu_name()}, {os.cpu_count()} cores, {datetime.date.today()}; selfsame on {versions['selfsame']}, "
        f"{versions['torch']}; medians of {args.rounds} alternating rounds of {args.repetitions} repetitions.",
        "",
        "| case | threads | selfsame ms | torch ms | torch tuned allocator ms | torch's faster / selfsame |",
        "|---|---|---|---|---|---|",
        *(row(case, figures, 1e3, min) for case, figures in seconds.items()),
    ]
    if memory:
        lines += [
            "",
            "| peak above the first step's start | threads | selfsame MiB | torch MiB | torch tuned MiB "
            "| torch's smaller / selfsame |",
            "|---|---|---|---|---|---|",
            *(row(case, figures, 1, min) for case, figures in memory.items()),
        ]
    table = "\n".join(lines) + "\n"
    print(table)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".md").write_text(table)
        raw = [{"case": case[0], "threads": case[1], "seconds": figures} for case, figures in seconds.items()]
        raw += [{"case": case[0], "threads": case[1], "MiB": figures} for case, figures in memory.items()]
        args.out.with_suffix(".json").write_text(json.dumps({"cpu": cpu_name(), "versions": versions, "runs": raw}, indent=1))


if __name__ == "__main__":
    main()
