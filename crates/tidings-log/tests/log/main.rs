//! The log from outside: what it promises, under the faults that a disk can have.

mod backup;
mod backup_history;
mod durability;
mod epochs;
mod folder;
mod formats;
mod model;
mod purge;
mod reading;
mod recovery;
mod retention;
mod simulated;
mod state;
mod state_history;
mod support;
mod tenants;
