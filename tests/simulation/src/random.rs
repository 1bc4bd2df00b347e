//! Everything random in a run comes from here, and so from its seed.

use muster_types::IdSource;

/// SplitMix64: a small source that gives the same numbers for the same seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// A source that repeats from its seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        let drawn = self.draw();
        if end == 0 { 0 } else { drawn % end }
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, chances: u64) -> bool {
        self.below(1000) < chances
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let at = self.below(of.len() as u64);
        of.get(usize::try_from(at).ok()?)
    }

    /// A source of its own, so that what it is used for does not shift the draws of others.
    pub fn fork(&mut self) -> Self {
        Self(self.draw())
    }
}

impl IdSource for Dice {
    fn next_u128(&mut self) -> u128 {
        (u128::from(self.draw()) << 64) | u128::from(self.draw())
    }
}
