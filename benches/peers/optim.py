"""Runs `selfsame bench optim` and PyTorch's optimisers on ResNet-50's parameters, alternating, and prints a table.

    cargo build --release
    python benches/peers/optim.py [--threads 2 1] [--rounds 5] [--out results/optim-cpu]

PyTorch's side of a case is each of its forms; the table gives the fastest. LARS is the usual loop over tensors (that of
Barlow Twins, DINO and MoCo v3), and LAMB the same kind of loop, as PyTorch has neither. PyTorch runs with its allocator
as it comes and with one that keeps its memory, as in compare.py; the figure of a round is its process's median, the
table has the median of the rounds.
"""

import argparse
import datetime
import json
import os
import statistics
import sys
from pathlib import Path

from compare import ROOT, TUNED, cpu_name, measure

CASES = ["lars", "sgd", "adamw", "lamb", "ema", "read-modify-write"]


def resnet50():
    """The shapes of its 161 parameters."""

    def conv(kernel, c_in, c_out):
        return [(c_out, c_in, kernel, kernel), (c_out,), (c_out,)]

    shapes, c_in = conv(7, 3, 64), 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            shapes += conv(1, c_in, width) + conv(3, width, width) + conv(1, width, 4 * width)
            if block == 0:
                shapes += conv(1, c_in, 4 * width)
            c_in = 4 * width
    return shapes + [(1000, c_in), (1000,)]


