"""Sinkhorn codes of a batch: `selfsame bench sinkhorn` against SwAV's algorithm in PyTorch, alternating.

    cargo build --release
    python benches/peers/sinkhorn.py [--threads 2] [--rounds 7] [--repetitions 7] [--out results/sinkhorn-cpu.json]

4096 samples, 3000 prototypes, 3 iterations, epsilon 0.05. PyTorch's side is the algorithm of the paper's code (Caron et
al. 2020, algorithm 1, with its all-reduces at a world size of 1): whole-matrix operations on the transposed matrix. It
runs twice a round: with its allocator as it comes, and with one that keeps its memory. The figure of a round is its
process's median; the table gives the median of the rounds. Each side reports how far its columns are from balance.
"""

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from pathlib import Path

from compare import ROOT, TUNED, cpu_name, measure

SAMPLES, PROTOTYPES, DIMENSIONS, ITERATIONS, EPSILON = 4096, 3000, 128, 3, 0.05
SIDES = ("selfsame scaling", "selfsame log", "torch", "torch tuned")


def swav_codes(scores):
    """Q of SwAV: prototypes (rows) and samples (columns) in turn, each brought to its share of a total of 1."""
    q = (scores / EPSILON).exp().t()
    prototypes, samples = q.shape
    q /= q.sum()
    for _ in range(ITERATIONS):
        q /= q.sum(dim=1, keepdim=True)
        q /= prototypes
        q /= q.sum(dim=0, keepdim=True)
        q /= samples
    q *= samples
    return q.t()


def peer(threads, repetitions):
    """One process of PyTorch's side."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    scores = F.normalize(torch.randn(SAMPLES, DIMENSIONS)) @ F.normalize(torch.randn(PROTOTYPES, DIMENSIONS)).t()
    seconds = []
    with torch.no_grad():
        codes = swav_codes(scores)
        for _ in range(repetitions):
            start = time.perf_counter()
            swav_codes(scores)
            seconds.append(time.perf_counter() - start)
    column_error = (codes.double().mean(dim=0) - 1 / PROTOTYPES).abs().sum().item()
    figures = {"median_s": statistics.median(seconds), "column_error_L1": column_error}
    print(json.dumps({"version": f"torch {torch.__version__}", "timings": [figures]}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/selfsame")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("--peer", action="store_true", help="be PyTorch's side of one round")
    args = parser.parse_args()
    if args.peer:
        return peer(args.threads, args.repetitions)

    flags = ["--threads", str(args.threads), "--repetitions", str(args.repetitions)]
    ours = [str(args.binary), "bench", "sinkhorn", *flags, "--json"]
    theirs = [sys.executable, __file__, "--peer", *flags]
    seconds, errors, versions = {side: [] for side in SIDES}, {}, {}
    for round_number in range(args.rounds):
        print(f"round {round_number + 1} of {args.rounds}", file=sys.stderr)
        for sides, command, environment in (
            (SIDES[:2], ours, None),
            (SIDES[2:3], theirs, None),
            (SIDES[3:], theirs, {**os.environ, "GLIBC_TUNABLES": TUNED}),
        ):
            result = measure(command, environment)
            for side, timing in zip(sides, result["timings"]):
                seconds[side].append(timing["median_s"])
                errors[side] = timing["column_error_L1"]
                versions[side] = result.get("version") or result["isa"]

    medians = {side: statistics.median(figures) for side, figures in seconds.items()}
    load = f"load average {os.getloadavg()[1]:.1f}"
    print(f"{cpu_name()}, {os.cpu_count()} cores, {args.threads} threads, {versions['torch']}, {load}")
    print(f"{'':18}{'ms':>9}{'range':>18}{'torch / it':>12}{'tuned / it':>12}{'column error':>14}")
    for side, figures in seconds.items():
        low, high = 1e3 * min(figures), 1e3 * max(figures)
        ratios = "".join(f"{medians[peer] / medians[side]:12.2f}" for peer in SIDES[2:])
        print(f"{side:18}{1e3 * medians[side]:9.2f}{f'{low:.1f}-{high:.1f}':>18}{ratios}{errors[side]:14.1e}")
    if args.out:
        report = {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": args.threads,
            "date": str(datetime.date.today()),
            "load_average": os.getloadavg(),
            "case": {"samples": SAMPLES, "prototypes": PROTOTYPES, "iterations": ITERATIONS, "epsilon": EPSILON},
            "rounds": args.rounds,
            "repetitions": args.repetitions,
            "versions": versions,
            "column_error_L1": errors,
            "median_s": medians,
            "seconds": seconds,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
