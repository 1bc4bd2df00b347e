//! What happened, in order: always as a digest, on request as text.

use std::fmt;

/// The trace of a run.
#[derive(Debug, Default)]
pub struct Story {
    digest: u64,
    events: u64,
    lines: Option<Vec<(u64, String)>>,
}

impl Story {
    /// A trace that also keeps the text, for a reader.
    pub fn told() -> Self {
        Self {
            lines: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// Adds to the digest. Equal digests mean equal runs.
    pub fn mark(&mut self, parts: &[u64]) {
        self.events += 1;
        for part in parts {
            self.digest = (self.digest ^ part)
                .wrapping_mul(0x0000_0100_0000_01B3)
                .rotate_left(23);
        }
    }

    /// Tells something at a time, when somebody listens.
    pub fn tell(&mut self, now_us: u64, text: fmt::Arguments<'_>) {
        if let Some(lines) = &mut self.lines {
            lines.push((now_us, text.to_string()));
        }
    }

    /// The digest of everything marked.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// How many events were marked.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The text, one line each with its time in seconds.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.iter().flatten();
        lines
            .map(|(at, text)| format!("{:>11.6}  {text}", *at as f64 / 1e6))
            .collect()
    }
}
