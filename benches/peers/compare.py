"""Runs `selfsame bench` and other libraries on the same cases, alternating, and prints a table of medians and ratios.

    cargo build --release
    (cd benches/peers/burn && RUSTFLAGS="-C target-cpu=native" cargo build --release)    # and in candle
    python benches/peers/compare.py [--sections gemm conv step loss …] [--threads 1 2] [--rounds 5] [--out results/NAME]

PyTorch takes part in every section, in a Python that has it; lightly, burn and candle in that of the loss. Whichever is
absent is left out, which is said. Each runs twice a round: with glibc's allocator as it comes, and with one that keeps
its memory (fewer page faults, larger resident set); what counts is the faster of the two, in memory the smaller. The
figure of a round is its process's median; the table gives the median of the rounds. Where the sides print a loss and
the norm of its gradient, they must agree.
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TUNED = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.hugetlb=1"
MEMORY = "above_the_first_step's_MiB"
# What the sides must find alike, and how nearly (relative).
VALUES = {"loss_nats": 1e-5, "gradient_norm": 1e-4}


class Side(NamedTuple):
    """A library, in the table's words, with one of the two allocators."""

    library: str
    tuned: bool

    def __str__(self):
        return f"{self.library} tuned" if self.tuned else self.library


SELFSAME = Side("selfsame", tuned=False)
LIBRARIES = ("torch", "lightly", "burn", "candle")


def measure(command, environment=None):
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(output.stdout)


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def peers(section, threads, repetitions, numerics):
    """The libraries of a section, each as its command, or as the sentence why it is left out."""
    repeated = ["--repetitions", str(repetitions)]

    def python(module, part):
        if importlib.util.find_spec(module) is None:
            return f"{module} is left out: this Python does not have it"
        flags = ["--threads", str(threads), *repeated, *(["--bf16"] if numerics == "bf16" else [])]
        return [sys.executable, str(HERE / "torch_bench.py"), part, *flags]

    def rust(name):
        binary = HERE / name / "target/release" / f"{name}-nt-xent"
        if not binary.exists():
            return f"{name} is left out: {binary.relative_to(ROOT)} is not built"
        return [str(binary), *repeated]

    found = {"torch": python("torch", section)}
    if section == "loss":
        found |= {"lightly": python("lightly", "lightly"), "burn": rust("burn"), "candle": rust("candle")}
    return found


def commands(section, threads, repetitions, libraries, numerics):
    """The command and the environment of each side that is there and, of the libraries, asked for."""
    flags = ["--threads", str(threads), "--repetitions", str(repetitions), "--numerics", numerics, "--json"]
    found = {SELFSAME: ([str(ROOT / "target/release/selfsame"), "bench", section, *flags], None)}
    # burn and candle take the number of threads from there.
    plain = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    for library, command in peers(section, threads, repetitions, numerics).items():
        if library not in libraries:
            continue
        if isinstance(command, str):
            print(command, file=sys.stderr)
            continue
        found[Side(library, tuned=False)] = (command, plain)
        found[Side(library, tuned=True)] = (command, {**plain, "GLIBC_TUNABLES": TUNED})
    return found


class Figures:
    """What the rounds measured: lists by (case, threads) and side."""

    def __init__(self):
        self.seconds, self.memory, self.values, self.versions = {}, {}, {}, {}

    def add(self, side, threads, result):
        self.versions[side.library] = result.get("version") or result["isa"]
        for timing in result["timings"]:
            case = (timing["name"], threads)
            self.seconds.setdefault(case, {}).setdefault(side, []).append(timing["median_s"])
            if MEMORY in timing:
                self.memory.setdefault(case, {}).setdefault(side, []).append(timing[MEMORY])
            for name in VALUES.keys() & timing.keys():
                self.values.setdefault((name, case), {})[side] = timing[name]

    def largest_differences(self):
        """By the name of a value: the largest relative difference between the sides that have it."""
        largest = {}
        for (name, _), of_side in self.values.items():
            if len({side.library for side in of_side}) > 1:
                difference = max(of_side.values()) / min(of_side.values()) - 1
                largest[name] = max(largest.get(name, 0.0), difference)
        return largest

    def json(self):
        def of_sides(figures):
            return {str(side): values for side, values in figures.items()}

        runs = [{"case": c, "threads": t, "seconds": of_sides(sides)} for (c, t), sides in self.seconds.items()]
        runs += [{"case": c, "threads": t, "MiB": of_sides(sides)} for (c, t), sides in self.memory.items()]
        values = [
            {"case": case, "threads": threads, "value": name, "of": of_sides(sides)}
            for (name, (case, threads)), sides in self.values.items()
        ]
        return {
            "cpu": cpu_name(),
            "date": str(datetime.date.today()),
            "versions": self.versions,
            "runs": runs,
            "values": values,
        }


