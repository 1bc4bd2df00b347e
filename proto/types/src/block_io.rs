//! Limits of what a container reads from and writes to single block devices.

use serde::{Deserialize, Serialize};

/// Limits of single devices; an empty list means none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceLimits {
    /// Weights.
    pub weights: Vec<DeviceWeight>,
    /// Bytes read a second.
    pub read_bytes: Vec<DeviceRate>,
    /// Bytes written a second.
    pub write_bytes: Vec<DeviceRate>,
    /// Reads a second.
    pub reads: Vec<DeviceRate>,
    /// Writes a second.
    pub writes: Vec<DeviceRate>,
}

/// The weight of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWeight {
    /// The device's path on the host.
    pub path: String,
    /// 10 to 1000.
    pub weight: u16,
}

/// The rate of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRate {
    /// The device's path on the host.
    pub path: String,
    /// Bytes or operations a second.
    pub rate: u64,
}
