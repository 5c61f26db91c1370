//! An input read as decisions: numbers, choices and byte strings, one after another, until it is used up.
//!
//! Every input means something and a changed byte changes one decision, so that a fuzzer's mutations stay close to what
//! they mutate. Numbers of an input that has ended are 0.

/// What is left of an input.
#[derive(Debug, Clone)]
pub(crate) struct Source<'a> {
    rest: &'a [u8],
}

impl<'a> Source<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *first
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        (u32::from(self.u16()) << 16) | u32::from(self.u16())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        (u64::from(self.u32()) << 32) | u64::from(self.u32())
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u8) -> u8 {
        self.u8() % bound
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// A place in a list of `len`, if it has any.
    pub(crate) fn index(&mut self, len: usize) -> Option<usize> {
        let drawn = usize::from(self.u8());
        (len > 0).then(|| drawn % len)
    }

    /// Small numbers mostly, and sometimes any.
    pub(crate) fn number(&mut self) -> u64 {
        match self.u8() {
            255 => self.u64(),
            254 => u64::from(self.u32()),
            253 => u64::MAX,
            small => u64::from(small),
        }
    }

    /// The same, cut to 32 bits.
    pub(crate) fn number_u32(&mut self) -> u32 {
        u32::try_from(self.number() & u64::from(u32::MAX)).expect("it was masked")
    }

    /// Up to 255 bytes behind their length.
    pub(crate) fn short(&mut self) -> &'a [u8] {
        let len = usize::from(self.u8());
        self.take(len)
    }

    /// Up to 65,535 bytes behind their length.
    pub(crate) fn long(&mut self) -> &'a [u8] {
        let len = usize::from(self.u16());
        self.take(len)
    }

    /// A text of up to 255 bytes; what is no UTF-8 is replaced.
    pub(crate) fn text(&mut self) -> String {
        String::from_utf8_lossy(self.short()).into_owned()
    }

    /// Bytes of a length up to 65,535 that need not be in the input.
    pub(crate) fn filler(&mut self) -> Vec<u8> {
        vec![self.u8(); usize::from(self.u16())]
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Changes `bytes` in up to 15 places: one altered, removed, put in, or all behind it cut off.
    pub(crate) fn edit(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.u8() % 16 {
            if bytes.is_empty() {
                return;
            }
            let at = usize::from(self.u16()) % bytes.len();
            match self.below(4) {
                0 => bytes[at] = self.u8(),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, self.u8()),
                _ => bytes.truncate(at),
            }
        }
    }
}

/// A generator for handshakes that always says the same, so that a finding can be repeated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fixed(pub(crate) u64);

impl whimbrel_protocol::Entropy for Fixed {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self
                .0
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            *byte = self.0.to_be_bytes()[0];
        }
    }
}
