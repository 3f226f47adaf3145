//! What the fuzz targets share: a deployment to parse for, an input taken apart, a disk in memory.
//!
//! A target is a function from bytes to nothing that panics where a promise is broken, not only where
//! the parser itself does. What each promises stands at its head.

pub mod deployment;
pub mod disk;
pub mod input;
