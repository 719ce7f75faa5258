"""PyTorch's side of `selfsame bench`: the same cases under the same names, as the same JSON on standard output.

    python torch_bench.py [gemm|conv|step|loss|lightly] --threads 2 --repetitions 7

`lightly` is the loss as lightly's module computes it. lightly is pure Python and does without what it depends on here:
`pip install --no-deps --target DIR lightly torchvision`, with DIR in PYTHONPATH.
"""

import argparse
import importlib.metadata
import json
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

STEP_FLOP = 853.6e9


def resident(key):
    """A figure of /proc/self/status in MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(key + ":"))


def timed(name, flop, repetitions, work):
    print(name, file=sys.stderr)
    work()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return {
        "name": name,
        "median_s": median,
        "min_s": min(seconds),
        "max_s": max(seconds),
        "gflops": flop / median / 1e9 if flop else None,
    }


def gemm(repetitions):
    cases = [
        (1024, 1024, 1024, False),
        (2048, 2048, 2048, False),
        (2048, 2048, 2048, True),
        (256, 512, 512, True),
        (256, 2048, 2048, True),
        (4096, 128, 4096, True),
        (16384, 128, 4096, True),
    ]
    for m, k, n, transposed in cases:
        a = torch.randn(m, k)
        b = torch.randn(n, k).t() if transposed else torch.randn(k, n)
        name = f"gemm {m}x{k}x{n}{' nt' if transposed else ''}"
        yield timed(name, 2 * m * k * n, repetitions, lambda: a @ b)


def conv(repetitions):
    cases = [
        ("3x3 64 @32", 64, 32, 64, 64, 3, 1, True),
        ("3x3 128 @16", 64, 16, 128, 128, 3, 1, True),
        ("3x3 256 @8", 64, 8, 256, 256, 3, 1, True),
        ("3x3 512 @4", 64, 4, 512, 512, 3, 1, True),
        ("7x7/2 3-64 @224", 16, 224, 3, 64, 7, 2, False),
        ("1x1 256-1024 @14", 64, 14, 256, 1024, 1, 1, True),
    ]
    for name, images, side, c_in, c_out, kernel, stride, input_grad in cases:
        channels_last = {"memory_format": torch.channels_last}
        x = torch.randn(images, c_in, side, side).to(**channels_last)
        w = torch.randn(c_out, c_in, kernel, kernel).to(**channels_last).requires_grad_()
        forward = lambda: F.conv2d(x, w, stride=stride, padding=kernel // 2)
        with torch.no_grad():
            y = forward()
            flop = 2 * y.numel() * kernel * kernel * c_in
            yield timed(f"conv {name} fwd", flop, repetitions, forward)
        dy = torch.randn_like(y)
        x.requires_grad_(input_grad)
        inputs = [x, w] if input_grad else [w]
        both = lambda: torch.autograd.grad(forward(), inputs, dy)
        yield timed(f"conv {name} fwd+bwd", (3 if input_grad else 2) * flop, repetitions, both)


def nt_xent(z, temperature):
    """The whole matrix. Dividing its factor by the temperature rather than it spares two passes over it."""
    u = F.normalize(z)
    logits = (u / temperature) @ u.t()
    logits.fill_diagonal_(float("-inf"))
    n = z.shape[0] // 2
    return F.cross_entropy(logits, torch.arange(2 * n).roll(n))


class ChunkedLogSumExp(torch.autograd.Function):
    """Log-sum-exps of the similarities of all pairs, 1024 rows at a time; backward computes the similarities again."""

    ROWS = 1024

    @staticmethod
    def similarities(u, start, temperature):
        part = (u[start : start + ChunkedLogSumExp.ROWS] / temperature) @ u.t()
        rows = torch.arange(part.shape[0])
        part[rows, rows + start] = float("-inf")
        return part

    @staticmethod
    def forward(ctx, u, temperature):
        starts = range(0, u.shape[0], ChunkedLogSumExp.ROWS)
        value = torch.cat([torch.logsumexp(ChunkedLogSumExp.similarities(u, i, temperature), 1) for i in starts])
        ctx.save_for_backward(u, value)
        ctx.temperature = temperature
        return value

    @staticmethod
    def backward(ctx, dy):
        u, value = ctx.saved_tensors
        du = torch.zeros_like(u)
        for i in range(0, u.shape[0], ChunkedLogSumExp.ROWS):
            rows = slice(i, i + ChunkedLogSumExp.ROWS)
            share = ChunkedLogSumExp.similarities(u, i, ctx.temperature).sub_(value[rows, None]).exp_()
            share.mul_((dy[rows] / ctx.temperature)[:, None])
            du[rows] += share @ u
            du += share.t() @ u[rows]
        return du, None


def nt_xent_chunked(z, temperature):
    u = F.normalize(z)
    n = z.shape[0] // 2
    positive = (u[:n] * u[n:]).sum(1).repeat(2) / temperature
    return (ChunkedLogSumExp.apply(u, temperature) - positive).mean()


def embeddings(rows):
    """Those of src/cli/bench/loss.rs: 24 bits of a hash of the coordinate's index, uniform in [-1, 1)."""
    low = 0xFFFFFFFF
    x = torch.arange(rows * 128) * 0x9E3779B9 & low
    x = (x ^ x >> 16) * 0x85EBCA6B & low
    x = (x ^ x >> 13) * 0xC2B2AE35 & low
    x = x ^ x >> 16
    return ((x >> 8).float() / 2**23 - 1).view(rows, 128)


