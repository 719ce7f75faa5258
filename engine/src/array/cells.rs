//! An array's elements in the memory of its GPU device, as launches take them.

use super::{Array, Storage};
use crate::gpu::{GpuBlock, GpuDevice};
use crate::{Error, ErrorKind, Result};
use selfsame_kernels::launch::{Address, Slice, SliceMut};
use selfsame_kernels::simt;
use std::sync::Arc;

impl Array {
    fn gpu_block(&self) -> Result<&GpuBlock> {
        match &self.storage {
            Storage::Gpu(block) => Ok(block),
            Storage::Host(_) => Err(Error::new(ErrorKind::Device, "array", format!("{:?}", self.device))
                .expected("an array of a GPU device")),
        }
    }

    /// The elements of a contiguous array in the memory of its GPU device, as cells of the element type's size.
    pub(crate) fn cells<C: simt::Element>(&self) -> Result<Slice<'_, C>> {
        debug_assert!(self.is_contiguous() && size_of::<C>() == self.dtype.size());
        let offset = (self.layout.offset() * size_of::<C>()) as u64;
        Ok(Slice::at(self.gpu_block()?.address()?.offset(offset), self.numel()))
    }

    /// The cells from the layout's first element to the last that its strides, none negative, reach.
    pub(crate) fn reached_cells<C: simt::Element>(&self) -> Result<Slice<'_, C>> {
        debug_assert!(size_of::<C>() == self.dtype.size() && self.layout.strides().iter().all(|s| *s >= 0));
        let offset = self.layout.offset();
        let address = self.gpu_block()?.address()?.offset((offset * size_of::<C>()) as u64);
        Ok(Slice::at(address, self.layout.reach().saturating_sub(offset)))
    }

    /// The whole storage from its first cell on, for kernels that take strides of either sign.
    pub(crate) fn storage_cells<C: simt::Element>(&self) -> Result<Slice<'_, C>> {
        debug_assert!(size_of::<C>() == self.dtype.size());
        let block = self.gpu_block()?;
        Ok(Slice::at(block.address()?, block.size() / size_of::<C>()))
    }

    /// Writes the elements of contiguous `part` to those from `at` on.
    pub(crate) fn write_part(&mut self, gpu: &GpuDevice, at: usize, part: &Array) -> Result<()> {
        let bytes = part.numel() * part.dtype.size();
        let to = self.cells_mut_from(at)?;
        let from = part.gpu_block()?.address()?.offset((part.layout.offset() * part.dtype.size()) as u64);
        gpu.submit(|launcher| launcher.copy(from, to, bytes))
    }

    /// The elements in device memory for writing. Copies first when the storage is shared or not contiguous.
    pub(crate) fn cells_mut<C: simt::Element>(&mut self) -> Result<SliceMut<'_, C>> {
        debug_assert!(size_of::<C>() == self.dtype.size());
        let n = self.numel();
        Ok(SliceMut::at(self.cells_mut_from(0)?, n))
    }

    /// Where element `at` lies in device memory, for writing.
    fn cells_mut_from(&mut self, at: usize) -> Result<Address> {
        self.make_unique()?;
        let offset = ((self.layout.offset() + at) * self.dtype.size()) as u64;
        match &mut self.storage {
            Storage::Gpu(block) => Ok(Arc::get_mut(block).expect("made unique above").address_mut()?.offset(offset)),
            Storage::Host(_) => Err(Error::new(ErrorKind::Device, "array", format!("{:?}", self.device))
                .expected("an array of a GPU device")),
        }
    }
}
