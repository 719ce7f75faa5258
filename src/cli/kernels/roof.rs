//! The roofs of named GPUs, from their data sheets.

/// What a GPU can do at most.
pub(super) struct Gpu {
    /// A part of the name that the driver gives it.
    pub(super) name: &'static str,
    /// f32 FLOP/s outside tensor cores.
    pub(super) flops: f64,
    /// Dense bf16 FLOP/s of tensor cores with f32 sums.
    pub(super) tensor_flops: f64,
    /// Bytes per second of memory.
    pub(super) bandwidth: f64,
}

/// NVIDIA's figures for the SXM forms and the desktop card, without sparsity.
pub(super) const GPUS: [Gpu; 4] = [
    Gpu { name: "A100", flops: 19.5e12, tensor_flops: 312e12, bandwidth: 2039e9 },
    Gpu { name: "H100", flops: 67e12, tensor_flops: 989e12, bandwidth: 3350e9 },
    Gpu { name: "H200", flops: 67e12, tensor_flops: 989e12, bandwidth: 4800e9 },
    Gpu { name: "RTX 4090", flops: 82.6e12, tensor_flops: 165e12, bandwidth: 1008e9 },
];

/// What bounds a launch, and the seconds that it takes at least.
pub(super) struct Bound {
    pub(super) by: &'static str,
    pub(super) seconds: f64,
}

impl Gpu {
    /// The bound of a launch of so many FLOP, tensor-core FLOP and bytes.
    pub(super) fn bound(&self, flop: f64, tensor_flop: f64, bytes: f64) -> Bound {
        let bounds = [
            Bound { by: "memory", seconds: bytes / self.bandwidth },
            Bound { by: "arithmetic", seconds: flop / self.flops },
            Bound { by: "tensor cores", seconds: tensor_flop / self.tensor_flops },
        ];
        bounds.into_iter().reduce(|a, b| if b.seconds > a.seconds { b } else { a }).expect("three bounds")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_resource_bounds() {
        let gpu = Gpu { name: "", flops: 10.0, tensor_flops: 100.0, bandwidth: 1.0 };
        let bound = gpu.bound(20.0, 0.0, 1.0);
        assert_eq!((bound.by, bound.seconds), ("arithmetic", 2.0));
        assert_eq!(gpu.bound(20.0, 0.0, 3.0).by, "memory");
        assert_eq!(gpu.bound(20.0, 500.0, 3.0).by, "tensor cores");
    }
}
