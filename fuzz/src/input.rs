//! The fuzzer's bytes, read from the front: a change somewhere changes nothing
//! of what comes before it.

/// A cursor that never runs out: past the end everything is zero.
#[derive(Debug, Clone)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Input(data)
    }

    /// True when everything was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `n` bytes, or what is left.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n.min(self.0.len()));
        self.0 = tail;
        head
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let head = self.bytes(N);
        array[..head.len()].copy_from_slice(head);
        array
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two bytes, little-endian as the others.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A length: up to 191 as it is, above that one of those that matter.
    pub fn len(&mut self) -> u32 {
        match self.u8() {
            n @ 0..0xc0 => n.into(),
            0xc0 => 512,
            0xc1 => 513,
            0xc2 => 1024,
            0xc3 => 4096,
            0xc4 => 1 << 16,
            0xc5 => 65550 + 12,
            0xc6 => 65551 + 12,
            0xc7 => 1 << 20,
            0xc8 => 1 << 31,
            0xc9 => u32::MAX,
            0xca => u32::MAX - u32::from(self.u8()),
            0xcb => self.u32(),
            _ => self.u16().into(),
        }
    }
}
