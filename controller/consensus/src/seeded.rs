//! A small random source for everything that must repeat from a seed. Never for keys.

/// SplitMix64: good enough to keep candidates apart and to draw faults.
#[derive(Debug, Clone)]
pub(crate) struct SeededSource(u64);

impl SeededSource {
    pub(crate) fn new(seed: u64) -> SeededSource {
        SeededSource(seed)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which must not be 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }
}
