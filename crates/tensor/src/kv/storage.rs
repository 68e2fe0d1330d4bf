use std::ops::Range;

use super::{KvError, KvLayout};
use crate::Device;

/// Keys and values of numbered slots, of every layer, in the memory of one device.
///
/// On the processor memory is taken from the system page by page, as it is first written.
#[derive(Debug)]
pub struct KvStorage {
    layout: KvLayout,
    slots: usize,
    sides: Sides,
}

/// Per layer, keys then values: `[slots, width]` elements each.
#[derive(Debug)]
enum Sides {
    Host(Vec<[Vec<u8>; 2]>),
    #[cfg(feature = "cuda")]
    Gpu(crate::device::cuda::Gpu, Vec<[crate::device::cuda::Buffer; 2]>, Users),
}

/// Whose graphs hold the memory.
#[cfg(feature = "cuda")]
#[derive(Debug)]
struct Users(std::sync::Arc<crate::ops::cuda::steps::Users>);

#[cfg(feature = "cuda")]
impl Drop for Users {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl KvStorage {
    /// Room for `slots` slots.
    ///
    /// # Errors
    /// Those of [`KvLayout::check`]; [`KvError::OutOfSpace`] where the bytes cannot be counted or the
    /// system does not give them; [`KvError::OutOfMemory`] and [`KvError::Device`] where a GPU does not.
    pub fn new(layout: KvLayout, slots: usize, device: Device) -> Result<Self, KvError> {
        layout.check()?;
        let none = || KvError::OutOfSpace { needed: slots, free: 0 };
        let side = slots.checked_mul(layout.slot_bytes()).ok_or_else(none)?;
        let all = side.checked_mul(2 * layout.layers).ok_or_else(none)?;
        let sides = match device {
            Device::Cpu => {
                // Zeroed memory is the system's to refuse, and a refusal would end the process: it is
                // asked for, whole, and given back first.
                Vec::<u8>::new().try_reserve_exact(all).map_err(|_| none())?;
                Sides::Host((0..layout.layers).map(|_| [vec![0; side], vec![0; side]]).collect())
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => {
                let refused = |e: String| KvError::Device { device, reason: e };
                let gpu = crate::device::cuda::gpu(ordinal).map_err(|e| refused(e.to_string()))?;
                let zeros = || gpu.filled(0, side);
                let layers = (0..layout.layers).map(|_| Ok([zeros()?, zeros()?]));
                let layers = layers.collect::<Result<Vec<_>, _>>().map_err(|e| match e {
                    cuda_kernels::Error::OutOfMemory { .. } => {
                        device.trim();
                        let free = device.available_memory().unwrap_or(0);
                        KvError::OutOfMemory { device, needed: all as u64, free }
                    }
                    other => refused(other.to_string()),
                })?;
                Sides::Gpu(gpu, layers, Users(crate::ops::cuda::steps::Users::new()))
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => {
                let reason = crate::device::unavailable(&device).to_string();
                return Err(KvError::Device { device, reason });
            }
        };
        Ok(Self { layout, slots, sides })
    }

    /// What it stores.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// How many slots it has.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Where it lies.
    pub fn device(&self) -> Device {
        match &self.sides {
            Sides::Host(_) => Device::Cpu,
            #[cfg(feature = "cuda")]
            Sides::Gpu(gpu, ..) => Device::Cuda(gpu.properties().ordinal),
        }
    }

    /// Keys and values of a layer, if they lie in this machine's memory.
    pub fn host(&self, layer: usize) -> Option<&[Vec<u8>; 2]> {
        match &self.sides {
            Sides::Host(layers) => layers.get(layer),
            #[cfg(feature = "cuda")]
            Sides::Gpu(..) => None,
        }
    }

    /// The same, for writing.
    pub fn host_mut(&mut self, layer: usize) -> Option<&mut [Vec<u8>; 2]> {
        match &mut self.sides {
            Sides::Host(layers) => layers.get_mut(layer),
            #[cfg(feature = "cuda")]
            Sides::Gpu(..) => None,
        }
    }

    /// Keys and values of a layer on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn buffers(&self, layer: usize) -> Option<&[crate::device::cuda::Buffer; 2]> {
        match &self.sides {
            Sides::Host(_) => None,
            Sides::Gpu(_, layers, _) => layers.get(layer),
        }
    }

    /// Whose graphs write to it, on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn users(&self) -> Option<&std::sync::Arc<crate::ops::cuda::steps::Users>> {
        match &self.sides {
            Sides::Host(_) => None,
            Sides::Gpu(_, _, users) => Some(&users.0),
        }
    }

    fn bytes(&self, slots: &Range<usize>) -> Range<usize> {
        let bytes = self.layout.slot_bytes();
        slots.start * bytes..slots.end * bytes
    }

    /// Copies slots to others of every layer. Slots of a GPU must not overlap.
    ///
    /// # Errors
    /// [`KvError::Device`].
    pub fn copy_within(&mut self, from: Range<usize>, to: usize) -> Result<(), KvError> {
        let target = self.bytes(&(to..to + from.len()));
        let source = self.bytes(&from);
        #[cfg(feature = "cuda")]
        let device = self.device();
        match &mut self.sides {
            Sides::Host(layers) => {
                for side in layers.iter_mut().flatten() {
                    side.copy_within(source.clone(), target.start);
                }
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Sides::Gpu(_, layers, _) => {
                let mut sides = layers.iter().flatten();
                let copied = sides.try_for_each(|side| {
                    side.slice(target.clone()).copy_from(&side.slice(source.clone()))
                });
                copied.map_err(|e| KvError::Device { device, reason: e.to_string() })
            }
        }
    }

    /// Copies slots to those from `to` on of a storage of the same layout, on any device.
    ///
    /// # Errors
    /// [`KvError::Device`].
    pub fn copy_to(&self, from: Range<usize>, other: &mut Self, to: usize) -> Result<(), KvError> {
        let target = self.bytes(&(to..to + from.len()));
        let source = self.bytes(&from);
        #[cfg(feature = "cuda")]
        let failed = {
            let device = if self.device() == Device::Cpu { other.device() } else { self.device() };
            move |e: cuda_kernels::Error| KvError::Device { device, reason: e.to_string() }
        };
        match (&self.sides, &mut other.sides) {
            (Sides::Host(from), Sides::Host(to)) => {
                for (from, to) in from.iter().flatten().zip(to.iter_mut().flatten()) {
                    to[target.clone()].copy_from_slice(&from[source.clone()]);
                }
            }
            #[cfg(feature = "cuda")]
            (Sides::Host(from), Sides::Gpu(_, to, _)) => {
                for (from, to) in from.iter().flatten().zip(to.iter().flatten()) {
                    to.slice(target.clone()).write(&from[source.clone()]).map_err(failed)?;
                }
            }
            #[cfg(feature = "cuda")]
            (Sides::Gpu(_, from, _), Sides::Host(to)) => {
                for (from, to) in from.iter().flatten().zip(to.iter_mut().flatten()) {
                    let bytes: Vec<u8> = from.slice(source.clone()).download().map_err(failed)?;
                    to[target.clone()].copy_from_slice(&bytes);
                }
            }
            #[cfg(feature = "cuda")]
            (Sides::Gpu(_, from, _), Sides::Gpu(_, to, _)) => {
                for (from, to) in from.iter().flatten().zip(to.iter().flatten()) {
                    to.slice(target.clone())
                        .copy_from(&from.slice(source.clone()))
                        .map_err(failed)?;
                }
            }
        }
        Ok(())
    }
}
