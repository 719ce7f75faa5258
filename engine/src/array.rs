//! `Array`: storage, shape, strides, element type, device. No gradient.
#![allow(unsafe_code)]

use crate::cpu::{Block, CpuDevice};
use crate::gpu::{self, GpuBlock, GpuDevice};
use crate::layout::{Layout, element_count, for_each_run};
use crate::profile::{Owner, Work};
use crate::{DType, Device, Element, Error, ErrorKind, Result};
use std::fmt;
use std::sync::Arc;

mod cells;

/// An n-dimensional array on a device.
///
/// Cloning and viewing share the storage; writing needs the only handle (see [`Array::make_mut`]).
#[derive(Clone)]
pub struct Array {
    storage: Storage,
    layout: Layout,
    dtype: DType,
    device: Device,
}

/// Shared memory of the host, or of a GPU device.
#[derive(Clone)]
enum Storage {
    Host(Arc<Block>),
    Gpu(Arc<GpuBlock>),
}

impl Storage {
    /// The bytes on the host; for a GPU device, its host copy.
    fn as_ptr(&self) -> Result<*const u8> {
        match self {
            Storage::Host(block) => Ok(block.as_ptr()),
            Storage::Gpu(block) => Ok(block.host()?.as_ptr()),
        }
    }

    fn size(&self) -> usize {
        match self {
            Storage::Host(block) => block.size(),
            Storage::Gpu(block) => block.size(),
        }
    }

    fn is_unique(&mut self) -> bool {
        match self {
            Storage::Host(block) => Arc::get_mut(block).is_some(),
            Storage::Gpu(block) => Arc::get_mut(block).is_some(),
        }
    }
}

impl Array {
    /// A contiguous array of `shape` whose elements `fill` writes. `fill` must write every element: what it finds
    /// there is whatever the block held before. `owner` names the operation in memory statistics.
    ///
    /// # Errors
    /// `OutOfMemory`, or what `fill` returns.
    pub fn build<T: Element>(
        device: &Device,
        shape: &[usize],
        owner: &'static str,
        fill: impl FnOnce(&CpuDevice, &mut [T]) -> Result<()>,
    ) -> Result<Array> {
        if let Device::Gpu(gpu) = device {
            gpu.count_fallback(owner);
        }
        Array::on_host(device, shape, owner, fill)
    }

    /// As [`Array::build`], for values that come from the host by their nature: constants, files, images. On a GPU
    /// device they are uploaded when first used, and not counted as a computation that has no kernel.
    ///
    /// # Errors
    /// As for [`Array::build`].
    pub fn on_host<T: Element>(
        device: &Device,
        shape: &[usize],
        owner: &'static str,
        fill: impl FnOnce(&CpuDevice, &mut [T]) -> Result<()>,
    ) -> Result<Array> {
        let n = element_count(shape)?;
        let cpu = device.host();
        let mut block = cpu.memory().take(n * size_of::<T>(), owner, shape)?;
        if T::DTYPE == DType::Bool {
            // SAFETY: the block has at least `n` bytes. Bytes of an earlier owner may not be valid truth values.
            unsafe { block.as_mut_ptr().write_bytes(0, n) };
        }
        // SAFETY: the block is initialised (zeroed when new, written by earlier owners since), 64-byte aligned, at
        // least `n` elements long and not shared yet; every bit pattern is a valid T (bool was zeroed above).
        let out = unsafe { std::slice::from_raw_parts_mut(block.as_mut_ptr().cast::<T>(), n) };
        fill(cpu, out)?;
        let storage = match device {
            Device::Cpu(_) => Storage::Host(Arc::new(block)),
            Device::Gpu(gpu) => Storage::Gpu(Arc::new(GpuBlock::on_host(gpu, n * size_of::<T>(), owner, shape, block))),
        };
        Ok(Array { storage, layout: Layout::contiguous(shape), dtype: T::DTYPE, device: device.clone() })
    }

    /// A contiguous array over memory of a GPU device.
    pub(crate) fn on_gpu(block: GpuBlock, shape: &[usize], dtype: DType, gpu: &GpuDevice) -> Array {
        Array {
            storage: Storage::Gpu(Arc::new(block)),
            layout: Layout::contiguous(shape),
            dtype,
            device: Device::Gpu(gpu.clone()),
        }
    }