def torch_side(threads, repetitions):
    """Times every form of every case; prints JSON of medians by case and form."""
    import torch

    from torch_bench import timed

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    params = [torch.nn.Parameter(0.02 * torch.randn(shape)) for shape in resnet50()]
    for p in params:
        p.grad = 0.01 * p.detach()
    elements = sum(p.numel() for p in params)

    @torch.no_grad()
    def lars(state, lr=1e-6, momentum=0.9, weight_decay=1e-6, eta=0.001):
        for p in params:
            dp = p.grad
            if p.ndim != 1:
                dp = dp.add(p, alpha=weight_decay)
                param_norm, update_norm = torch.norm(p), torch.norm(dp)
                one = torch.ones_like(param_norm)
                adapted = torch.where(update_norm > 0, eta * param_norm / update_norm, one)
                dp = dp.mul(torch.where(param_norm > 0, adapted, one))
            if p not in state:
                state[p] = torch.zeros_like(p)
            state[p].mul_(momentum).add_(dp)
            p.add_(state[p], alpha=-lr)

    @torch.no_grad()
    def lamb(state, lr=1e-6, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01):
        norm = torch.norm(torch.stack([torch.norm(p.grad) for p in params]))
        clip = torch.clamp(norm, min=1.0)
        state["step"] = t = state.get("step", 0) + 1
        for p in params:
            if p not in state:
                state[p] = (torch.zeros_like(p), torch.zeros_like(p))
            m, v = state[p]
            g = p.grad / clip
            m.lerp_(g, 1 - b1)
            v.mul_(b2).addcmul_(g, g, value=1 - b2)
            update = (m / (1 - b1**t)).div_((v.sqrt() / (1 - b2**t) ** 0.5).add_(eps))
            if p.ndim != 1:
                update.add_(p, alpha=weight_decay)
                w_norm, u_norm = torch.norm(p), torch.norm(update)
                update.mul_(torch.where((w_norm > 0) & (u_norm > 0), w_norm / u_norm, torch.ones_like(w_norm)))
            p.add_(update, alpha=-lr)

    def step(optimiser):
        return optimiser.step

    sgd, adamw = torch.optim.SGD, torch.optim.AdamW
    settings = {
        sgd: {"lr": 1e-6, "momentum": 0.9, "weight_decay": 1e-4},
        adamw: {"lr": 1e-6, "weight_decay": 0.01},
    }
    values = [p.detach() for p in params]
    teacher = [value.clone() for value in values]
    lars_state, lamb_state = {}, {}
    # 28 bytes per parameter, as a step of LARS moves: 3.5 floats read and written.
    stream = torch.zeros(7 * elements // 2)
    forms = {
        "lars": {"loop": lambda: lars(lars_state)},
        "sgd": {form: step(sgd(params, **settings[sgd], **{form: True})) for form in ("fused", "foreach")},
        "adamw": {form: step(adamw(params, **settings[adamw], **{form: True})) for form in ("fused", "foreach")},
        "lamb": {"loop": lambda: lamb(lamb_state)},
        "ema": {
            "foreach": lambda: torch._foreach_lerp_(teacher, values, 0.01),
            "loop": lambda: [t.mul_(0.99).add_(v, alpha=0.01) for t, v in zip(teacher, values)],
        },
        "read-modify-write": {"mul_": lambda: stream.mul_(1.5)},
    }
    medians = {
        case: {form: timed(f"{case} {form}", None, repetitions, work)["median_s"] for form, work in of.items()}
        for case, of in forms.items()
    }
    print(json.dumps({"version": f"torch {torch.__version__}", "medians": medians}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write NAME.md and NAME.json")
    parser.add_argument("--torch", action="store_true", help="PyTorch's side alone, as JSON")
    args = parser.parse_args()
    if args.torch:
        return torch_side(args.threads[0], args.repetitions)

    # Seconds by (case, threads), side and form, one per round.
    seconds, versions = {}, {}
    tuned = {**os.environ, "GLIBC_TUNABLES": TUNED}

    def add(case, threads, side, form, value):
        seconds.setdefault((case, threads), {}).setdefault((side, form), []).append(value)

    for threads in args.threads:
        flags = ["--threads", str(threads), "--repetitions", str(args.repetitions)]
        for round_number in range(args.rounds):
            print(f"{threads} threads, round {round_number + 1}", file=sys.stderr)
            ours = measure([str(ROOT / "target/release/selfsame"), "bench", "optim", *flags, "--json"])
            versions["selfsame"] = ours["isa"]
            for timing in ours["timings"]:
                add(timing["name"].removeprefix("optim resnet50 "), threads, "selfsame", "", timing["median_s"])
            for side, environment in (("torch", None), ("torch tuned", tuned)):
                theirs = measure([sys.executable, __file__, "--torch", *flags], environment)
                versions["torch"] = theirs["version"]
                for case, forms in theirs["medians"].items():
                    for form, value in forms.items():
                        add(case, threads, side, form, value)

    lines = [
        f"{cpu_name()}, {os.cpu_count()} cores, {datetime.date.today()}; selfsame on {versions['selfsame']}, "
        f"{versions['torch']}; medians of {args.rounds} alternating rounds of {args.repetitions} repetitions.",
        "",
        "A step over ResNet-50's 161 parameters (25.6 million). The stream reads and writes the 28 bytes per parameter",
        "that a step of LARS moves.",
        "",
        "| case | threads | selfsame ms | torch's fastest ms | its form | torch / selfsame | selfsame / its stream |",
        "|---|---|---|---|---|---|---|",
    ]
    for threads in args.threads:
        stream = statistics.median(seconds["read-modify-write", threads]["selfsame", ""])
        for case in CASES:
            figures = {key: statistics.median(values) for key, values in seconds[case, threads].items()}
            mine = figures.pop(("selfsame", ""))
            (side, form), best = min(figures.items(), key=lambda entry: entry[1])
            lines.append(
                f"| {case} | {threads} | {1e3 * mine:.2f} | {1e3 * best:.2f} | {form} ({side}) "
                f"| {best / mine:.2f} | {mine / stream:.2f} |"
            )
    table = "\n".join(lines) + "\n"
    print(table)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".md").write_text(table)
        runs = [
            {"case": case, "threads": threads, "side": side, "form": form, "seconds": values}
            for (case, threads), sides in seconds.items()
            for (side, form), values in sides.items()
        ]
        result = {"cpu": cpu_name(), "date": str(datetime.date.today()), "versions": versions, "runs": runs}
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
