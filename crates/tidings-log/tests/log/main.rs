//! The log from outside: what it promises, under the faults that a disk can have.

mod durability;
mod folder;
mod model;
mod reading;
mod recovery;
mod retention;
mod simulated;
mod state;
mod state_history;
mod support;
