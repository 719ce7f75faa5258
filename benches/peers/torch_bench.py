"""PyTorch's side of `selfsame bench`: the same cases under the same names, as the same JSON on standard output.

    python torch_bench.py [gemm|conv|resnet|rows|nearest|augment|vit|loss|lightly|step] --threads 2 --repetitions 7

With `--bf16` convolutions are of bf16 tensors, and models run forward under autocast to bf16; the rest is as without.

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


def autocast():
    """What models run forward in."""
    return torch.autocast("cpu", torch.bfloat16, enabled=Layer.dtype == torch.bfloat16)


class Layer:
    """A convolution, channels last, and what its passes take."""

    dtype = torch.float32

    def __init__(self, images, side, c_in, c_out, kernel, stride):
        layout = {"memory_format": torch.channels_last, "dtype": self.dtype}
        self.x = torch.randn(images, c_in, side, side).to(**layout)
        self.w = torch.randn(c_out, c_in, kernel, kernel).to(**layout)
        self.options = {"stride": stride, "padding": kernel // 2}
        y = self.forward()
        self.dy = torch.randn_like(y)
        self.flop = 2 * y.numel() * kernel * kernel * c_in
        # The first layer of a network needs no input gradient.
        self.needs_input_grad = c_in > 3
        by = f"/{stride}" if stride > 1 else ""
        self.name = f"{kernel}x{kernel}{by} {c_in if c_in == c_out else f'{c_in}-{c_out}'} @{side}"

    def forward(self):
        return F.conv2d(self.x, self.w, **self.options)

    def gradients(self, of_input, of_weight):
        stride, padding = [self.options["stride"]] * 2, [self.options["padding"]] * 2
        operands = (self.dy, self.x, self.w, None, stride, padding, [1, 1], False, [0, 0], 1)
        return torch.ops.aten.convolution_backward(*operands, [of_input, of_weight, False])


def conv(repetitions):
    layers = [(64, 32, 64, 64, 3, 1), (64, 16, 128, 128, 3, 1), (64, 8, 256, 256, 3, 1), (64, 4, 512, 512, 3, 1)]
    for case in [*layers, (16, 224, 3, 64, 7, 2), (64, 14, 256, 1024, 1, 1)]:
        layer = Layer(*case)
        yield timed(f"conv {layer.name} fwd", layer.flop, repetitions, layer.forward)
        both = lambda: (layer.forward(), layer.gradients(layer.needs_input_grad, True))
        passes = 3 if layer.needs_input_grad else 2
        yield timed(f"conv {layer.name} fwd+bwd", passes * layer.flop, repetitions, both)


RESNET18 = [
    *[(64, 32, 3, 64, 3, 1), (64, 32, 64, 64, 3, 1), (64, 32, 64, 128, 3, 2), (64, 32, 64, 128, 1, 2)],
    *[(64, 16, 128, 128, 3, 1), (64, 16, 128, 256, 3, 2), (64, 16, 128, 256, 1, 2)],
    *[(64, 8, 256, 256, 3, 1), (64, 8, 256, 512, 3, 2), (64, 8, 256, 512, 1, 2), (64, 4, 512, 512, 3, 1)],
]
RESNET50 = [
    *[(16, 224, 3, 64, 7, 2), (16, 56, 64, 64, 1, 1), (16, 56, 64, 64, 3, 1), (16, 56, 64, 256, 1, 1)],
    *[(16, 56, 256, 64, 1, 1), (16, 56, 256, 128, 1, 1), (16, 56, 128, 128, 3, 2), (16, 56, 256, 512, 1, 2)],
    *[(16, 28, 128, 512, 1, 1), (16, 28, 512, 128, 1, 1), (16, 28, 128, 128, 3, 1), (16, 28, 512, 256, 1, 1)],
    *[(16, 28, 256, 256, 3, 2), (16, 28, 512, 1024, 1, 2), (16, 14, 256, 1024, 1, 1), (16, 14, 1024, 256, 1, 1)],
    *[(16, 14, 256, 256, 3, 1), (16, 14, 1024, 2048, 1, 2), (16, 14, 512, 512, 3, 2)],
    *[(16, 7, 512, 2048, 1, 1), (16, 7, 512, 512, 3, 1)],
]


def resnet(repetitions):
    for case in RESNET18 + RESNET50:
        layer = Layer(*case)
        yield timed(f"resnet {layer.name} fwd", layer.flop, repetitions, layer.forward)
        if layer.needs_input_grad:
            yield timed(f"resnet {layer.name} dx", layer.flop, repetitions, lambda: layer.gradients(True, False))
        yield timed(f"resnet {layer.name} dw", layer.flop, repetitions, lambda: layer.gradients(False, True))


def rows(repetitions):
    """What a network does between its products. Activations of batch norm are channels last in memory."""
    logits, tokens, activation = (8192, 4096), (50432, 384), (256, 32, 32, 64)
    cases = [
        ("softmax", logits, lambda x, gamma, beta: x.softmax(-1)),
        ("log_softmax", logits, lambda x, gamma, beta: x.log_softmax(-1)),
        ("layer_norm", tokens, lambda x, gamma, beta: F.layer_norm(x, x.shape[-1:], gamma, beta)),
        ("gelu", tokens, lambda x, gamma, beta: F.gelu(x)),
        ("batch_norm", activation, lambda x, gamma, beta: F.batch_norm(x, None, None, gamma, beta, training=True)),
        ("relu", activation, lambda x, gamma, beta: F.relu(x)),
    ]
    for name, shape, apply in cases:
        operands = [torch.randn(shape), torch.randn(shape[-1]), torch.randn(shape[-1])]
        if len(shape) == 4:
            operands[0] = operands[0].permute(0, 3, 1, 2)
        size = "x".join(map(str, shape))
        dy = torch.randn_like(operands[0])
        with torch.no_grad():
            yield timed(f"{name} {size} fwd", None, repetitions, lambda: apply(*operands))
        for operand in operands:
            operand.requires_grad_()
        used = operands if name.endswith("_norm") else operands[:1]
        both = lambda: torch.autograd.grad(apply(*operands), used, dy)
        yield timed(f"{name} {size} fwd+bwd", None, repetitions, both)


@torch.no_grad()
def nearest(repetitions):
    """Each the faster of two forms where there are two."""
    n, d, centroids, queries, neighbours = 50_000, 128, 1000, 1000, 200
    x, c, q = torch.randn(n, d), torch.randn(centroids, d), torch.randn(queries, d)

    def by_product():
        return (x @ c.t() - c.square().sum(1) / 2).argmax(1)

    def by_distance():
        return torch.cdist(x, c).argmin(1)

    name = f"kmeans assign {n}x{d} to {centroids}"
    timings = [timed(name, 2 * n * d * centroids, repetitions, form) for form in (by_product, by_distance)]
    yield min(timings, key=lambda timing: timing["median_s"])
    search = lambda: (F.normalize(q) @ F.normalize(x).t()).topk(neighbours)
    yield timed(f"knn {neighbours} of {n}x{d} for {queries}", 2 * n * d * queries, repetitions, search)


def augment(repetitions):
    """torchvision's transforms of PIL's images, one after the other, on one thread; nothing where it is absent."""
    try:
        from PIL import Image
        from torchvision import transforms as t
    except ImportError as error:
        print(f"augment is left out: {error}", file=sys.stderr)
        return
    jitter = t.ColorJitter(0.4, 0.4, 0.4, 0.1)
    chain = t.Compose(
        [
            t.RandomResizedCrop(32),
            t.RandomHorizontalFlip(),
            t.RandomApply([jitter], p=0.8),
            t.RandomGrayscale(p=0.2),
            t.ToTensor(),
        ]
    )
    pixels = torch.randint(256, (128, 32, 32, 3), dtype=torch.uint8).numpy()
    work = lambda: [chain(Image.fromarray(image)) for image in pixels for _ in range(2)]
    yield timed("augment simclr 2x128 @32", None, repetitions, work)


class TransformerBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        n, tokens, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(n, tokens, dim))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """ViT-Tiny over patches of 4 pixels of images of 32; the class token."""

    def __init__(self, dim=192, depth=12, heads=3, patch=4, image=32):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (image // patch) ** 2, dim))
        self.blocks = nn.Sequential(*[TransformerBlock(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.norm(self.blocks(x))[:, 0]


def vit(repetitions):
    net, x, dy = Vit(), torch.randn(128, 3, 32, 32), torch.randn(128, 192)

    def forward():
        with autocast():
            return net(x).float()

    with torch.no_grad():
        yield timed("vit-tiny 128x32x32 fwd", None, repetitions, forward)
    params = list(net.parameters())
    yield timed("vit-tiny 128x32x32 fwd+bwd", None, repetitions, lambda: torch.autograd.grad(forward(), params, dy))


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
        with autocast():
            z = model(x).float()
        value = nt_xent(z, 0.5)
        value.backward()
        optimiser.step()
        return value.item()

    timing = timed("simclr step resnet18 2x128", STEP_FLOP, repetitions, work)
    timing["above_the_first_step's_MiB"] = resident("VmHWM") - before
    yield timing


def main():
    own = (gemm, conv, resnet, rows, nearest, augment, vit, loss, lightly, step)
    sections = {section.__name__: section for section in own}
    parser = argparse.ArgumentParser()
    parser.add_argument("section", nargs="?", choices=sections)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    if args.bf16:
        Layer.dtype = torch.bfloat16
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
