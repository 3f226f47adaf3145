//! The life of the process and its limits: how it leaves, what it is told while it runs, and what it does when there
//! is too much of everything.

#[path = "lifecycle/drain.rs"]
mod drain;
#[path = "lifecycle/overload.rs"]
mod overload;
#[path = "lifecycle/reload.rs"]
mod reload;
#[path = "lifecycle/supervised.rs"]
mod supervised;
