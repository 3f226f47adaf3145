//! What the simulated devices are made of.

/// What a device of a kind is like.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) role: &'static str,
    pub(super) board: &'static str,
    pub(super) architecture: &'static str,
    pub(super) memory: u64,
    pub(super) disk: u64,
    pub(super) interfaces: &'static [&'static str],
    pub(super) wireless: bool,
}

pub(super) const MODELS: [Model; 4] = [
    Model {
        role: "core-router",
        board: "CCR2004-1G-12S+2XS",
        architecture: "arm64",
        memory: 4 << 30,
        disk: 128 << 20,
        interfaces: &["sfp-sfpplus1", "sfp-sfpplus2", "ether1"],
        wireless: false,
    },
    Model {
        role: "access-point",
        board: "cAPGi-5HaxD2HaxD",
        architecture: "arm64",
        memory: 1 << 30,
        disk: 128 << 20,
        interfaces: &["ether1", "wlan1"],
        wireless: true,
    },
    Model {
        role: "switch",
        board: "CRS328-24P-4S+",
        architecture: "arm",
        memory: 512 << 20,
        disk: 16 << 20,
        interfaces: &["ether1", "ether2", "sfp-sfpplus1"],
        wireless: false,
    },
    Model {
        role: "branch-router",
        board: "RB5009UG+S+",
        architecture: "arm64",
        memory: 1 << 30,
        disk: 1 << 30,
        interfaces: &["ether1", "ether2", "wlan1"],
        wireless: true,
    },
];

pub(super) const SITES: [&str; 8] = [
    "Oslo", "Lisbon", "Nairobi", "Osaka", "Quito", "Halifax", "Tartu", "Perth",
];

/// The versions that upgrades lead through; the last one is followed by itself.
pub(super) const VERSIONS: [&str; 4] = ["7.15.3", "7.16.2", "7.17", "7.18.1"];
