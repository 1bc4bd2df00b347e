//! End-to-end tests: real daemons in a lab, real containers, driven by the real docker CLI. They need root and `docker`
//! in the path; each test makes a lab of its own and checks that nothing of it is left.

mod build;
mod clients;
mod cluster;
mod crashes;
mod cut_links;
mod cut_streams;
mod daemons;
mod damaged_store;
mod files;
mod firewalls;
mod followers;
mod full_disk;
mod global;
mod hostile_containers;
mod hostile_images;
mod killed_store;
mod labs;
mod leaving;
mod log_drivers;
mod malformed_requests;
mod mesh;
mod networks;
mod node;
mod old_cli;
mod own_registry;
mod partitions;
mod registry;
mod remote;
mod rollouts;
mod run_options;
mod service_options;
mod services;
mod support;
mod user_namespaces;
mod volumes;
