//! The log from outside: what it promises, under the faults that a disk can have.

mod durability;
mod simulated;
mod support;