def table(first, unit, scale, figures):
    """Rows of medians; for each library both allocators' and the ratio of its smaller to ours."""
    libraries = list(dict.fromkeys(side.library for sides in figures.values() for side in sides if side != SELFSAME))
    heads = [first, "threads", f"selfsame {unit}"]
    for library in libraries:
        heads += [f"{library} {unit}: as it comes, tuned", f"{library} / selfsame"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for (case, threads), sides in figures.items():
        medians = {side: statistics.median(values) for side, values in sides.items()}
        cells = [case, str(threads), f"{scale * medians[SELFSAME]:.2f}"]
        for library in libraries:
            theirs = [medians[Side(library, tuned)] for tuned in (False, True) if Side(library, tuned) in medians]
            cells.append(", ".join(f"{scale * value:.2f}" for value in theirs) or "-")
            cells.append(f"{min(theirs) / medians[SELFSAME]:.2f}" if theirs else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def resnet_passes(seconds):
    """For each pass of the ResNets' convolutions the geometric mean over the shapes of theirs / ours, and the least."""
    ratios = {}
    for (case, threads), sides in seconds.items():
        medians = {side: statistics.median(values) for side, values in sides.items()}
        if not case.startswith("resnet ") or len(medians) == 1:
            continue
        shape, passed = case.removeprefix("resnet ").rsplit(" ", 1)
        theirs = min(median for side, median in medians.items() if side != SELFSAME)
        ratios.setdefault((threads, passed), []).append((theirs / medians[SELFSAME], shape))
    lines = []
    for (threads, passed), of_shapes in ratios.items():
        mean = statistics.geometric_mean(ratio for ratio, _ in of_shapes)
        least, shape = min(of_shapes)
        speed = f"{mean:.2f} times as fast in the geometric mean, least {least:.2f} ({shape})"
        lines.append(f"- {passed}, {threads} threads: {speed}")
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sections", nargs="+", default=["gemm", "conv", "loss", "step"])
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES)
    numerics = "those of selfsame; with bf16 PyTorch computes in it, too"
    parser.add_argument("--numerics", choices=["strict", "fast", "bf16"], default="strict", help=numerics)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--under", type=shlex.split, default=[], help="run each side under this, as in 'taskset -c 0,1'")
    parser.add_argument("--out", type=Path, help="write NAME.md and NAME.json")
    args = parser.parse_args()

    figures = Figures()
    for section in args.sections:
        for threads in args.threads:
            sides = commands(section, threads, args.repetitions, args.libraries, args.numerics)
            for round_number in range(args.rounds):
                for side, (command, environment) in sides.items():
                    print(f"{section}, {threads} threads, round {round_number + 1}: {side}", file=sys.stderr)
                    figures.add(side, threads, measure([*args.under, *command], environment))

    versions = ", ".join(version for library, version in figures.versions.items() if library != SELFSAME.library)
    lines = [
        f"{cpu_name()}, {os.cpu_count()} cores, {datetime.date.today()}; selfsame on {figures.versions['selfsame']}"
        f"{f', in {args.numerics} numerics' if args.numerics != 'strict' else ''}; "
        f"{versions}; medians of {args.rounds} alternating rounds of {args.repetitions} repetitions.",
        "",
        *table("case", "ms", 1e3, figures.seconds),
    ]
    if figures.memory:
        lines += ["", *table("peak above the first step's start", "MiB", 1, figures.memory)]
    passes = resnet_passes(figures.seconds)
    if passes:
        lines += ["", *passes]
    differences = figures.largest_differences()
    if differences:
        found = ", ".join(f"{largest:.0e} of {name.replace('_', ' ')}" for name, largest in differences.items())
        lines += ["", f"The largest relative differences between the sides: {found}."]
    text = "\n".join(lines) + "\n"
    print(text)
    too_large = [name for name, largest in differences.items() if not largest <= VALUES[name]]
    if too_large:
        sys.exit(f"the sides do not agree on {', '.join(too_large)}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".md").write_text(text)
        args.out.with_suffix(".json").write_text(json.dumps(figures.json(), indent=1) + "\n")


if __name__ == "__main__":
    main()