    /// An array holding `values` in row-major order.
    ///
    /// # Errors
    /// When the number of values is not the product of `shape`.
    pub fn from_slice<T: Element>(values: &[T], shape: &[usize], device: &Device) -> Result<Array> {
        let n = element_count(shape)?;
        if n != values.len() {
            return Err(Error::new(ErrorKind::Shape, "array", format!("{} values for shape {shape:?}", values.len()))
                .expected(format!("{n} values")));
        }
        let _span = device.span("array", || Work::moving(2 * size_of_val(values)));
        Array::on_host(device, shape, "array", |_, out| {
            out.copy_from_slice(values);
            Ok(())
        })
    }

    /// An array of one value everywhere.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn full<T: Element>(value: T, shape: &[usize], device: &Device) -> Result<Array> {
        Array::on_host(device, shape, "full", |_, out| {
            out.fill(value);
            Ok(())
        })
    }

    /// A scalar (rank 0).
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn scalar<T: Element>(value: T, device: &Device) -> Result<Array> {
        Array::full(value, &[], device)
    }

    /// An array of zeros (false for `bool`).
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn zeros(shape: &[usize], dtype: DType, device: &Device) -> Result<Array> {
        crate::with_dtype!(dtype, T, Array::full(T::default(), shape, device))
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape().len()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.layout.numel()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Shape, strides and offset.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.layout.is_contiguous()
    }

    fn with_layout(&self, layout: Layout) -> Array {
        Array { storage: self.storage.clone(), layout, dtype: self.dtype, device: self.device.clone() }
    }

    /// A view with the axes in the order `axes`.
    ///
    /// # Errors
    /// When `axes` is not a permutation.
    pub fn permute(&self, axes: &[usize]) -> Result<Array> {
        Ok(self.with_layout(self.layout.permute(axes)?))
    }

    /// A view with axes `a` and `b` exchanged.
    ///
    /// # Errors
    /// When an axis does not exist.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Array> {
        let mut axes: Vec<usize> = (0..self.rank()).collect();
        if a >= axes.len() || b >= axes.len() {
            return Err(Error::new(ErrorKind::Shape, "transpose", format!("axes {a} and {b} of {:?}", self.shape())));
        }
        axes.swap(a, b);
        self.permute(&axes)
    }

    /// A view of `start..end` along `axis`.
    ///
    /// # Errors
    /// When the range leaves the axis.
    pub fn slice(&self, axis: usize, start: usize, end: usize) -> Result<Array> {
        self.slice_step(axis, start, end, 1)
    }

    /// A view of every `step`-th element of `start..end` along `axis`.
    ///
    /// # Errors
    /// When the range leaves the axis or `step` is 0.
    pub fn slice_step(&self, axis: usize, start: usize, end: usize, step: usize) -> Result<Array> {
        Ok(self.with_layout(self.layout.slice(axis, start, end, step)?))
    }

    /// A view with `axis` reversed.
    ///
    /// # Errors
    /// When the axis does not exist.
    pub fn flip(&self, axis: usize) -> Result<Array> {
        Ok(self.with_layout(self.layout.flip(axis)?))
    }

    /// A view repeated along new leading axes and axes of length 1.
    ///
    /// # Errors
    /// When the shapes do not broadcast.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Array> {
        Ok(self.with_layout(self.layout.broadcast_to(shape)?))
    }

    /// The elements in row-major order under another shape; a view where possible, else a copy.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Array> {
        if element_count(shape)? != self.numel() {
            return Err(Error::new(ErrorKind::Shape, "reshape", format!("{:?} to {shape:?}", self.shape()))
                .expected(format!("{} elements", self.numel())));
        }
        match self.layout.reshape(shape) {
            Some(layout) => Ok(self.with_layout(layout)),
            None => self.contiguous()?.reshape(shape),
        }
    }

    /// This array if its elements already lie in row-major order without gaps, else a copy that does.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn contiguous(&self) -> Result<Array> {
        if self.is_contiguous() { Ok(self.clone()) } else { self.copy() }
    }

    /// A contiguous copy with storage of its own.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn copy(&self) -> Result<Array> {
        let _span = self.device.span("copy", || Work::moving(2 * self.numel() * self.dtype.size()));
        if let Device::Gpu(gpu) = &self.device {
            return gpu::copy::contiguous(gpu, self);
        }
        crate::with_dtype!(self.dtype, T, {
            let source = self.storage.as_ptr()?.cast::<T>();
            Array::build::<T>(&self.device, self.shape(), "copy", |_, out| {
                let mut at = 0;
                for_each_run(&self.layout, |base, stride, len| {
                    let run = &mut out[at..at + len];
                    at += len;
                    // SAFETY: a layout only visits elements inside its storage (`Layout` keeps that invariant), which
                    // holds elements of type T for this dtype.
                    unsafe {
                        let from = source.offset(base);
                        if stride == 1 {
                            run.copy_from_slice(std::slice::from_raw_parts(from, len));
                        } else {
                            for (i, value) in run.iter_mut().enumerate() {
                                *value = *from.offset(i as isize * stride);
                            }
                        }
                    }
                });
                Ok(())
            })
        })
    }

    /// The elements of a contiguous array on the CPU.
    ///
    /// # Errors
    /// When the element type is another or the array is not contiguous.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.expect_dtype::<T>()?;
        if !self.is_contiguous() {
            return Err(Error::new(
                ErrorKind::Shape,
                "as_slice",
                format!("shape {:?} with strides {:?}", self.shape(), self.layout.strides()),
            )
            .expected("a contiguous array")
            .hint("call contiguous() first"));
        }
        // SAFETY: the dtype matches T, and a contiguous layout spans `numel` elements from `offset` inside the storage.
        Ok(unsafe {
            std::slice::from_raw_parts(self.storage.as_ptr()?.cast::<T>().add(self.layout.offset()), self.numel())
        })
    }

    /// The elements of this array's storage from its first byte to at least the last element that the layout
    /// reaches, for loops that follow the layout themselves.
    ///
    /// # Errors
    /// When the element type is another.
    pub fn storage_slice<T: Element>(&self) -> Result<&[T]> {
        self.expect_dtype::<T>()?;
        let n = match T::DTYPE {
            // Behind the last element of an array of truth values may be bytes that are none.
            DType::Bool => self.layout.reach(),
            _ => self.storage.size() / size_of::<T>(),
        };
        // SAFETY: the block is initialised and at least `n` elements long. Every bit pattern is a valid numeric T; the
        // elements of a bool array up to the last one that a layout reaches were written as bool.
        Ok(unsafe { std::slice::from_raw_parts(self.storage.as_ptr()?.cast::<T>(), n) })
    }

    /// The elements for writing. Copies first when the storage is shared or not contiguous.
    ///
    /// # Errors
    /// When the element type is another, or `OutOfMemory`.
    pub fn make_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        self.expect_dtype::<T>()?;
        self.make_unique()?;
        let (offset, n) = (self.layout.offset(), self.layout.numel());
        let data = match &mut self.storage {
            Storage::Host(block) => Arc::get_mut(block).expect("made unique above").as_mut_ptr(),
            Storage::Gpu(block) => Arc::get_mut(block).expect("made unique above").host_mut()?.as_mut_ptr(),
        };
        // SAFETY: as in `as_slice`, and this is the only handle to the storage.
        Ok(unsafe { std::slice::from_raw_parts_mut(data.cast::<T>().add(offset), n) })
    }

    fn make_unique(&mut self) -> Result<()> {
        if !self.is_contiguous() || !self.storage.is_unique() {
            let owner = self.owner();
            *self = self.copy()?;
            self.assign(owner);
        }
        Ok(())
    }

    /// What its memory is for.
    pub fn owner(&self) -> Owner {
        match &self.storage {
            Storage::Host(block) => block.owner(),
            Storage::Gpu(block) => block.owner(),
        }
    }

    /// Says what its memory is for, that of all its views.
    pub fn assign(&self, owner: Owner) {
        match &self.storage {
            Storage::Host(block) => block.assign(owner),
            Storage::Gpu(block) => block.assign(owner),
        }
    }

    /// As [`Array::assign`], where the memory is the workspace's or nobody's; what has another owner stays.
    pub fn claim(&self, owner: Owner) {
        match &self.storage {
            Storage::Host(block) => block.claim(owner),
            Storage::Gpu(block) => {
                if matches!(block.owner(), Owner::Workspace | Owner::Other) {
                    block.assign(owner);
                }
            }
        }
    }

    /// Whether the host can read the elements without waiting for a device.
    pub(crate) fn is_on_host(&self) -> bool {
        match &self.storage {
            Storage::Host(_) => true,
            Storage::Gpu(block) => block.is_on_host(),
        }
    }

    /// The same elements for use on another device: a view where both share memory, else a copy.
    ///
    /// # Errors
    /// `OutOfMemory`, or when a device fails.
    pub fn to_device(&self, device: &Device) -> Result<Array> {
        match (&self.device, device) {
            (Device::Cpu(_), Device::Cpu(_)) => Ok(Array { device: device.clone(), ..self.clone() }),
            (from, to) if from.is(to) => Ok(self.clone()),
            _ => crate::with_dtype!(self.dtype, T, Array::from_slice(&self.to_vec::<T>()?, self.shape(), device)),
        }
    }

    /// Whether this is the only handle to its storage, so that writing needs no copy.
    pub fn is_unique(&mut self) -> bool {
        self.storage.is_unique()
    }

    /// Whether both are views of one storage.
    pub fn shares_storage(&self, other: &Array) -> bool {
        match (&self.storage, &other.storage) {
            (Storage::Host(a), Storage::Host(b)) => Arc::ptr_eq(a, b),
            (Storage::Gpu(a), Storage::Gpu(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Whether both are the same view of one storage.
    pub fn is_same_view(&self, other: &Array) -> bool {
        self.shares_storage(other) && self.layout == other.layout
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// When the element type is another.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.expect_dtype::<T>()?;
        Ok(self.contiguous()?.as_slice::<T>()?.to_vec())
    }

    /// The value of an array with one element.
    ///
    /// # Errors
    /// When there are more elements or the type is another.
    pub fn item<T: Element>(&self) -> Result<T> {
        match self.to_vec::<T>()?.as_slice() {
            [value] => Ok(*value),
            _ => Err(Error::new(ErrorKind::Shape, "item", format!("shape {:?}", self.shape())).expected("one element")),
        }
    }

    fn expect_dtype<T: Element>(&self) -> Result<()> {
        if self.dtype == T::DTYPE {
            return Ok(());
        }
        Err(Error::new(ErrorKind::DType, "array", format!("elements of type {}", self.dtype)).expected(T::DTYPE.name()))
    }

    /// The lengths of the axes, when there are exactly `N`.
    ///
    /// # Errors
    /// When the rank differs.
    pub fn dims<const N: usize>(&self) -> Result<[usize; N]> {
        self.shape().try_into().map_err(|_| {
            Error::new(ErrorKind::Shape, "dims", format!("shape {:?}", self.shape())).expected(format!("{N} axes"))
        })
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array {}{:?}", self.dtype, self.shape())?;
        let shown = crate::with_dtype!(
            self.dtype,
            T,
            self.to_vec::<T>().map(|v| {
                let head: Vec<String> = v.iter().take(8).map(|x| format!("{x:?}")).collect();
                format!(" [{}{}]", head.join(", "), if v.len() > 8 { ", …" } else { "" })
            })
        );
        f.write_str(&shown.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_share_and_copies_do_not() {
        let device = Device::cpu_with(1).unwrap();
        let a = Array::from_slice(&[1f32, 2., 3., 4., 5., 6.], &[2, 3], &device).unwrap();
        let t = a.transpose(0, 1).unwrap();
        assert!(t.shares_storage(&a));
        assert_eq!(t.to_vec::<f32>().unwrap(), [1., 4., 2., 5., 3., 6.]);
        let mut b = a.clone();
        b.make_mut::<f32>().unwrap()[0] = 9.;
        assert_eq!(a.to_vec::<f32>().unwrap()[0], 1.);
        assert_eq!(b.to_vec::<f32>().unwrap()[0], 9.);
    }

    #[test]
    fn bool_arrays_hold_valid_values() {
        let device = Device::cpu_with(1).unwrap();
        drop(Array::full(0xffu8, &[100], &device).unwrap());
        let flags = Array::zeros(&[100], DType::Bool, &device).unwrap();
        assert!(flags.to_vec::<bool>().unwrap().iter().all(|f| !f));
    }

    #[test]
    fn wrong_reads_are_errors() {
        let device = Device::cpu_with(1).unwrap();
        let a = Array::from_slice(&[1f32, 2.], &[2], &device).unwrap();
        assert_eq!(a.to_vec::<f64>().unwrap_err().kind(), ErrorKind::DType);
        assert_eq!(a.item::<f32>().unwrap_err().kind(), ErrorKind::Shape);
        assert!(Array::from_slice(&[1f32], &[2], &device).is_err());
    }
}
