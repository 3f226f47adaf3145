//! The server.

pub mod auth;
pub mod config;
pub mod limits;