def timed_loss(rows, repetitions, form, leaves):
    """Forward and backward of `form` of the leaves, with the value and the norm of the gradient."""
    found = {}

    def work():
        value = form(*leaves)
        found.update(value=value.detach(), gradients=torch.autograd.grad(value, leaves))

    timing = timed(f"nt_xent {rows}x128 fwd+bwd", None, repetitions, work)
    norm = torch.cat(found["gradients"]).double().norm()
    return {**timing, "loss_nats": found["value"].item(), "gradient_norm": norm.item()}


def loss(repetitions):
    """The faster of the whole matrix and of 1024 rows at a time; the whole matrix of 32768 rows would not fit."""
    for rows in (1024, 4096, 16384, 32768):
        z = embeddings(rows).requires_grad_()
        forms = [nt_xent, nt_xent_chunked] if rows <= 16384 else [nt_xent_chunked]
        timings = [timed_loss(rows, repetitions, lambda z: form(z, 0.5), [z]) for form in forms]
        fastest = min(timings, key=lambda timing: timing["median_s"])
        yield {**fastest, "form": forms[timings.index(fastest)].__name__}


def lightly(repetitions):
    """lightly's module on the two views: `rows` counts both, as everywhere here; lightly's batch is half of it."""
    from lightly.loss import NTXentLoss

    for rows in (1024, 4096, 16384):
        views = [view.clone().requires_grad_() for view in embeddings(rows).chunk(2)]
        yield timed_loss(rows, repetitions, NTXentLoss(temperature=0.5), views)


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.downsample(x) if self.downsample else x
        return F.relu(y, inplace=True)


def cifar_resnet18():
    layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    c_in = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(c_in, width, stride), Block(width, width, 1)]
        c_in = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def step(repetitions):
    projector = nn.Sequential(
        nn.Linear(512, 512, bias=False),
        nn.BatchNorm1d(512),
        nn.ReLU(inplace=True),
        nn.Linear(512, 128, bias=False),
        nn.BatchNorm1d(128),
    )
    model = nn.Sequential(cifar_resnet18(), projector).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, foreach=True)
    x = torch.rand(256, 3, 32, 32).to(memory_format=torch.channels_last)
    before = resident("VmRSS")

    def work():
        optimiser.zero_grad(set_to_none=True)
        value = nt_xent(model(x), 0.5)
        value.backward()
        optimiser.step()
        return value.item()

    timing = timed("simclr step resnet18 2x128", STEP_FLOP, repetitions, work)
    timing["above_the_first_step's_MiB"] = resident("VmHWM") - before
    yield timing


def main():
    sections = {"gemm": gemm, "conv": conv, "loss": loss, "lightly": lightly, "step": step}
    parser = argparse.ArgumentParser()
    parser.add_argument("section", nargs="?", choices=sections)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    version = f"torch {torch.__version__}"
    chosen = [args.section] if args.section else list(sections)
    if "lightly" in chosen:
        try:
            version = f"lightly {importlib.metadata.version('lightly')} on {version}"
        except importlib.metadata.PackageNotFoundError:
            absent = "lightly is absent: pip install --no-deps --target DIR lightly torchvision, and PYTHONPATH=DIR"
            if args.section:
                sys.exit(absent)
            print(absent, file=sys.stderr)
            chosen.remove("lightly")
    timings = [t for section in chosen for t in sections[section](args.repetitions)]
    print(json.dumps({"threads": args.threads, "version": version, "repetitions": args.repetitions, "timings": timings}))


if __name__ == "__main__":
    main()
