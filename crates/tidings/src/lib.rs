//! The server, in the order in which data flows through it:
//!
//! - [`ingest`]: publishing; who, what, how much. Gives events to the log and answers when they are durable.
//! - the log: `tidings-log`, a crate of its own. Where several nodes share one, [`jetstream`] has the streams
//!   that it comes from, over [`nats`].
//! - [`fanout`]: gives each durable event its wire form once, keeps the newest, and holds the one rule of
//!   who sees what ([`fanout::View`]).
//! - [`engine`]: the threads that own the open streams.
//!
//! How streams come to the engine, and what else is asked over HTTP:
//!
//! - [`server`]: the parts put together, listeners, the end; [`connection`]: one accepted connection;
//!   [`edge`]: what stands in front of HTTP there, TLS and proxies.
//! - [`front`]: what answers a request; [`routes`]: the paths; [`stream`]: opening streams; [`history`]: pages of what is retained;
//!   [`state`]: how things are, and what ages; [`operate`]: operators' calls; [`cluster`]: what nodes tell each other; [`pages`] and [`openapi`]: what people read; [`admin`]: health, by a thread of its own, and [`readiness`].
//!
//! On top, through the public API alone: [`agent`], this machine as a device; [`demo`], a simulated fleet;
//! [`cli`], the commands; [`doctor`], which looks for what would trouble a server.
//!
//! To the side: [`config`], [`auth`], [`audit`], [`limits`], [`registry`], [`cors`], [`error`], [`time`], [`logging`], [`metrics`], [`traces`], [`shutdown`], [`descriptors`], [`supervisor`], [`reload`].

pub mod admin;
pub mod agent;
pub mod app;
pub mod audit;
pub mod auth;
pub mod broker;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod cors;
pub mod cursors;
pub mod demo;
pub mod descriptors;
pub mod doctor;
pub mod edge;
pub mod engine;
pub mod error;
pub mod fanout;
pub mod front;
pub mod history;
pub mod ingest;
pub mod jetstream;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod mirror;
pub mod nats;
pub mod openapi;
pub mod operate;
pub mod pages;
pub mod readiness;
pub mod registry;
pub mod reload;
pub mod routes;
pub mod server;
pub mod shutdown;
pub mod state;
pub mod stream;
pub mod supervisor;
pub mod time;
pub mod traces;
