//! The client against servers whose every byte the test writes.

mod requests;
mod stream;
mod support;
