//! What happens while an image is put into the store.

/// What happened. Layers are counted from 0, the lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The image has so many layers.
    Layers {
        /// How many.
        count: usize,
    },
    /// The store has the layer already.
    Present {
        /// Which one.
        layer: usize,
    },
    /// Some of the layer's blob is there.
    Downloaded {
        /// Which one.
        layer: usize,
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The layer has become a disk image.
    Converted {
        /// Which one.
        layer: usize,
    },
}

/// Whoever wants to know. Called from several threads at once.
pub type Progress<'a> = &'a (dyn Fn(Event) + Sync);
