//! Links between machines: cut, slow, lossy, repeating. Clients stand outside and reach every machine.

use crate::random::Dice;

/// Stands for the clients, which no fault touches.
pub const OUTSIDE: usize = usize::MAX;

/// How bad the links are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Shortest way.
    pub delay_us: u64,
    /// What may come on top.
    pub jitter_us: u64,
    /// Datagrams lost, in a thousand. Streams send again, which takes time.
    pub lost_permille: u64,
    /// Datagrams that arrive twice, in a thousand.
    pub repeated_permille: u64,
}

impl Weather {
    /// A quiet local network.
    pub const FAIR: Self = Self {
        delay_us: 150,
        jitter_us: 350,
        lost_permille: 0,
        repeated_permille: 0,
    };
}

/// The links.
#[derive(Debug)]
pub struct Network {
    /// Directions that are cut, as (from, to), with how many faults cut each.
    cut: Vec<Vec<u32>>,
    /// How bad it is now.
    pub weather: Weather,
    dice: Dice,
}

impl Network {
    /// All links of so many machines, in fair weather.
    pub fn new(machines: usize, dice: Dice) -> Self {
        Self {
            cut: vec![vec![0; machines]; machines],
            weather: Weather::FAIR,
            dice,
        }
    }

    /// Nothing gets from one machine to the other.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        from != OUTSIDE && to != OUTSIDE && from != to && self.cut[from][to] > 0
    }

    /// One more fault cuts this direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut[from][to] += 1;
    }

    /// One fault less cuts this direction.
    pub fn mend(&mut self, from: usize, to: usize) {
        self.cut[from][to] = self.cut[from][to].saturating_sub(1);
    }

    /// Every link is whole and quick.
    pub fn is_fair(&self) -> bool {
        self.weather == Weather::FAIR && self.cut.iter().flatten().all(|faults| *faults == 0)
    }

    /// Makes every link whole and quick.
    pub fn heal(&mut self) {
        self.cut.iter_mut().flatten().for_each(|faults| *faults = 0);
        self.weather = Weather::FAIR;
    }

    /// How long a message is on its way.
    pub fn delay_us(&mut self, from: usize, to: usize) -> u64 {
        if from == to {
            return 20;
        }
        let weather = self.weather;
        let ordinary = weather.delay_us + self.dice.below(weather.jitter_us + 1);
        // A few take far longer than the rest, as they do.
        if self.dice.permille(5) {
            ordinary * 10
        } else {
            ordinary
        }
    }

    /// A message of a stream that is lost is sent again after a while.
    pub fn stream_delay_us(&mut self, from: usize, to: usize) -> u64 {
        let mut delay = self.delay_us(from, to);
        while from != to && self.dice.permille(self.weather.lost_permille) {
            delay += 200_000;
        }
        delay
    }

    /// Delays of the copies of a datagram that arrive; none when it is lost.
    pub fn datagram_delays_us(&mut self, from: usize, to: usize) -> Vec<u64> {
        if self.is_cut(from, to) || self.dice.permille(self.weather.lost_permille) {
            return Vec::new();
        }
        let copies = 1 + u64::from(self.dice.permille(self.weather.repeated_permille));
        (0..copies).map(|_| self.delay_us(from, to)).collect()
    }
}
